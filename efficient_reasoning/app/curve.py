"""The curve as an SVG that one can point at: accuracy against mean tokens generated, as in `evaluation.curve`.

A run is a colour, a strategy a line style; filled circles have a budget, hollow diamonds have none. Each point carries
its text for pointer, keyboard and screen reader, and names itself by its number for whoever clicks it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from efficient_reasoning.app.runs import Run
from efficient_reasoning.app.text import escape
from efficient_reasoning.traces import budget_label

# Okabe & Ito (2008), all of them legible on white and on black; the first is the page's accent.
_COLOURS = ("var(--accent)", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8A8A")
_DASHES = ("", "6 4", "2 3", "8 3 2 3")
_LOG_ABOVE_RATIO = 10  # token axes that span more than this are logarithmic
_LEAST_SPAN_PERCENT = 10
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 20, 44  # margins in pixels
_TICKS = 5


def numbered_points(runs: Sequence[Run]) -> list[tuple[Run, dict]]:
    """All points of all runs, in the order of their numbers."""
    return [(run, point) for run in runs for point in run.points]


def describe(run: Run, point: dict) -> list[str]:
    """What is to be known of a point: run, strategy and budget, accuracy, tokens, samples."""
    accuracy, tokens = point["accuracy"], point["generated_tokens"]
    percent = f"{100 * accuracy['mean']:.1f} % [{100 * accuracy['low']:.1f}, {100 * accuracy['high']:.1f}]"
    return [
        run.label,
        f"{point['strategy']}, {budget_label(point['budget_tokens'])}",
        f"accuracy {percent}",
        f"{tokens['mean']:,.1f} tokens [{tokens['low']:,.1f}, {tokens['high']:,.1f}]",
        f"{point['total_tokens']['mean']:,.1f} of them in the response",
        f"{point['n_problems']:,} problems, {point['n']:,} samples",
    ]


def draw_curve(runs: Sequence[Run], width: int, height: int) -> str:
    """The SVG, drawn for so many pixels; its texts keep their size, so that a phone gets a drawing of its own."""
    points = numbered_points(runs)
    x, x_ticks = _token_axis([point for _, point in points], _LEFT, width - _RIGHT)
    y, y_ticks = _percent_axis([point for _, point in points], height - _BOTTOM, _TOP)
    parts = [_grid(x, x_ticks, y, y_ticks, width, height)]
    number = 0
    for place, run in enumerate(runs):
        colour = _COLOURS[place % len(_COLOURS)]
        strategies = list(dict.fromkeys(point["strategy"] for point in run.points))
        dashes = {strategy: _DASHES[line % len(_DASHES)] for line, strategy in enumerate(strategies)}
        parts += [_line(run, strategy, dash, colour, x, y) for strategy, dash in dashes.items()]
        for point in run.points:
            parts.append(_point(number, run, point, colour, x, y))
            number += 1
    return (
        f'<svg viewBox="0 0 {width} {height}" role="group" aria-label="Accuracy against tokens">{"".join(parts)}</svg>'
    )


def legend(runs: Sequence[Run]) -> str:
    """Which colour is which run, which line which strategy, as HTML."""
    entries = []
    several = len({point["strategy"] for run in runs for point in run.points}) > 1
    for place, run in enumerate(runs):
        for line, strategy in enumerate(dict.fromkeys(point["strategy"] for point in run.points)):
            dash, colour = _DASHES[line % len(_DASHES)], _COLOURS[place % len(_COLOURS)]
            sample = f'<line x1="0" x2="28" y1="6" y2="6" style="stroke:{colour}" stroke-dasharray="{dash}"/>'
            name = f"{run.label}, {strategy}" if several else run.label
            entries.append(
                f'<span><svg viewBox="0 0 28 12" width="28" height="12">{sample}</svg>{escape(name)}</span>'
            )
    entries.append('<span class="quiet">● with a budget</span><span class="quiet">◇ unlimited</span>')
    return f'<div class="legend">{"".join(entries)}</div>'


def _token_axis(points: list[dict], left: float, right: float):
    lows = [point["generated_tokens"]["low"] for point in points]
    highs = [point["generated_tokens"]["high"] for point in points]
    low, high = min(lows), max(max(highs), 1)
    if low > 0 and high / low > _LOG_ABOVE_RATIO:
        low, high = low / 1.1, high * 1.1

        def place(tokens: float) -> float:
            share = math.log(max(tokens, low) / low) / math.log(high / low)
            return left + (right - left) * share

        exponents = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
        return place, [2.0**exponent for exponent in exponents]
    high *= 1.06
    return lambda tokens: left + (right - left) * tokens / high, _round_ticks(0, high)


def _percent_axis(points: list[dict], bottom: float, top: float):
    lowest = 100 * min(point["accuracy"]["low"] for point in points)
    highest = 100 * max(point["accuracy"]["high"] for point in points)
    margin = 0.06 * max(highest - lowest, _LEAST_SPAN_PERCENT)
    highest = min(100.0, highest + margin)
    lowest = max(0.0, min(lowest - margin, highest - _LEAST_SPAN_PERCENT))
    span = highest - lowest
    return lambda percent: bottom + (top - bottom) * (percent - lowest) / span, _round_ticks(lowest, highest)


def _round_ticks(low: float, high: float) -> list[float]:
    """About as many round numbers as `_TICKS` from `low` to `high`."""
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [step * place for place in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def _grid(x, x_ticks: list[float], y, y_ticks: list[float], width: int, height: int) -> str:
    bottom, right = height - _BOTTOM, width - _RIGHT
    every = math.ceil(len(x_ticks) * 48 / (right - _LEFT))  # a label takes up to 48 pixels
    lines = [f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>' for t in y_ticks]
    names = [f'<text x="{_LEFT - 8}" y="{y(t) + 4:.1f}" text-anchor="end">{t:g} %</text>' for t in y_ticks]
    names += [f'<text x="{x(t):.1f}" y="{bottom + 18}" text-anchor="middle">{t:,.0f}</text>' for t in x_ticks[::every]]
    middle = (_LEFT + right) / 2
    names.append(f'<text x="{middle}" y="{height - 6}" text-anchor="middle">mean tokens generated per problem</text>')
    return "".join(lines + names)


def _line(run: Run, strategy: str, dash: str, colour: str, x, y) -> str:
    means = sorted(
        (point["generated_tokens"]["mean"], 100 * point["accuracy"]["mean"])
        for point in run.points
        if point["strategy"] == strategy
    )
    path = " ".join(f"{x(tokens):.1f},{y(percent):.1f}" for tokens, percent in means)
    return f'<polyline class="line" points="{path}" style="stroke:{colour}" stroke-dasharray="{dash}"/>'


def _point(number: int, run: Run, point: dict, colour: str, x, y) -> str:
    tokens, accuracy = point["generated_tokens"], point["accuracy"]
    at_x, at_y = x(tokens["mean"]), y(100 * accuracy["mean"])
    arms = (
        f'<line class="arm" x1="{x(tokens["low"]):.1f}" x2="{x(tokens["high"]):.1f}" y1="{at_y:.1f}" y2="{at_y:.1f}"/>'
        f'<line class="arm" x1="{at_x:.1f}" x2="{at_x:.1f}" y1="{y(100 * accuracy["low"]):.1f}" '
        f'y2="{y(100 * accuracy["high"]):.1f}"/>'
    )
    if point["budget_tokens"] is None:
        shape = f'<path class="hollow" d="M{at_x:.1f} {at_y - 8:.1f}l8 8l-8 8l-8 -8z"/>'
    else:
        shape = f'<circle class="full" cx="{at_x:.1f}" cy="{at_y:.1f}" r="5"/>'
    text = escape("\n".join(describe(run, point)))
    return (
        f'<g class="point" tabindex="0" role="button" data-point="{number}" aria-label="{text}" '
        f'style="--colour:{colour}">{arms}{shape}<circle class="reach" cx="{at_x:.1f}" cy="{at_y:.1f}" r="12"/></g>'
    )
