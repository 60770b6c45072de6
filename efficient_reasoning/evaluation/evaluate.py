"""Run a model over problems and write what it did: an evaluation run is a folder.

1. A *point* is a strategy with a budget. Every point solves every problem `samples_per_problem` times, in large
   chunks, because the engine is fastest when it is full.
2. A sample's seed follows from (seed, problem id, sample index) alone: every checkpoint, strategy and budget meets the
   same problem with the same luck, which is what makes paired comparisons sharp.
3. `samples.jsonl` grows by whole chunks that are on the disk before the next one starts. The same command again skips
   what is there; a line torn by a kill is dropped and solved anew. Numbers are made from that file alone
   (`summary.py`), so nothing depends on how often a run was cut.
4. A run belongs to one configuration: another one in the same folder is refused, never mixed in.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from efficient_reasoning import answers, inference
from efficient_reasoning.errors import BadInput
from efficient_reasoning.evaluation.environment import environment
from efficient_reasoning.evaluation.summary import budget_label, summarise, write_summary
from efficient_reasoning.files import atomic_file, read_jsonl, write_json

if TYPE_CHECKING:
    from efficient_reasoning.checkpoint import ReasoningMetadata
    from efficient_reasoning.inference import Reasoner, Solution

CHUNK_REQUESTS = 512


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
        problems: with distinct ids. `metadata.family` groups them in the summary (else `task` does), and
            `metadata.floor_tokens` is the length of the shortest chain, for the removable share of `compare`.
        strategies: names that `get_strategy` knows.
        budgets: `budget_tokens` of each point; None is unlimited (up to `max_new_tokens`).
        samples_per_problem: k of accuracy's avg@k.
        temperature, top_p, top_k, max_new_tokens: of sampling; temperature 0 is greedy.
        seed: from which every sample's seed follows.
        out: the run folder.

    Returns:
        `out`, with samples.jsonl, summary.json, curve.csv, curve.png, config.yaml and environment.json.

    Raises:
        BadInput: nothing to do, a budget below one token, ids that repeat, or another configuration in `out`.
    """
    _check_request(problems, strategies, budgets, samples_per_problem)
    out = Path(out)
    config = {
        "model": Path(reasoner.name).name if Path(reasoner.name).is_absolute() else reasoner.name,
        "strategies": list(strategies),
        "budgets": list(budgets),
        "samples_per_problem": samples_per_problem,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "num_problems": len(problems),
        "problems_fingerprint": _fingerprint(problems),
        "training": training_of(reasoner.metadata),
    }
    _claim(out, config)
    write_json(out / "environment.json", environment())
    _solve_pending(reasoner, problems, config, out / "samples.jsonl")
    write_summary(out, summarise(read_jsonl(out / "samples.jsonl"), config))
    return out


def training_of(metadata: ReasoningMetadata | None) -> dict | None:
    """What tells a checkpoint from another of the same name; None for a model that this toolkit did not make."""
    names = ("method", "stage", "data_fingerprint", "seed")
    return None if metadata is None else {name: getattr(metadata, name) for name in names}


def sample_seed(seed: int, problem_id: str, sample_index: int) -> int:
    """The seed of one sample: 31 bits that depend on nothing but the arguments."""
    digest = hashlib.blake2b(f"{seed}/{sample_index}/{problem_id}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


def _check_request(
    problems: Sequence[Mapping], strategies: Sequence[str], budgets: Sequence[int | None], samples_per_problem: int
) -> None:
    for name, values in (("problems", problems), ("strategies", strategies), ("budgets", budgets)):
        if not values:
            raise BadInput(f"There are no {name} to evaluate; give at least one.")
    for name in strategies:
        inference.get_strategy(name)
    for budget in budgets:
        if budget is not None and budget < 1:
            raise BadInput(f"budget_tokens is {budget}; give at least 1, or none for no limit.")
    if samples_per_problem < 1:
        raise BadInput(f"samples_per_problem is {samples_per_problem}; give at least 1.")
    seen: set[str] = set()
    for problem in problems:
        if problem["id"] in seen:
            raise BadInput(
                f"Problem id {problem['id']!r} occurs twice; samples are told apart by it, so make ids unique."
            )
        seen.add(problem["id"])


def _fingerprint(problems: Sequence[Mapping]) -> str:
    rows = sorted(
        json.dumps([problem.get(key) for key in ("id", "question", "answer", "task")]) for problem in problems
    )
    return hashlib.blake2b("\n".join(rows).encode(), digest_size=8).hexdigest()


def _claim(out: Path, config: dict) -> None:
    """Make `out` the folder of this configuration, or refuse."""
    path = out / "config.yaml"
    if path.is_file():
        earlier = yaml.safe_load(path.read_text(encoding="utf-8"))
        differing = sorted(key for key in config.keys() | earlier.keys() if config.get(key) != earlier.get(key))
        if differing:
            raise BadInput(f"{out}: holds a run that differs in {', '.join(differing)}; choose another folder.")
    elif out.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise BadInput(f"{out}: holds files but no config.yaml, so it is no evaluation run; choose another folder.")
    else:
        with atomic_file(path) as stream:
            stream.write("# The same command with the same settings resumes this run.\n")
            yaml.safe_dump(config, stream, sort_keys=False)


def _solve_pending(reasoner: Reasoner, problems: Sequence[Mapping], config: dict, path: Path) -> None:
    from tqdm import tqdm

    done = _finished(path)
    points = [(strategy, budget) for strategy in config["strategies"] for budget in config["budgets"]]
    samples = [(problem, index) for problem in problems for index in range(config["samples_per_problem"])]
    with (
        open(path, "a", encoding="utf-8") as stream,
        tqdm(total=len(points) * len(samples), initial=len(done), unit="sample", smoothing=0.1) as bar,
    ):
        for strategy, budget in points:
            bar.set_description(f"{config['model']}: {strategy}, {budget_label(budget)}")
            pending = [sample for sample in samples if (strategy, budget, sample[0]["id"], sample[1]) not in done]
            for start in range(0, len(pending), CHUNK_REQUESTS):
                chunk = pending[start : start + CHUNK_REQUESTS]
                finished = bar.n + len(chunk)
                rows = _solve_chunk(reasoner, chunk, strategy, budget, config, bar.update)
                stream.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
                stream.flush()
                os.fsync(stream.fileno())
                # A strategy may call the engine several times a problem, or report nothing.
                bar.update(finished - bar.n)


def _finished(path: Path) -> set[tuple[str, int | None, str, int]]:
    """Keys of the samples on the disk, after cutting off a line that a kill has torn."""
    if not path.is_file():
        return set()
    with open(path, "rb+") as stream:
        stream.truncate(sum(len(line) for line in stream if line.endswith(b"\n")))
    return {(row["strategy"], row["budget_tokens"], row["id"], row["sample_index"]) for row in read_jsonl(path)}


def _solve_chunk(
    reasoner: Reasoner,
    chunk: Sequence[tuple[Mapping, int]],
    strategy: str,
    budget_tokens: int | None,
    config: dict,
    progress: Callable[[int], object],
) -> list[dict]:
    """Lines of samples.jsonl for a chunk of (problem, sample index), in its order."""
    problems = [problem for problem, _ in chunk]
    seeds = [sample_seed(config["seed"], problem["id"], index) for problem, index in chunk]
    solutions = inference.solve_many(
        reasoner,
        [problem["question"] for problem in problems],
        strategy=strategy,
        budget_tokens=budget_tokens,
        seeds=seeds,
        temperature=config["temperature"],
        top_p=config["top_p"],
        top_k=config["top_k"],
        max_new_tokens=config["max_new_tokens"],
        progress=progress,
    )
    verdicts = answers.verify_many(problems, [solution.answer for solution in solutions])
    return [
        _sample(problem, solution)
        | {"strategy": strategy, "budget_tokens": budget_tokens, "sample_index": index, "seed": seed}
        | {"correct": bool(correct)}
        for (problem, index), seed, solution, correct in zip(chunk, seeds, solutions, verdicts, strict=True)
    ]


def _sample(problem: Mapping, solution: Solution) -> dict:
    """The problem and what came back, named as in a trace."""
    extra = problem.get("metadata") or {}
    return {
        **{key: problem[key] for key in ("id", "question", "answer", "task", "difficulty") if key in problem},
        **{key: extra[key] for key in ("family", "floor_tokens") if key in extra},
        "thinking": solution.thinking,
        "final_answer": solution.answer,
        "completion_ids": list(solution.completion_ids),
        "thinking_tokens": solution.thinking_tokens,
        "answer_tokens": solution.answer_tokens,
        "total_tokens": solution.total_tokens,
        "truncated": solution.truncated,
        "forced_close": solution.forced_close,
        "empty_answer": not solution.answer.strip(),
        "spend": solution.spend.as_dict(),
    }
