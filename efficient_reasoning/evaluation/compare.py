"""Which checkpoint is better, on the same problems? One table, one picture, and who dominates whom.

1. The first run is the baseline. Every other run is compared with it at the same (strategy, budget), problem by
   problem and with the same draws, so that what is hard for both cancels.
2. Tokens are all that were generated for a problem (`summary.generated_tokens`), compared as a ratio of sums: those of
   the run / those of the baseline - 1.
3. "No loss" has a definition: the lower bound of the paired accuracy change is at least -1 point. The marks: `+`
   significantly better, `-` significantly worse, `=` no loss, `?` the problems are too few to say.
4. The *removable share* puts a cut into proportion: (baseline - run) / (baseline - floor), where the floor is the mean
   length of the shortest chains (`floor_tokens`). 1 means that all overthinking is gone.
5. A point that another one beats in tokens and accuracy names it. Whole runs are compared by the fronts of their
   points (`curves`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from efficient_reasoning.errors import BadInput
from efficient_reasoning.evaluation.curve import draw_curve
from efficient_reasoning.evaluation.curves import Curve, compare_curves
from efficient_reasoning.evaluation.metrics import accuracy_efficiency_score, dominates
from efficient_reasoning.evaluation.off_target import MOSTLY, NOT_CHECKED, OffTargetChange, compare_off_target
from efficient_reasoning.evaluation.pictures import draw_budgets, draw_coverage, draw_difficulty, draw_lengths
from efficient_reasoning.evaluation.statistics import Interval, mark_of, paired_bootstrap, paired_ratio
from efficient_reasoning.evaluation.summary import generated_tokens, read_summary, write_csv
from efficient_reasoning.files import atomic_file, read_jsonl, write_json
from efficient_reasoning.traces import budget_label

_LEGEND = (
    "+ better, - worse, = no loss (lower bound >= -1 point), ? too few problems to say; dominated in both means. AES: "
    "share of tokens saved + 3 x share of accuracy gained or - 5 x lost (arXiv 2501.12570; as published, losses add). "
    "Removable: share that is gone of the tokens above the shortest known solutions. Area: mean accuracy over log "
    "tokens. No loss: the baseline's best accuracy less 1 point; inf: some resamples never reach it."
)
_HEADER = (
    "run",
    "strategy",
    "budget",
    "accuracy [95 %]",
    "tokens",
    "tokens change",
    "accuracy change [95 %]",
    "removable",
    "AES (as published)",
    "dominated by",
)
_OFF_TARGET_HEADER = (
    "run",
    "off target",
    "problems",
    "baseline",
    "accuracy",
    "change [95 %]",
    "tokens change",
    "note",
)
_CURVE_HEADER = ("run", "area [95 %]", "area change [95 %]", "tokens at no loss [95 %]", "tokens change")
_SAMPLING = ("samples_per_problem", "temperature", "top_p", "top_k", "max_new_tokens", "seed")


@dataclass(frozen=True)
class Row:
    """One point of one run beside the baseline's.

    What is compared is None in the baseline's own rows, and where the baseline has no such point; the change of tokens
    also where the baseline mostly says nothing.

    Attributes:
        run: label of the run.
        strategy, budget_tokens: the point.
        accuracy, generated_tokens: of the run itself.
        accuracy_change: run - baseline, as a share (0.01 is one point).
        tokens_change: run / baseline - 1.
        mark: of the accuracy change, see the module.
        removable_share: None also without `floor_tokens`, or where the baseline is at its floor.
        aes, aes_as_published: accuracy-efficiency score (`metrics`), and its published form.
        dominated_by: the point of any run that beats this one, the most accurate of several; None on the front.
    """

    run: str
    strategy: str
    budget_tokens: int | None
    accuracy: Interval
    generated_tokens: Interval
    accuracy_change: Interval | None = None
    tokens_change: Interval | None = None
    mark: str = ""
    removable_share: float | None = None
    aes: float | None = None
    aes_as_published: float | None = None
    dominated_by: str | None = None

    @property
    def name(self) -> str:
        return f"{self.run}, {self.strategy}, {budget_label(self.budget_tokens)}"


@dataclass(frozen=True)
class Comparison:
    """What was compared.

    Attributes:
        rows: points in the order of the runs, the baseline first.
        curves: whole runs, in the same order; none of a single run.
        off_target: the do-no-harm checks of each run beside the baseline's; none of a single run.
        remarks: on what makes runs hard to compare.
    """

    rows: list[Row]
    curves: list[Curve]
    off_target: dict[str, list[OffTargetChange]]
    remarks: list[str]

    def table(self) -> str:
        """Aligned plain text."""
        tables = [_align(lines, left) for lines, left in self._tables()]
        return "\n\n".join([*tables, "\n".join([_LEGEND, *self.remarks])]) + "\n"

    def __str__(self) -> str:
        return self.table()

    def markdown(self) -> str:
        """The same tables for a README."""
        tables = [_markdown(lines, left) for lines, left in self._tables()]
        return "\n\n".join([*tables, "\n".join(f"{line}  " for line in (_LEGEND, *self.remarks))]) + "\n"

    def _tables(self) -> Iterator[tuple[list[tuple[str, ...]], int]]:
        """Lines of cells, and how many columns are text."""
        yield [_HEADER, *map(_cells, self.rows)], 3
        if self.curves:
            yield [_CURVE_HEADER, *map(_curve_cells, self.curves)], 1
        checks = [(run, change) for run, changes in self.off_target.items() for change in changes]
        if any(change.mark != NOT_CHECKED for _, change in checks):
            yield [_OFF_TARGET_HEADER, *(_off_target_cells(*check) for check in checks)], 2


def compare(runs: Sequence[str | Path], out: str | Path | None = None) -> Comparison:
    """Compare finished evaluation runs with the first of them.

    Args:
        runs: run folders; labels are their names (with as many parents as it takes to tell them apart).
        out: a folder for compare.json, compare.csv, table.md and the pictures, as .png and .pdf; None writes nothing.

    Raises:
        BadInput: fewer than one run, an unfinished one, or runs over different problems.
    """
    if not runs:
        raise BadInput("There are no runs to compare; name at least one run folder.")
    folders = [Path(run) for run in runs]
    labels = _labels(folders)
    summaries = {label: read_summary(folder) for label, folder in zip(labels, folders, strict=True)}
    points: dict[str, dict[tuple, _Point]] = {}
    rows, baseline_problems = [], {}
    for label, folder in zip(labels, folders, strict=True):
        measured = [(point["strategy"], point["budget_tokens"]) for point in summaries[label]["points"]]
        problems, points[label] = _read_points(folder, measured)
        if label == labels[0]:
            baseline_problems = problems
        _check_same_problems(folders[0], baseline_problems, folder, problems)
        for point in summaries[label]["points"]:
            key = (point["strategy"], point["budget_tokens"])
            baseline = None if label == labels[0] else points[labels[0]].get(key)
            rows.append(_row(label, point, points[label][key], baseline))
    curves = []
    if len(runs) > 1:
        of_run = {
            label: [(one.generated_tokens, one.correct) for one in own.values()] for label, own in points.items()
        }
        curves = compare_curves(of_run)
    off_target = {
        label: compare_off_target(folders[0], folder) for label, folder in list(zip(labels, folders, strict=True))[1:]
    }
    remarks = [*_remarks(summaries), *_unchecked(off_target)]
    comparison = Comparison(_with_dominators(rows), curves, off_target, remarks)
    if out is not None:
        _write(comparison, summaries, points, Path(out))
    return comparison


@dataclass(frozen=True)
class _Point:
    """Means a problem, all in the order of `problems`."""

    problems: list[str]
    correct: np.ndarray
    generated_tokens: np.ndarray
    floor_tokens: np.ndarray | None
    samples: np.ndarray  # (N, 2): correct or not, and tokens, of each sample


def _read_points(folder: Path, measured: Collection[tuple]) -> tuple[dict[str, tuple], dict[tuple, _Point]]:
    """What each problem of a run is, and the points of its summary; those of an extension that was cut off are not."""
    problems: dict[str, tuple] = {}
    floors: dict[str, int] = {}
    samples: dict[tuple, dict[str, list[tuple]]] = {}
    for sample in read_jsonl(folder / "samples.jsonl"):
        name = sample["id"]
        problems[name] = (sample["question"], sample.get("answer"), sample["task"])
        if sample["floor_tokens"] is not None:
            floors[name] = sample["floor_tokens"]
        key = (sample["strategy"], sample["budget_tokens"])
        if key in measured:
            samples.setdefault(key, {}).setdefault(name, []).append((sample["correct"], generated_tokens(sample)))
    names = sorted(problems)
    floor = np.array([floors[name] for name in names]) if len(floors) == len(names) else None
    points = {}
    for key, of_point in samples.items():
        # Every problem has as many samples as the next, so the mean of the problems' means is that of the samples.
        means = np.array([np.mean(of_point[name], axis=0) for name in names])  # (C, 2)
        every = np.array([sample for name in names for sample in of_point[name]])
        points[key] = _Point(names, means[:, 0], means[:, 1], floor, every)
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
        generated_tokens=_interval(point["generated_tokens"]),
    )
    if baseline is None:
        return row
    accuracy_change = paired_bootstrap(baseline.correct, own.correct, own.problems, share=True)
    pair = [(float(one.generated_tokens.mean()), float(one.correct.mean())) for one in (baseline, own)]
    return dataclasses.replace(
        row,
        accuracy_change=accuracy_change,
        # Else some resample of a baseline that hardly says a word might have no tokens to divide by.
        tokens_change=paired_ratio(baseline.generated_tokens, own.generated_tokens, own.problems)
        if np.mean(baseline.generated_tokens > 0) >= MOSTLY
        else None,
        mark=mark_of(accuracy_change),
        removable_share=_removable_share(baseline, own),
        aes=accuracy_efficiency_score(*pair),
        aes_as_published=accuracy_efficiency_score(*pair, as_published=True),
    )


def _with_dominators(rows: list[Row]) -> list[Row]:
    places = [(row.generated_tokens.mean, row.accuracy.mean) for row in rows]
    found = []
    for row, place in zip(rows, places, strict=True):
        above = [other for other, there in zip(rows, places, strict=True) if dominates(there, place)]
        best = max(above, key=lambda other: (other.accuracy.mean, -other.generated_tokens.mean), default=None)
        found.append(dataclasses.replace(row, dominated_by=best.name if best else None))
    return found


def _removable_share(baseline: _Point, own: _Point) -> float | None:
    if baseline.floor_tokens is None:
        return None
    removable = float(np.sum(baseline.generated_tokens - baseline.floor_tokens))
    return float(np.sum(baseline.generated_tokens - own.generated_tokens)) / removable if removable > 0 else None


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
    """Settings in which the runs differ, and what was trained beside what is generated."""
    configs = [summary["config"] for summary in summaries.values()]
    differing = [key for key in _SAMPLING if len({config[key] for config in configs}) > 1]
    remarks = [
        f"Note: the runs differ in {key} ({', '.join(str(config[key]) for config in configs)})." for key in differing
    ]
    for label, summary in summaries.items():
        known = summary["contamination"]
        if known["trained_on"]:
            remarks.append(
                f"Note: {label} was trained on {known['trained_on']:,} of these {known['problems']:,} problems, "
                f"such as {known['examples'][0]}."
            )
        free = [point for point in summary["points"] if point["budget_tokens"] is None]
        if summary["trained_tokens"] is not None and free:
            generated = ", ".join(f"{point['generated_tokens']['mean']:,.1f} ({point['strategy']})" for point in free)
            remarks.append(
                f"{label} was trained on responses of {summary['trained_tokens']:,.1f} tokens; without a budget it "
                f"generates {generated}."
            )
    return remarks


def _unchecked(off_target: Mapping[str, Sequence[OffTargetChange]]) -> list[str]:
    runs = [run for run, changes in off_target.items() if all(change.mark == NOT_CHECKED for change in changes)]
    if not runs:
        return []
    return [f"Off target: not checked ({', '.join(runs)}); `evaluate --off-target` on baseline and run does it."]


def _cells(row: Row) -> tuple[str, ...]:
    change = tokens = removable = aes = ""
    if row.accuracy_change is not None:
        change = f"{_signed(row.accuracy_change)} {row.mark}"
        tokens = "" if row.tokens_change is None else f"{100 * row.tokens_change.mean:+.1f} %"
        aes = "" if math.isnan(row.aes) else f"{row.aes:+.2f} ({row.aes_as_published:+.2f})"
    if row.removable_share is not None:
        removable = f"{100 * row.removable_share:.0f} %"
    mean, low, high = (f"{100 * value:.1f}" for value in dataclasses.astuple(row.accuracy))
    accuracy = f"{mean} % [{low}, {high}]"
    length = f"{row.generated_tokens.mean:,.1f}"
    budget = budget_label(row.budget_tokens)
    return row.run, row.strategy, budget, accuracy, length, tokens, change, removable, aes, row.dominated_by or ""


def _curve_cells(curve: Curve) -> tuple[str, ...]:
    mean, low, high = (f"{100 * value:.1f}" for value in dataclasses.astuple(curve.area))
    area = f"{mean} [{low}, {high}]"
    tokens = (
        "never" if curve.tokens is None else "{:,.1f} [{:,.1f}, {:,.1f}]".format(*dataclasses.astuple(curve.tokens))
    )
    change = "" if curve.area_change is None else _signed(curve.area_change)
    ratio = "" if curve.tokens_change is None else f"{100 * curve.tokens_change:+.1f} %"
    return curve.run, area, change, tokens, ratio


def _off_target_cells(run: str, change: OffTargetChange) -> tuple[str, ...]:
    if change.accuracy_change is None:
        return run, change.check, "", "", "", change.mark, "", change.reason
    tokens = "" if change.tokens_change is None else f"{100 * change.tokens_change.mean:+.1f} %"
    accuracies = (f"{100 * value:.1f} %" for value in (change.baseline_accuracy, change.accuracy))
    return (
        run,
        change.check,
        str(change.n),
        *accuracies,
        f"{_signed(change.accuracy_change)} {change.mark}",
        tokens,
        change.reason,
    )


def _signed(change: Interval) -> str:
    mean, low, high = (f"{100 * value:+.1f}" for value in dataclasses.astuple(change))
    return f"{mean} [{low}, {high}]"


def _align(lines: Sequence[Sequence[str]], left: int) -> str:
    """Columns of equal width, the first ones flush left, the others flush right; a rule below the header."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(text)


def _markdown(lines: Sequence[Sequence[str]], left: int) -> str:
    rule = ("---",) * left + ("---:",) * (len(lines[0]) - left)
    # A control, such as "<|short|>", has what divides columns.
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (lines[0], rule, *lines[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _write(
    comparison: Comparison, summaries: dict[str, dict], points: dict[str, dict[tuple, _Point]], out: Path
) -> None:
    rows = [dataclasses.asdict(row) for row in comparison.rows]
    curves = [dataclasses.asdict(curve) for curve in comparison.curves]
    write_csv(out / "compare.csv", rows)
    with atomic_file(out / "table.md") as stream:
        stream.write(comparison.markdown())
    lengths = {}
    for label, own in points.items():
        longest = max(own.values(), key=lambda point: point.generated_tokens.mean())
        lengths[label] = (longest.samples[:, 1], longest.samples[:, 0].astype(bool))
    for kind in ("png", "pdf"):
        draw_curve(summaries, out / f"curve.{kind}", "Accuracy against thinking spent")
        draw_lengths(lengths, out / f"lengths.{kind}", "Lengths, where responses are longest")
        for draw, name, title in (
            (draw_budgets, f"budgets.{kind}", "Do budgets hold?"),
            (draw_difficulty, f"difficulty.{kind}", "Where the tokens go"),
            (draw_coverage, f"coverage.{kind}", "Solved by one of k samples"),
        ):
            if not draw(summaries, out / name, title):
                (out / name).unlink(missing_ok=True)  # of an earlier comparison
    off_target = {
        run: [dataclasses.asdict(change) for change in changes] for run, changes in comparison.off_target.items()
    }
    found = {"rows": rows, "curves": curves, "off_target": off_target}
    write_json(out / "compare.json", found | {"legend": _LEGEND, "remarks": comparison.remarks})
