"""The runs that the page was started with: the only ones it knows, whatever a browser asks for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from efficient_reasoning.app.samples import SampleIndex
from efficient_reasoning.errors import BadInput
from efficient_reasoning.evaluation.summary import read_summary

_DRAWN = ("accuracy", "generated_tokens", "total_tokens")


@dataclass(frozen=True)
class Run:
    """A finished evaluation run.

    Attributes:
        label: name of its folder, or the path as it was given where names are alike.
        points: those of its summary: dictionaries with `strategy`, `budget_tokens` and intervals.
        samples: index of its samples.
    """

    label: str
    points: list[dict]
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
                SampleIndex(file, bar.update),
            )
            for folder, name, summary, file in zip(folders, names, summaries, files, strict=True)
        ]


def _summary(folder: Path) -> dict:
    try:
        summary = read_summary(folder)
        points = summary["points"]
        numbers = [point[name][part] for point in points for name in _DRAWN for part in ("mean", "low", "high")]
        numbers += [point[name] for point in points for name in ("n", "n_problems")]
        names = [(point["strategy"], point["budget_tokens"]) for point in points]
        whole = bool(names) and all(map(math.isfinite, numbers))
    except BadInput:
        raise
    except (ValueError, LookupError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise BadInput(f"{folder}/summary.json: not one that `evaluate` wrote; repeat the command of the run.")
    return summary
