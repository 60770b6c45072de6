"""What all pictures have in common: one style, drawn without a display, written whole or not at all.

A picture is a `Figure` of its own with the Agg or PDF canvas: no pyplot, no global state. A `.pdf` is for a paper, a
`.png` for everything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from efficient_reasoning.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito (2008): told apart under every common colour blindness, and in grey.
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#666666"
MARKERS = ("o", "s", "^", "v", "P", "X", "*")
LINES = ("-", "--", ":", "-.")
_LEGEND_INSIDE = 6  # entries; more of them stand beside the axes


def new_figure(width: float = 7.2, height: float = 4.5) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=200, layout="constrained")


def dress(axes: Axes, title: str, note: str = "") -> None:
    """Grid, frame, title, and a note in small print below it."""
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", pad=20 if note else 6)
    axes.annotate(note, (0, 1), (0, 6), "axes fraction", "offset points", fontsize=8, color=GREY)


def legend(axes: Axes, place: str = "best") -> None:
    """Inside the axes, or to the right of them where it would cover the data."""
    entries = len(axes.get_legend_handles_labels()[1])
    if entries > _LEGEND_INSIDE:
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    elif entries:
        axes.legend(frameon=False, fontsize=9, loc=place)


def arms(intervals: Sequence[Mapping], scale: float = 1) -> list[list[float]]:
    """Lengths of the error bars below and above the means of intervals."""
    low = [max(0.0, scale * (value["mean"] - value["low"])) for value in intervals]
    high = [max(0.0, scale * (value["high"] - value["mean"])) for value in intervals]
    return [low, high]


def save(figure: Figure, path: str | Path) -> None:
    """Write a .png or .pdf. Its bytes depend on what is drawn alone: no date stands in it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf

    is_pdf = Path(path).suffix == ".pdf"
    canvas = (FigureCanvasPdf if is_pdf else FigureCanvasAgg)(figure)
    with atomic_file(path, "wb") as stream:
        if is_pdf:
            canvas.print_pdf(stream, metadata={"CreationDate": None})
        else:
            canvas.print_png(stream)
