"""Do no harm: what compression costs where nobody looked.

1. A *check* is a file of a few dozen problems off the target: other languages, tool calls, several turns, questions
   that cannot be answered, no thinking at all, other tasks. The shipped ones lie in `assets/off_target`; any file of
   problems with gold answers can stand beside them.
2. Every check is sampled without a budget, once a problem, into `off_target/CHECK.jsonl` of a run folder, and resumed
   like any other traces. The numbers are in `off_target.json`:

       {"model", "weights", "backend", "sampling": {"temperature", "top_p", "top_k", "max_new_tokens", "seed"},
        "checks": {CHECK: {"strategy", "problems_fingerprint", "n", "accuracy", "total_tokens", "truncated_share"}}}

   with intervals as `{"mean", "low", "high"}`. A check that the model cannot take, because its prompts are too long
   for it or its engine lacks something, has only `{"not_checked": REASON}`.
3. Two runs are compared check by check with the intervals and marks of `compare`. So few problems show harm that is
   great; they prove that there is none only all together, if at all.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from efficient_reasoning import answers, inference
from efficient_reasoning.checkpoint import ASSETS
from efficient_reasoning.errors import BadInput
from efficient_reasoning.evaluation.statistics import Interval, bootstrap, mark_of, paired_bootstrap, paired_ratio
from efficient_reasoning.files import read_jsonl, write_json
from efficient_reasoning.problems import load_problems
from efficient_reasoning.prompts import conversation
from efficient_reasoning.traces import read_config, sample_traces, shown_tokens

if TYPE_CHECKING:
    from efficient_reasoning.inference import Reasoner

CHECKS = ("languages", "tool_calls", "multi_turn", "abstention", "no_thinking", "other_tasks")
TOGETHER = "all"
NOT_CHECKED = "not checked"
FILE_NAME = "off_target.json"
MOST_PROBLEMS = 50  # of one check
MOSTLY = 0.5  # of the problems: where fewer get a token, changes of tokens are not told
_STRATEGIES = {"no_thinking": "no-thinking"}  # others think as they like


@dataclass(frozen=True)
class OffTargetChange:
    """One check of one run beside the baseline's; what is compared is None where either was not checked.

    Attributes:
        check: its name, or "all" for those compared together.
        mark: `+ - = ?` as in `compare`, or "not checked".
        n: problems.
        baseline_accuracy, accuracy: of both runs.
        accuracy_change: run - baseline, as a share.
        tokens_change: run / baseline - 1, of total tokens; None also where the baseline mostly says nothing.
        reason: why it was not checked, or why the mark says little.
    """

    check: str
    mark: str = NOT_CHECKED
    n: int | None = None
    baseline_accuracy: float | None = None
    accuracy: float | None = None
    accuracy_change: Interval | None = None
    tokens_change: Interval | None = None
    reason: str = ""


def load_suite(files: Sequence[str] = ()) -> dict[str, list[dict]]:
    """The problems of the shipped checks and of one's own, by the names of the checks.

    Args:
        files: own checks, named after their files: paths, with a mapping where need be, as behind `file:`. The first
            50 problems of each are taken.

    Raises:
        BadInput: a file that is no file of problems with gold answers, or a name that is taken.
    """
    sources = {check: str(ASSETS / "off_target" / f"{check}.jsonl") for check in CHECKS}
    for file in files:
        name = Path(file.partition("?")[0]).stem
        if name in (*sources, TOGETHER):
            raise BadInput(f"{file}: there is a check {name!r} already; rename the file.")
        sources[name] = file
    suite = {check: load_problems(f"file:{file}", num_problems=MOST_PROBLEMS) for check, file in sources.items()}
    for problems in suite.values():
        answers.check_problems(problems)
    return suite


def run_off_target(
    reasoner: Reasoner,
    suite: Mapping[str, Sequence[Mapping]],
    out: str | Path,
    *,
    temperature: float = 0.6,
    top_p: float = 0.95,
    top_k: int = 20,
    max_new_tokens: int = 512,
    seed: int = 0,
) -> dict:
    """Run the checks of a suite; resume what an earlier call left unfinished.

    Args:
        reasoner: from `load_reasoner`.
        suite: from `load_suite`.
        out: the run folder, of the same weights if it holds a run.
        temperature, top_p, top_k, max_new_tokens, seed: of sampling.

    Returns:
        What stands in `off_target.json`.

    Raises:
        BadInput: a folder that holds another run, or the same checks with other settings.
    """
    out = Path(out)
    _check_same_weights(reasoner, out)
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    settings = {**sampling, "max_new_tokens": max_new_tokens, "seed": seed}
    checks = {}
    for check, problems in suite.items():
        strategy = _STRATEGIES.get(check, "budget-forcing")
        try:
            for problem in problems:
                asked, drawn = conversation(problem), inference.Sampling(**sampling)
                inference.check_request(reasoner, asked, strategy, None, max_new_tokens, drawn)
        except BadInput as error:
            checks[check] = {"not_checked": str(error)}
            continue
        path = _path(out, check)
        config = sample_traces(
            reasoner,
            problems,
            strategies=[strategy],
            budgets=[None],
            samples_per_problem=1,
            **settings,
            path=path,
            config_path=path.with_suffix(".config.yaml"),
        )
        checks[check] = _numbers(path, strategy, config)
    made_with = {"model": reasoner.name, "weights": reasoner.weights, "backend": reasoner.backend}
    # Own checks of an earlier command stay.
    earlier = _read(out)
    if {name: earlier.get(name) for name in made_with} == made_with and earlier["sampling"] == settings:
        checks |= {check: numbers for check, numbers in earlier["checks"].items() if check not in checks}
    result = {**made_with, "sampling": settings, "checks": checks}
    write_json(out / FILE_NAME, result)
    return result


def compare_off_target(baseline: str | Path, run: str | Path) -> list[OffTargetChange]:
    """What became of every check that either run has, in the order of the suite, and of those in both together.

    Args:
        baseline, run: run folders; one without `off_target.json` is not checked.
    """
    baseline, run = Path(baseline), Path(run)
    before, after = _read(baseline), _read(run)
    shared = [check for check in before["checks"] if check in after["checks"]]
    names = dict.fromkeys((*CHECKS, *before["checks"], *after["checks"]))
    reasons = {check: _why_not(check, before, after) for check in names}
    differing = [key for key in before["sampling"] if before["sampling"][key] != after["sampling"].get(key)]
    note = f"the runs differ in {', '.join(differing)}" if shared and differing else ""
    compared = {check: _pairs(_path(baseline, check), _path(run, check)) for check in names if reasons[check] is None}
    changes = [
        _change(check, compared[check], note) if check in compared else OffTargetChange(check, reason=reasons[check])
        for check in names
    ]
    if len(compared) > 1:
        changes.append(_change(TOGETHER, np.concatenate(list(compared.values())), note))
    return changes


def _path(out: Path, check: str) -> Path:
    return out / "off_target" / f"{check}.jsonl"


def _check_same_weights(reasoner: Reasoner, out: Path) -> None:
    config = out / "config.yaml"
    if config.is_file() and read_config(config).get("weights") != reasoner.weights:
        raise BadInput(f"{out}: holds a run of other weights than those of {reasoner.name}; choose another out.")


def _numbers(path: Path, strategy: str, config: Mapping) -> dict:
    rows = list(read_jsonl(path))
    names = [row["id"] for row in rows]
    accuracy = bootstrap([row["correct"] for row in rows], names, share=True)
    return {
        "strategy": strategy,
        "problems_fingerprint": config["problems_fingerprint"],
        "n": len(rows),
        "accuracy": dataclasses.asdict(accuracy),
        "total_tokens": dataclasses.asdict(bootstrap([shown_tokens(row) for row in rows], names)),
        "truncated_share": float(np.mean([row["truncated"] for row in rows])),
    }


def _read(folder: Path) -> dict:
    path = folder / FILE_NAME
    if not path.is_file():
        return {"sampling": {}, "checks": {}}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path}: not valid JSON ({error}); remove it and repeat `evaluate --off-target`.") from None


def _why_not(check: str, before: Mapping, after: Mapping) -> str | None:
    """Why the check cannot be compared; None where it can."""
    of_baseline, of_run = before["checks"].get(check), after["checks"].get(check)
    for name, entry in (("the baseline", of_baseline), ("the run", of_run)):
        if entry is None:
            return f"{name} has no such check"
        if "not_checked" in entry:
            return entry["not_checked"]
    if of_baseline["problems_fingerprint"] != of_run["problems_fingerprint"]:
        return "the runs have other problems under this name"
    return None


def _pairs(baseline: Path, run: Path) -> np.ndarray:
    """Correct before and after, total tokens before and after: (N, 4), a row a problem."""
    before, after = (
        {row["id"]: (row["correct"], shown_tokens(row)) for row in read_jsonl(path)} for path in (baseline, run)
    )
    return np.array([(before[name][0], after[name][0], before[name][1], after[name][1]) for name in before], float)


def _change(check: str, pairs: np.ndarray, note: str) -> OffTargetChange:
    correct_before, correct, tokens_before, tokens = pairs.T
    problems = range(len(pairs))
    # Else some resample of a model that hardly says a word might have no tokens to divide by.
    speaks = np.mean(tokens_before > 0) >= MOSTLY
    if not correct_before.any():
        note = "; ".join(filter(None, (note, "the baseline solves none of them, so nothing can be lost")))
    change = paired_bootstrap(correct_before, correct, problems, share=True)
    return OffTargetChange(
        check,
        mark_of(change),
        len(pairs),
        float(correct_before.mean()),
        float(correct.mean()),
        change,
        paired_ratio(tokens_before, tokens, problems) if speaks else None,
        note,
    )
