"""From samples to numbers: `samples.jsonl` in, `summary.json` and the curve out.

1. One entry a point, a point being a strategy with a budget. Accuracy is avg@k: the share of correct samples.
2. Every mean that a claim may rest on has an interval, clustered by problem; p50 and p95 stand beside the means of
   lengths, because overthinking lives in the tail.
3. All coefficients are in the file: sampling, seeds, and those of the bootstrap.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from efficient_reasoning.errors import BadInput
from efficient_reasoning.evaluation.curve import draw_curve
from efficient_reasoning.evaluation.statistics import LEVEL, RESAMPLES, bootstrap
from efficient_reasoning.files import atomic_file, write_json

_LENGTHS = ("thinking_tokens", "answer_tokens", "total_tokens")
_FLAGS = ("correct", "truncated", "forced_close", "empty_answer")


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
        # Texts and ids stay on the disk; the numbers of a million samples fit into memory.
        numbers = {key: sample[key] for key in ("id", "spend", *_LENGTHS, *_FLAGS)}
        difficulty, family = sample.get("difficulty"), (sample.get("metadata") or {}).get("family")
        # Thrown-away probes and EOS included; the response alone is `total_tokens`.
        numbers["spent_tokens"] = sample["spend"]["decoded_tokens"] + sample["spend"]["forced_tokens"]
        # The thinking was closed by force, and what should have been the answer went on until it was cut off.
        numbers["kept_reasoning"] = sample["forced_close"] and sample["truncated"]
        numbers["within_budget"] = (
            sample["budget_tokens"] is None or numbers["spent_tokens"] <= sample["budget_tokens"]
        )
        # A file's rows may hold anything under these names; groups are sorted, so they must be of one kind.
        numbers["difficulty"] = difficulty if type(difficulty) in (int, float) else None
        numbers["task"] = family if isinstance(family, str) else sample["task"]
        by_point.setdefault((sample["strategy"], sample["budget_tokens"]), []).append(numbers)
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


def _point(strategy: str, budget_tokens: int | None, samples: list[dict]) -> dict:
    quantiles = {
        name: dict(
            zip(("p50", "p95"), np.quantile([sample[name] for sample in samples], [0.5, 0.95]).tolist(), strict=True)
        )
        for name in _LENGTHS
    }
    return {
        "strategy": strategy,
        "budget_tokens": budget_tokens,
        "n": len(samples),
        "n_problems": len({sample["id"] for sample in samples}),
        "accuracy": _interval(samples, "correct", share=True),
        **{name: _interval(samples, name) | quantiles[name] for name in _LENGTHS},
        "spent_tokens": _interval(samples, "spent_tokens"),
        "truncated_share": _mean(sample["truncated"] for sample in samples),
        "forced_close_share": _mean(sample["forced_close"] for sample in samples),
        "kept_reasoning_share": _mean(sample["kept_reasoning"] for sample in samples),
        "empty_answer_share": _mean(sample["empty_answer"] for sample in samples),
        "within_budget_share": _mean(sample["within_budget"] for sample in samples),
        "decoded_tokens": sum(sample["spend"]["decoded_tokens"] for sample in samples),
        "masked_tokens": sum(sample["spend"]["masked_tokens"] for sample in samples),
        "seconds": sum(sample["spend"]["seconds"] for sample in samples),
        "by_task": _groups(samples, "task", [sample["task"] for sample in samples]),
        "by_difficulty": _groups(samples, "difficulty", [sample["difficulty"] for sample in samples]),
    }


def _interval(samples: list[dict], name: str, share: bool = False) -> dict:
    problems = [sample["id"] for sample in samples]
    return dataclasses.asdict(bootstrap([sample[name] for sample in samples], problems, share=share))


def _mean(values: Iterable[bool]) -> float:
    return float(np.mean(list(values)))


def _groups(samples: list[dict], name: str, keys: list) -> list[dict]:
    """Accuracy and total tokens of the samples of each key; samples without one belong to no group."""
    groups: dict = {}
    for sample, key in zip(samples, keys, strict=True):
        if key is not None:
            groups.setdefault(key, []).append(sample)
    return [
        {
            name: key,
            "n": len(groups[key]),
            "n_problems": len({sample["id"] for sample in groups[key]}),
            "accuracy": _interval(groups[key], "correct", share=True),
            "total_tokens": _interval(groups[key], "total_tokens"),
        }
        for key in sorted(groups)
    ]


def write_summary(folder: Path, summary: dict) -> None:
    """Write summary.json, curve.csv and curve.png, each whole or not at all."""
    write_csv(folder / "curve.csv", summary["points"])
    name = summary["config"]["model"]
    draw_curve({name: summary}, folder / "curve.png", title=f"{name}: accuracy against thinking spent")
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
        BadInput: no such run, or one that was cut off.
    """
    path = Path(folder) / "summary.json"
    if not path.is_file():
        reason = "the run was cut off, repeat its command to finish it" if path.parent.is_dir() else "check the path"
        raise BadInput(f"{folder}: no summary.json there; {reason}.")
    return json.loads(path.read_text(encoding="utf-8"))
