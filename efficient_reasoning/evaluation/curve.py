"""The picture of the house: accuracy against mean tokens per problem.

1. Up and to the left is better. Of several runs each has a colour and strategies differ in marker and line; strategies
   of a single run differ in colour, too.
2. Points with a budget are small and filled, joined in the order of their tokens; the unlimited point, where a model
   stops by itself, is large and hollow.
3. Intervals go both ways; where they are smaller than the marker, they are hidden behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from efficient_reasoning.evaluation.figures import COLOURS, GREY, LINES, MARKERS, arms, dress, legend, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOG_ABOVE_RATIO = 10  # token axes that span more than this are logarithmic
_LEAST_SPAN_POINTS = 10  # an accuracy axis shows at least this many points, so that noise does not look like a cliff


def draw_curve(summaries: Mapping[str, Mapping], path: str | Path, title: str) -> None:
    """Draw one or more runs.

    Args:
        summaries: label -> summary (`summarise`), in the order of the legend; the first is drawn in black.
        path: the picture, .png or .pdf.
        title: one line above it.
    """
    strategies = list(dict.fromkeys(point["strategy"] for run in summaries.values() for point in run["points"]))
    figure = new_figure()
    axes = figure.add_subplot()
    for place, (label, summary) in enumerate(summaries.items()):
        for number, strategy in enumerate(strategies):
            points = [point for point in summary["points"] if point["strategy"] == strategy]
            if not points:
                continue
            name = label if len(strategies) == 1 else f"{label}, {strategy}" if len(summaries) > 1 else strategy
            colour = COLOURS[(place if len(summaries) > 1 else number) % len(COLOURS)]
            _draw_line(axes, points, name, colour, LINES[number % len(LINES)], MARKERS[number % len(MARKERS)])
    _dress(axes, summaries, title)
    save(figure, path)


def _draw_line(axes: Axes, points: list[Mapping], label: str, colour: str, line: str, marker: str) -> None:
    points = sorted(points, key=lambda point: point["generated_tokens"]["mean"])
    tokens = [point["generated_tokens"]["mean"] for point in points]
    percent = [100 * point["accuracy"]["mean"] for point in points]
    axes.plot(tokens, percent, line, color=colour, linewidth=1.4, alpha=0.55, zorder=2)
    for unlimited in (False, True):
        chosen = [point for point in points if (point["budget_tokens"] is None) == unlimited]
        if not chosen:
            continue
        x, y = ([point[name] for point in chosen] for name in ("generated_tokens", "accuracy"))
        axes.errorbar(
            [value["mean"] for value in x],
            [100 * value["mean"] for value in y],
            xerr=arms(x),
            yerr=arms(y, 100),
            fmt=marker,
            markersize=9 if unlimited else 4.5,
            markerfacecolor="white" if unlimited else colour,
            markeredgewidth=1.6 if unlimited else 0,
            color=colour,
            elinewidth=1,
            capsize=2,
            clip_on=False,  # a marker at 100 % stands over the edge
            zorder=4 if unlimited else 3,
        )
    axes.plot([], [], line, color=colour, marker=marker, markersize=6, linewidth=1.6, label=label)


def _dress(axes: Axes, summaries: Mapping[str, Mapping], title: str) -> None:
    points = [point for summary in summaries.values() for point in summary["points"]]
    tokens = [point["generated_tokens"]["mean"] for point in points]
    if min(tokens) > 0 and max(tokens) / min(tokens) > _LOG_ABOVE_RATIO:
        axes.set_xscale("log", base=2)
    else:
        axes.set_xlim(0, 1.06 * axes.get_xlim()[1])
    bottom, top = axes.get_ylim()
    top = min(top, 102)
    axes.set_ylim(max(-2, min(bottom, top - _LEAST_SPAN_POINTS)), top)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.set_xlabel("mean tokens generated per problem")
    axes.set_ylabel("accuracy")
    budgets = {point["budget_tokens"] for point in points}
    if budgets - {None}:
        axes.plot([], [], "o", color=GREY, markersize=4.5, label="with a budget")
    if None in budgets:
        axes.plot(
            [], [], "o", color=GREY, markerfacecolor="white", markeredgewidth=1.6, markersize=9, label="unlimited"
        )
    statistics = next(iter(summaries.values()))["statistics"]
    dress(
        axes,
        title,
        f"{points[0]['n_problems']:,} problems, {points[0]['n']:,} samples a point; "
        f"bars: {100 * statistics['level']:g} % intervals, clustered by {statistics['clustered_by']}",
    )
    legend(axes)
