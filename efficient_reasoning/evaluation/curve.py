"""The picture of the house: accuracy against mean total tokens per problem.

1. Up and to the left is better. A model is a colour; a strategy is a line style.
2. Points with a budget are small filled circles joined in the order of their tokens; the unlimited point, where a
   model stops by itself, is a large hollow diamond.
3. Intervals go both ways; where they are smaller than the marker, they are hidden behind it.

Drawn on a `Figure` of its own with the Agg canvas: no display, no pyplot, no global state.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from efficient_reasoning.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito (2008): told apart under every common colour blindness, and in grey.
_COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_LINES = ("-", "--", ":", "-.")
_LOG_ABOVE_RATIO = 10  # token axes that span more than this are logarithmic
_LEAST_SPAN_POINTS = 10  # an accuracy axis shows at least this many points, so that noise does not look like a cliff


def draw_curve(summaries: Mapping[str, Mapping], path: str | Path, title: str) -> None:
    """Draw one or more runs into a PNG.

    Args:
        summaries: label -> summary (`summarise`), in the order of the legend; the first is drawn in black.
        path: the picture, written whole or not at all.
        title: one line above it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.5), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    several = len({point["strategy"] for summary in summaries.values() for point in summary["points"]}) > 1
    for place, (label, summary) in enumerate(summaries.items()):
        strategies = list(dict.fromkeys(point["strategy"] for point in summary["points"]))
        for line, strategy in enumerate(strategies):
            points = [point for point in summary["points"] if point["strategy"] == strategy]
            name = f"{label}, {strategy}" if several else label
            _draw_line(axes, points, name, _COLOURS[place % len(_COLOURS)], _LINES[line % len(_LINES)])
    _dress(axes, summaries, title)
    canvas = FigureCanvasAgg(figure)
    with atomic_file(path, "wb") as stream:
        canvas.print_png(stream)


def _draw_line(axes: Axes, points: list[Mapping], label: str, colour: str, line: str) -> None:
    points = sorted(points, key=lambda point: point["total_tokens"]["mean"])
    tokens = [point["total_tokens"]["mean"] for point in points]
    percent = [100 * point["accuracy"]["mean"] for point in points]
    axes.plot(tokens, percent, line, color=colour, linewidth=1.4, alpha=0.55, zorder=2)
    for unlimited in (False, True):
        chosen = [point for point in points if (point["budget_tokens"] is None) == unlimited]
        if not chosen:
            continue
        x, y = ([point[name] for point in chosen] for name in ("total_tokens", "accuracy"))
        axes.errorbar(
            [value["mean"] for value in x],
            [100 * value["mean"] for value in y],
            xerr=_arms(x, 1),
            yerr=_arms(y, 100),
            fmt="D" if unlimited else "o",
            markersize=8 if unlimited else 4.5,
            markerfacecolor="white" if unlimited else colour,
            markeredgewidth=1.6 if unlimited else 0,
            color=colour,
            elinewidth=1,
            capsize=2,
            clip_on=False,  # a marker at 100 % stands over the edge
            zorder=4 if unlimited else 3,
        )
    axes.plot([], [], line, color=colour, marker="s", markersize=6, linewidth=1.6, label=label)


def _arms(intervals: list[Mapping], scale: float) -> list[list[float]]:
    """Lengths of the error bars below and above the mean."""
    low = [max(0.0, scale * (value["mean"] - value["low"])) for value in intervals]
    high = [max(0.0, scale * (value["high"] - value["mean"])) for value in intervals]
    return [low, high]


def _dress(axes: Axes, summaries: Mapping[str, Mapping], title: str) -> None:
    points = [point for summary in summaries.values() for point in summary["points"]]
    tokens = [point["total_tokens"]["mean"] for point in points]
    if min(tokens) > 0 and max(tokens) / min(tokens) > _LOG_ABOVE_RATIO:
        axes.set_xscale("log", base=2)
    else:
        axes.set_xlim(0, 1.06 * axes.get_xlim()[1])
    bottom, top = axes.get_ylim()
    top = min(top, 102)
    axes.set_ylim(max(-2, min(bottom, top - _LEAST_SPAN_POINTS)), top)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.set_xlabel("mean total tokens per problem")
    axes.set_ylabel("accuracy")
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)

    budgets = {point["budget_tokens"] for point in points}
    if budgets - {None}:
        axes.plot([], [], "o", color="#666666", markersize=4.5, label="with a budget")
    if None in budgets:
        axes.plot([], [], "D", color="#666666", markerfacecolor="white", markersize=7, label="unlimited")
    axes.legend(frameon=False, loc="lower right", fontsize=9)

    statistics = next(iter(summaries.values()))["statistics"]
    note = (
        f"{points[0]['n_problems']:,} problems, {points[0]['n']:,} samples a point; "
        f"bars: {100 * statistics['level']:g} % intervals, clustered by {statistics['clustered_by']}"
    )
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", pad=20)
    axes.annotate(note, (0, 1), (0, 6), "axes fraction", "offset points", fontsize=8, color="#666666")
