"""Which checkpoint is better, on the same problems? One table, one picture.

1. The first run is the baseline. Every other run is compared with it at the same (strategy, budget), problem by
   problem and with the same draws, so that what is hard for both cancels.
2. Tokens are compared as a ratio of sums: total tokens of the run / total tokens of the baseline - 1.
3. "No loss" has a definition: the lower bound of the paired accuracy change is at least -1 point. The marks: `+`
   significantly better, `-` significantly worse, `=` no loss, `?` the problems are too few to say.
4. The *removable share* puts a cut into proportion: (baseline - run) / (baseline - floor), where the floor is the mean
   length of the shortest chains (`floor_tokens`). 1 means that all overthinking is gone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from efficient_reasoning.errors import BadInput
from efficient_reasoning.evaluation.curve import draw_curve
from efficient_reasoning.evaluation.statistics import Interval, paired_bootstrap, paired_ratio
from efficient_reasoning.evaluation.summary import read_summary, write_csv
from efficient_reasoning.files import atomic_file, read_jsonl, write_json
from efficient_reasoning.traces import budget_label

NO_LOSS_POINTS = -1.0
_LEGEND = "+ better, - worse, = no loss (lower bound >= -1 point), ? too few problems to say"
_HEADER = (
    "run",
    "strategy",
    "budget",
    "accuracy [95 %]",
    "tokens",
    "tokens change",
    "accuracy change [95 %]",
    "removable",
)
_EOS_TOKENS = 1  # decoded for every response, and part of none
_SAMPLING = ("samples_per_problem", "temperature", "top_p", "top_k", "max_new_tokens", "seed")


@dataclass(frozen=True)
class Row:
    """One point of one run beside the baseline's.

    What is compared is None in the baseline's own rows, and where the baseline has no such point.

    Attributes:
        run: label of the run.
        strategy, budget_tokens: the point.
        accuracy, total_tokens: of the run itself.
        accuracy_change: run - baseline, as a share (0.01 is one point).
        tokens_change: run / baseline - 1.
        mark: of the accuracy change, see the module.
        removable_share: None also without `floor_tokens`, or where the baseline is at its floor.
    """

    run: str
    strategy: str
    budget_tokens: int | None
    accuracy: Interval
    total_tokens: Interval
    accuracy_change: Interval | None = None
    tokens_change: Interval | None = None
    mark: str = ""
    removable_share: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Rows in the order of the runs, the baseline first, and remarks on what makes runs hard to compare."""

    rows: list[Row]
    remarks: list[str]

    def table(self) -> str:
        """Aligned plain text."""
        lines = [_HEADER, *map(_cells, self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [_align(line, widths) for line in lines]
        text.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([*text, "", _LEGEND, *self.remarks]) + "\n"

    def __str__(self) -> str:
        return self.table()

    def markdown(self) -> str:
        """The same table for a README."""
        lines = [_HEADER, ("---",) * 3 + ("---:",) * (len(_HEADER) - 3), *map(_cells, self.rows)]
        table = [f"| {' | '.join(line)} |" for line in lines]
        return "\n".join([*table, "", *(f"{line}  " for line in (_LEGEND, *self.remarks))]) + "\n"


def compare(runs: Sequence[str | Path], out: str | Path | None = None) -> Comparison:
    """Compare finished evaluation runs with the first of them.

    Args:
        runs: run folders; labels are their names (with as many parents as it takes to tell them apart).
        out: a folder for compare.json, compare.csv, table.md and curve.png; None writes nothing.

    Raises:
        BadInput: fewer than one run, an unfinished one, or runs over different problems.
    """
    if not runs:
        raise BadInput("There are no runs to compare; name at least one run folder.")
    folders = [Path(run) for run in runs]
    labels = _labels(folders)
    summaries = {label: read_summary(folder) for label, folder in zip(labels, folders, strict=True)}
    baseline_points: dict[tuple, _Point] = {}
    rows, baseline_problems = [], {}
    for label, folder in zip(labels, folders, strict=True):
        problems, points = _read_points(folder)
        if label == labels[0]:
            baseline_problems, baseline_points = problems, points
        _check_same_problems(folders[0], baseline_problems, folder, problems)
        for point in summaries[label]["points"]:
            key = (point["strategy"], point["budget_tokens"])
            baseline = None if label == labels[0] else baseline_points.get(key)
            rows.append(_row(label, point, points[key], baseline))
    comparison = Comparison(rows, _remarks(summaries))
    if out is not None:
        _write(comparison, summaries, Path(out))
    return comparison


@dataclass(frozen=True)
class _Point:
    """Means a problem, all in the order of `problems`."""

    problems: list[str]
    correct: np.ndarray
    total_tokens: np.ndarray
    floor_tokens: np.ndarray | None


def _read_points(folder: Path) -> tuple[dict[str, tuple], dict[tuple, _Point]]:
    """What each problem of a run is, and its points."""
    problems: dict[str, tuple] = {}
    floors: dict[str, int] = {}
    samples: dict[tuple, dict[str, list[tuple]]] = {}
    for sample in read_jsonl(folder / "samples.jsonl"):
        name = sample["id"]
        problems[name] = (sample["question"], sample.get("answer"), sample["task"])
        if sample["floor_tokens"] is not None:
            floors[name] = sample["floor_tokens"]
        of_point = samples.setdefault((sample["strategy"], sample["budget_tokens"]), {})
        of_point.setdefault(name, []).append((sample["correct"], sample["total_tokens"]))
    names = sorted(problems)
    floor = np.array([floors[name] for name in names]) if len(floors) == len(names) else None
    points = {}
    for key, of_point in samples.items():
        if len(of_point) < len(names):
            continue  # of an extension that was cut off; the summary does not have it either
        # Every problem has as many samples as the next, so the mean of the problems' means is that of the samples.
        means = np.array([np.mean(of_point[name], axis=0) for name in names])  # (C, 2)
        points[key] = _Point(names, means[:, 0], means[:, 1], floor)
    return problems, points


def _check_same_problems(baseline: Path, expected: dict[str, tuple], folder: Path, problems: dict[str, tuple]) -> None:
    for missing, here, there in (
        (expected.keys() - problems.keys(), baseline, folder),
        (problems.keys() - expected.keys(), folder, baseline),
    ):
        if missing:
            raise BadInput(
                f"{folder}: not the problems of {baseline} ({len(missing):,} of {here} are not in {there}, "
                f"such as {min(missing)}); evaluate both on the same task, split, number and seed."
            )
    changed = sorted(name for name in expected if expected[name] != problems[name])
    if changed:
        raise BadInput(
            f"{folder}: problem {changed[0]} has another question, answer or task than in {baseline} "
            f"({len(changed):,} problems differ); evaluate both on the same problems."
        )


def _row(label: str, point: dict, own: _Point, baseline: _Point | None) -> Row:
    row = Row(
        run=label,
        strategy=point["strategy"],
        budget_tokens=point["budget_tokens"],
        accuracy=_interval(point["accuracy"]),
        total_tokens=_interval(point["total_tokens"]),
    )
    if baseline is None:
        return row
    accuracy_change = paired_bootstrap(baseline.correct, own.correct, own.problems, share=True)
    return dataclasses.replace(
        row,
        accuracy_change=accuracy_change,
        tokens_change=paired_ratio(baseline.total_tokens, own.total_tokens, own.problems),
        mark=_mark(accuracy_change),
        removable_share=_removable_share(baseline, own),
    )


def _mark(change: Interval) -> str:
    # Bounds are multiples of one problem and often lie on a limit: rounded, so that 1e-17 decides nothing.
    low, high = round(100 * change.low, 9), round(100 * change.high, 9)
    if low > 0:
        return "+"
    if high < 0:
        return "-"
    return "=" if low >= NO_LOSS_POINTS else "?"


def _removable_share(baseline: _Point, own: _Point) -> float | None:
    if baseline.floor_tokens is None:
        return None
    removable = float(np.sum(baseline.total_tokens - baseline.floor_tokens))
    return float(np.sum(baseline.total_tokens - own.total_tokens)) / removable if removable > 0 else None


def _interval(entry: dict) -> Interval:
    return Interval(entry["mean"], entry["low"], entry["high"])


def _labels(folders: list[Path]) -> list[str]:
    """The shortest endings of the paths that differ."""
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise BadInput("A run is named twice; name each run folder once.")
    length = 1
    while len({path[-length:] for path in parts}) < len(parts):
        length += 1
    return ["/".join(path[-length:]) for path in parts]


def _remarks(summaries: dict[str, dict]) -> list[str]:
    """Settings in which the runs differ, and points that cost more than their responses show."""
    configs = [summary["config"] for summary in summaries.values()]
    differing = [key for key in _SAMPLING if len({config[key] for config in configs}) > 1]
    remarks = [
        f"Note: the runs differ in {key} ({', '.join(str(config[key]) for config in configs)})." for key in differing
    ]
    for label, summary in summaries.items():
        for point in summary["points"]:
            spent_tokens = point["spent_tokens"]["mean"]
            if round(spent_tokens - point["total_tokens"]["mean"], 6) > _EOS_TOKENS:
                remarks.append(
                    f"Note: {label}, {point['strategy']}, {budget_label(point['budget_tokens'])}: {spent_tokens:,.1f} "
                    "tokens were spent a problem, those thrown away included."
                )
    return remarks


def _cells(row: Row) -> tuple[str, ...]:
    change = tokens = removable = ""
    if row.accuracy_change is not None and row.tokens_change is not None:
        mean, low, high = (f"{100 * value:+.1f}" for value in dataclasses.astuple(row.accuracy_change))
        change = f"{mean} [{low}, {high}] {row.mark}"
        tokens = f"{100 * row.tokens_change.mean:+.1f} %"
    if row.removable_share is not None:
        removable = f"{100 * row.removable_share:.0f} %"
    mean, low, high = (f"{100 * value:.1f}" for value in dataclasses.astuple(row.accuracy))
    accuracy = f"{mean} % [{low}, {high}]"
    length = f"{row.total_tokens.mean:,.1f}"
    return row.run, row.strategy, budget_label(row.budget_tokens), accuracy, length, tokens, change, removable


def _align(line: Sequence[str], widths: Sequence[int]) -> str:
    left = "  ".join(cell.ljust(width) for cell, width in zip(line[:3], widths, strict=False))
    right = "  ".join(cell.rjust(width) for cell, width in zip(line[3:], widths[3:], strict=True))
    return f"{left}  {right}".rstrip()


def _write(comparison: Comparison, summaries: dict[str, dict], out: Path) -> None:
    rows = [dataclasses.asdict(row) for row in comparison.rows]
    write_csv(out / "compare.csv", rows)
    with atomic_file(out / "table.md") as stream:
        stream.write(comparison.markdown())
    draw_curve(summaries, out / "curve.png", title="Accuracy against thinking spent")
    write_json(out / "compare.json", {"rows": rows, "legend": _LEGEND, "remarks": comparison.remarks})
