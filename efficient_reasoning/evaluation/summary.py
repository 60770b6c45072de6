"""From samples to numbers: `samples.jsonl` in, `summary.json` and the curve out.

1. One entry a point, a point being a strategy with a budget. Accuracy is avg@k: the share of correct samples.
2. The headline is `generated_tokens`: all that was decoded or forced for a problem, probes and attempts that were
   thrown away included. The end token of a response, which is part of no length, is left out, so that for a strategy
   of one response it is the `total_tokens` of that response. Latents and pauses count, as thinking and in the total.
3. Every mean that a claim may rest on has an interval, clustered by problem; p50 and p95 stand beside the means of
   lengths, because overthinking lives in the tail.
4. All coefficients are in the file: sampling, seeds, and those of the bootstrap.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from efficient_reasoning.answers import extract_answer
from efficient_reasoning.errors import BadInput
from efficient_reasoning.evaluation.coverage import coverage, fit_power_law
from efficient_reasoning.evaluation.curve import draw_curve
from efficient_reasoning.evaluation.metrics import majority, pass_at_k
from efficient_reasoning.evaluation.pictures import draw_coverage
from efficient_reasoning.evaluation.statistics import LEVEL, RESAMPLES, bootstrap_columns
from efficient_reasoning.files import atomic_file, write_json
from efficient_reasoning.overthinking import kept_share
from efficient_reasoning.traces import FORMAT, shown_tokens

_LENGTHS = ("thinking_tokens", "answer_tokens", "total_tokens", "generated_tokens")
_UNCOUNTED, _NO_VOTE = ("unit_tests", "judge"), False  # no two programs or texts are alike
_EFFICIENCIES = ("outcome_efficiency", "underthinking")
_FLAGS = ("correct", "truncated", "forced_close", "empty_answer", "loops")


def summarise(samples: Iterable[dict], config: dict) -> dict:
    """Numbers of a run.

    Args:
        samples: all lines of samples.jsonl.
        config: the run's config.yaml, which names the points and goes into the summary whole.

    Returns:
        `{"config", "statistics", "points"}`; lengths in tokens, shares in [0, 1], intervals as
        `{"mean", "low", "high"}`.
    """
    by_point: dict[tuple, list[dict]] = {}
    for sample in samples:
        by_point.setdefault((sample["strategy"], sample["budget_tokens"]), []).append(_numbers(sample))
    points = [(strategy, budget) for strategy in config["strategies"] for budget in config["budgets"]]
    return {
        "config": config,
        "statistics": {
            "method": "percentile bootstrap; exact binomial bound where a share is 0 or 1",
            "clustered_by": "problem",
            "resamples": RESAMPLES,
            "level": LEVEL,
            "seed": 0,
        },
        "points": [_point(strategy, budget, by_point[strategy, budget]) for strategy, budget in points],
    }


def generated_tokens(sample: Mapping) -> int:
    """All tokens of a sample's problem but the end token of its response."""
    spend = sample["spend"]
    return spend["decoded_tokens"] + spend["forced_tokens"] - (not sample["truncated"])


def _numbers(sample: dict) -> dict:
    """What counts of a sample; texts and ids stay on the disk, so that a million of them fit into memory."""
    spend, budget_tokens = sample["spend"], sample["budget_tokens"]
    spent_tokens = spend["decoded_tokens"] + spend["forced_tokens"]
    metadata = sample.get("metadata") or {}
    difficulty, family = sample.get("difficulty"), metadata.get("family")
    return {
        "id": sample["id"],
        **{name: sample[name] for name in ("answer_tokens", *_FLAGS)},
        **{name: shown_tokens(sample, name) for name in ("thinking_tokens", "total_tokens")},
        "generated_tokens": generated_tokens(sample),
        "spent_tokens": spent_tokens,
        "flops": spend["flops"],
        "seconds": spend["seconds"],
        "decoded_tokens": spend["decoded_tokens"],
        "masked_tokens": spend["masked_tokens"],
        "core_iterations": spend.get("core_iterations", 0),  # older samples do not name them
        "peak_memory_bytes": spend["peak_memory_bytes"],
        # The thinking was closed by force, and what should have been the answer went on until it was cut off.
        "kept_reasoning": sample["forced_close"] and sample["truncated"],
        "overshoot_tokens": 0 if budget_tokens is None else max(0, spent_tokens - budget_tokens),
        "vote": _vote(sample),
        "outcome_efficiency": kept_share(sample) if sample["correct"] else math.nan,
        "underthinking": math.nan if sample["correct"] else 1 - kept_share(sample),
        # A file's rows may hold anything under these names; groups are sorted, so they must be of one kind.
        "difficulty": difficulty if type(difficulty) in (int, float) else None,
        "task": family if isinstance(family, str) else sample["task"],
    }


def _point(strategy: str, budget_tokens: int | None, samples: list[dict]) -> dict:
    problems = [sample["id"] for sample in samples]
    names = ("correct", *_LENGTHS, "spent_tokens", "flops", "loops", *_EFFICIENCIES)
    columns = {name: [sample[name] for sample in samples] for name in names}
    intervals = {
        name: dataclasses.asdict(interval)
        for name, interval in bootstrap_columns(columns, problems, shares=("correct", "loops")).items()
    }
    for name in _LENGTHS:
        intervals[name] |= _quantiles(columns[name])
    seconds = [sample["seconds"] for sample in samples]
    overshoot = [sample["overshoot_tokens"] for sample in samples]
    solved = {"accuracy": intervals["correct"], **_votes(samples)}
    return {
        "strategy": strategy,
        "budget_tokens": budget_tokens,
        "n": len(samples),
        "n_problems": len(set(problems)),
        **solved,
        **_coverage_fit(solved),
        **{name: intervals[name] for name in (*_LENGTHS, "spent_tokens")},
        "flops": intervals["flops"],
        # A problem's share of its batch: what a thousand of them cost, not how long one waits.
        "seconds_per_problem": {"mean": float(np.mean(seconds)), **_quantiles(seconds)},
        "peak_memory_bytes": max(sample["peak_memory_bytes"] for sample in samples),
        # None where no response is correct, or none is wrong.
        **{name: intervals[name] if intervals[name]["mean"] >= 0 else None for name in _EFFICIENCIES},
        "loop_share": intervals["loops"],
        "truncated_share": _mean(sample["truncated"] for sample in samples),
        "forced_close_share": _mean(sample["forced_close"] for sample in samples),
        "kept_reasoning_share": _mean(sample["kept_reasoning"] for sample in samples),
        "empty_answer_share": _mean(sample["empty_answer"] for sample in samples),
        "within_budget_share": _mean(tokens == 0 for tokens in overshoot),
        "overshoot_tokens": {"mean": float(np.mean(overshoot)), "max": max(overshoot)},
        "decoded_tokens": sum(sample["decoded_tokens"] for sample in samples),
        "masked_tokens": sum(sample["masked_tokens"] for sample in samples),
        "core_iterations": sum(sample["core_iterations"] for sample in samples),
        "seconds": sum(seconds),
        "by_task": _groups(samples, "task"),
        "by_difficulty": _groups(samples, "difficulty"),
    }


def _vote(sample: Mapping) -> bool | str | None:
    """What a sample votes for: all that is correct is one answer, however it is spelled; None where it has none."""
    if sample["task"] in _UNCOUNTED:
        return _NO_VOTE
    answer = extract_answer(sample["task"], sample["final_answer"])
    return True if answer is not None and sample["correct"] else answer


def _votes(samples: list[dict]) -> dict:
    """pass@k for k = 2, 4, ... and all samples of a problem, and what their majority says; nothing of one sample."""
    by_problem: dict[str, list[dict]] = {}
    for sample in samples:
        by_problem.setdefault(sample["id"], []).append(sample)
    most = min(map(len, by_problem.values()))
    if most == 1:
        return {}
    counts = [(len(own), sum(one["correct"] for one in own)) for own in by_problem.values()]
    columns = {
        f"pass_at_{k}": [pass_at_k(n, correct, k) for n, correct in counts]
        for k in sorted({*(2**power for power in range(1, most.bit_length())), most})
    }
    if not any(one["vote"] == _NO_VOTE for one in samples):
        columns["majority"] = [
            majority([one["vote"] for one in own], [one["correct"] for one in own]) for own in by_problem.values()
        ]
    intervals = bootstrap_columns(columns, list(by_problem), shares=columns)
    return {name: dataclasses.asdict(interval) for name, interval in intervals.items()}


def _coverage_fit(solved: Mapping) -> dict:
    """The power law of coverage over k; nothing where there is nothing to fit."""
    fit = fit_power_law({k: share["mean"] for k, share in coverage(solved).items()})
    return {"coverage_fit": dataclasses.asdict(fit)} if fit else {}


def _quantiles(values: Sequence[float]) -> dict:
    return dict(zip(("p50", "p95"), np.quantile(values, [0.5, 0.95]).tolist(), strict=True))


def _mean(values: Iterable[bool]) -> float:
    return float(np.mean(list(values)))


def _groups(samples: list[dict], name: str) -> list[dict]:
    """Accuracy and tokens of the samples of each task or difficulty; samples without one belong to no group."""
    groups: dict = {}
    for sample in samples:
        if sample[name] is not None:
            groups.setdefault(sample[name], []).append(sample)
    return [{name: key, **_group(groups[key])} for key in sorted(groups)]


def _group(samples: list[dict]) -> dict:
    columns = {key: [sample[key] for sample in samples] for key in ("correct", "total_tokens", "generated_tokens")}
    problems = [sample["id"] for sample in samples]
    intervals = bootstrap_columns(columns, problems, shares=("correct",))
    accuracy, *lengths = (dataclasses.asdict(interval) for interval in intervals.values())
    return {
        "n": len(samples),
        "n_problems": len(set(problems)),
        "accuracy": accuracy,
        **dict(zip(("total_tokens", "generated_tokens"), lengths, strict=True)),
    }


def write_summary(folder: Path, summary: dict) -> None:
    """Write summary.json, curve.csv, curve.png and, of several samples a problem, coverage.png.

    Each is written whole or not at all.
    """
    write_csv(folder / "curve.csv", summary["points"])
    name = summary["config"]["model"]
    draw_curve({name: summary}, folder / "curve.png", title=f"{name}: accuracy against thinking spent")
    draw_coverage({name: summary}, folder / "coverage.png", title=f"{name}: solved by one of k samples")
    write_json(folder / "summary.json", summary)


def write_csv(path: Path, points: Sequence[dict]) -> None:
    """One line a point: an interval takes the columns name, name_low and name_high; lists stay in the JSON file.

    Cells are empty where a number is not there, such as the budget of an unlimited point.
    """
    rows = []
    for point in points:
        row = {}
        for key, value in point.items():
            if isinstance(value, dict):
                row |= {key if part == "mean" else f"{key}_{part}": number for part, number in value.items()}
            elif not isinstance(value, list):
                row[key] = value
        rows.append(row)
    with atomic_file(path) as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_summary(folder: str | Path) -> dict:
    """Read a finished run's summary.

    Raises:
        BadInput: no such run, one that was cut off, one of another version, or a summary that is none.
    """
    path = Path(folder) / "summary.json"
    if not path.is_file():
        reason = "name a folder that evaluate wrote" if path.parent.is_dir() else "check the path"
        if (path.parent / "config.yaml").is_file():
            reason = "the run was cut off, repeat its command to finish it"
        raise BadInput(f"{folder}: no summary.json there; {reason}.")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        format_of_run = summary["config"].get("format")
    except (ValueError, LookupError, TypeError, AttributeError):
        raise BadInput(f"{path}: no summary of a run; repeat the command of the run, which makes it anew.") from None
    if format_of_run != FORMAT:
        raise BadInput(f"{folder}: holds a run of another version of this toolkit; evaluate again into a new folder.")
    return summary
