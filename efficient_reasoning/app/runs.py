"""The runs that the page was started with: the only ones it knows, whatever a browser asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from efficient_reasoning.app.samples import SampleIndex
from efficient_reasoning.errors import BadInput
from efficient_reasoning.evaluation.summary import read_summary

_NEEDED = ("strategy", "budget_tokens", "n", "n_problems", "accuracy", "total_tokens", "spent_tokens")


@dataclass(frozen=True)
class Run:
    """A finished evaluation run.

    Attributes:
        label: name of its folder, or the path as it was given where names are alike.
        points: those of its summary: dictionaries with `strategy`, `budget_tokens` and intervals.
        level: of the intervals, such as 0.95.
        samples: index of its samples.
    """

    label: str
    points: list[dict]
    level: float
    samples: SampleIndex


def open_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Index the samples of runs, with a bar.

    Raises:
        BadInput: none given, one given twice, one that is unfinished, or a folder that is no run.
    """
    from tqdm import tqdm

    folders = [Path(folder) for folder in folders]
    if not folders:
        raise BadInput("There are no runs to show; name at least one run folder.")
    resolved = [folder.resolve() for folder in folders]
    for place, folder in enumerate(folders):
        if resolved[place] in resolved[:place]:
            raise BadInput(f"{folder}: this run is named twice; name each run folder once.")
    summaries = [_summary(folder) for folder in folders]
    names = [folder.name for folder in resolved]
    files = [folder / "samples.jsonl" for folder in folders]
    sizes = [file.stat().st_size if file.is_file() else 0 for file in files]
    with tqdm(total=sum(sizes), unit="B", unit_scale=True, desc="indexing samples", leave=False) as bar:
        return [
            Run(
                name if names.count(name) == 1 else str(folder),
                summary["points"],
                summary["statistics"]["level"],
                SampleIndex(file, bar.update),
            )
            for folder, name, summary, file in zip(folders, names, summaries, files, strict=True)
        ]


def _summary(folder: Path) -> dict:
    try:
        summary = read_summary(folder)
        means = [point[name] for point in summary["points"] for name in _NEEDED]
        whole = bool(means) and 0 < summary["statistics"]["level"] < 1
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, BadInput):
            raise
        whole = False
    if not whole:
        raise BadInput(f"{folder}/summary.json: not one that `evaluate` wrote; repeat the command of the run.")
    return summary
