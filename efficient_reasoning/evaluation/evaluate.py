"""Run a model over problems and write what it did: an evaluation run is a folder.

1. `samples.jsonl` holds the traces, made and resumed by `traces.py`: the same command again skips what is there.
2. Numbers are made from that file alone (`summary.py`), so nothing depends on how often a run was cut.
3. A run belongs to one configuration, and its folder to nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from efficient_reasoning.contamination import contamination
from efficient_reasoning.errors import BadInput
from efficient_reasoning.evaluation.environment import environment
from efficient_reasoning.evaluation.off_target import load_suite, run_off_target
from efficient_reasoning.evaluation.summary import summarise, write_summary
from efficient_reasoning.files import read_jsonl, write_json
from efficient_reasoning.traces import sample_traces

if TYPE_CHECKING:
    from efficient_reasoning.inference import Reasoner

_SAMPLING = ("temperature", "top_p", "top_k", "max_new_tokens")


def evaluate(
    reasoner: Reasoner,
    problems: Sequence[Mapping],
    *,
    strategies: Sequence[str] = ("budget-forcing",),
    budgets: Sequence[int | None] = (None,),
    samples_per_problem: int = 1,
    temperature: float = 0.6,
    top_p: float = 0.95,
    top_k: int = 20,
    max_new_tokens: int = 512,
    seed: int = 0,
    out: str | Path,
) -> Path:
    """Measure accuracy and tokens at every (strategy, budget); resume what an earlier call left unfinished.

    Args:
        reasoner: from `load_reasoner`.
        problems: with distinct ids. `metadata.family` groups them in the summary (else `task` does). Those of the
            built-in families know their shortest chain, for the removable share of `compare`; others may bring its
            length as `metadata.floor_tokens`.
        strategies: names that `get_strategy` knows.
        budgets: `budget_tokens` of each point; None is unlimited (up to `max_new_tokens`).
        samples_per_problem: k of accuracy's avg@k.
        temperature, top_p, top_k, max_new_tokens: of sampling; temperature 0 is greedy.
        seed: from which every sample's seed follows.
        out: the run folder.

    Returns:
        `out`, with samples.jsonl, summary.json, curve.csv, curve.png, config.yaml, environment.json and, of several
        samples a problem, coverage.png.

    Raises:
        BadInput: nothing to do, a budget below one token, ids that repeat, or another configuration in `out`.
    """
    out = Path(out)
    config_path = out / "config.yaml"
    if not config_path.is_file() and out.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise BadInput(f"{out}: holds files but no config.yaml, so it is no evaluation run; choose another out.")
    config = sample_traces(
        reasoner,
        problems,
        strategies=strategies,
        budgets=budgets,
        samples_per_problem=samples_per_problem,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        max_new_tokens=max_new_tokens,
        seed=seed,
        path=out / "samples.jsonl",
        config_path=config_path,
    )
    write_json(out / "environment.json", environment())
    summary = summarise(read_jsonl(out / "samples.jsonl"), config)
    # How long the responses were that it learnt from, beside those that it gives.
    summary["trained_tokens"] = reasoner.metadata.trained_tokens if reasoner.metadata else None
    summary["contamination"] = contamination(reasoner.location, problems)
    write_summary(out, summary)
    return out


def evaluate_model(
    model: str,
    tasks: Sequence[str],
    *,
    num_problems: int = 500,
    backend: str = "auto",
    backend_options: Mapping | None = None,
    adapter_scale: float | None = None,
    off_target: Sequence[str] | None = None,
    seed: int = 0,
    out: str | Path,
    **settings,
) -> Path:
    """`evaluate` from names: load the model and the test problems, and run the do-no-harm checks if they are wanted.

    Args:
        model, backend, adapter_scale: as in `load_reasoner`, whose further options are `backend_options`.
        tasks: as in `load_tasks`, `num_problems` of each.
        off_target: None leaves the checks out; a list runs the shipped ones and those in its files (`load_suite`).
        seed, out: as in `evaluate`, whose other `settings` go on; those of sampling also to the checks.
    """
    from efficient_reasoning.inference import load_reasoner
    from efficient_reasoning.problems import load_tasks

    problems = load_tasks(tasks, "test", num_problems, seed)
    suite = None if off_target is None else load_suite(off_target)
    reasoner = load_reasoner(model, backend, adapter_scale=adapter_scale, **(backend_options or {}))
    folder = evaluate(reasoner, problems, seed=seed, out=out, **settings)
    if suite is not None:
        sampling = {name: settings[name] for name in _SAMPLING if name in settings}
        run_off_target(reasoner, suite, folder, seed=seed, **sampling)
    return folder
