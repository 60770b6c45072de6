"""A line for a leaderboard of the Hub, only where the run has solved what that leaderboard ranks.

1. The Hub reads `.eval_results/*.yaml` for the benchmarks that are registered there, each with the id of its task.
2. A run does not prove where its problems came from. So the benchmark's test split is read again, and its questions,
   gold answers and verifiers must be those of the run, all of them.
3. The number is the accuracy of the model as it is, in percent: the first point without a budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import yaml

from efficient_reasoning.errors import BadInput, near
from efficient_reasoning.files import atomic_file, read_jsonl
from efficient_reasoning.problems import load_problems


class Benchmark(NamedTuple):
    """Where a registered benchmark lies, as `load_problems` reads it, and what the Hub calls its task."""

    source: str
    task_id: str


BENCHMARKS = {"openai/gsm8k": Benchmark("hub:openai/gsm8k?config=main", "gsm8k")}
_MORE_THAN_ANY = 1_000_000


def check_benchmark(benchmark: str, run: Path, summary: Mapping) -> None:
    """Refuse a run that is not one of all problems of the benchmark, or that has no point without a budget.

    Raises:
        BadInput: also for an unregistered benchmark, and for one that cannot be read.
    """
    if benchmark not in BENCHMARKS:
        raise BadInput(f"--benchmark {benchmark}: not among those registered{near(benchmark, BENCHMARKS)}")
    _point_without_budget(run, summary)
    problems = load_problems(BENCHMARKS[benchmark].source, "test", _MORE_THAN_ANY)
    wanted, solved = _contents(problems), _contents(read_jsonl(run / "samples.jsonl"))
    if wanted != solved:
        raise BadInput(
            f"{run}: {len(wanted & solved):,} of the {len(wanted):,} problems of {benchmark} are among its "
            f"{len(solved):,}; a leaderboard takes them all and no others, so evaluate {BENCHMARKS[benchmark].source} "
            "whole, or leave --benchmark out."
        )


def write_benchmark(benchmark: str, run: Path, summary: Mapping, folder: Path) -> None:
    """Write the result of a run that `check_benchmark` has let pass into the folder's `.eval_results`."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    point, config = _point_without_budget(run, summary), summary["config"]
    entry = EvalResultEntry(
        dataset_id=benchmark,
        task_id=BENCHMARKS[benchmark].task_id,
        value=round(100 * point["accuracy"]["mean"], 2),
        notes=(
            f"{point['strategy']}, no budget, at most {config['max_new_tokens']} new tokens; mean of "
            f"{config['samples_per_problem']} samples at temperature {config['temperature']}, top-p {config['top_p']},"
            f" top-k {config['top_k']}; {point['total_tokens']['mean']:,.1f} tokens a problem"
        ),
    )
    with atomic_file(folder / ".eval_results" / f"{benchmark.rpartition('/')[2]}.yaml") as stream:
        yaml.safe_dump(eval_result_entries_to_yaml([entry]), stream, sort_keys=False)


def _point_without_budget(run: Path, summary: Mapping) -> Mapping:
    for point in summary["points"]:
        if point["budget_tokens"] is None:
            return point
    raise BadInput(f"{run}: has no point without a budget, which --benchmark takes; add `none` to its --budgets.")


def _contents(problems) -> set[tuple[str, str, str]]:
    return {(problem["question"], problem["answer"], problem["task"]) for problem in problems}
