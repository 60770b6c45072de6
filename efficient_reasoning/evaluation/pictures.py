"""Pictures beside the curve: how long responses are, whether budgets hold, where the tokens go, what k samples solve.

Each takes runs in the order of a comparison; one without anything to show draws nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from efficient_reasoning.evaluation.coverage import PowerLaw, coverage
from efficient_reasoning.evaluation.figures import COLOURS, GREY, MARKERS, arms, dress, legend, new_figure, save
from efficient_reasoning.traces import budget_label

_CORRECT, _WRONG = COLOURS[2], COLOURS[1]
_BINS = 40


def draw_lengths(lengths: Mapping[str, tuple[np.ndarray, np.ndarray]], path: str | Path, title: str) -> None:
    """Histograms of tokens, correct and wrong responses stacked, one panel a run over one axis.

    Args:
        lengths: label -> tokens (N,) of samples, and whether each is correct (N,).
        path: the picture, .png or .pdf.
        title: one line above it.
    """
    figure = new_figure(height=1.4 + 1.5 * len(lengths))
    panels = figure.subplots(len(lengths), sharex=True, squeeze=False)[:, 0]
    longest = max(float(tokens.max(initial=1)) for tokens, _ in lengths.values())
    shortest = min(float(tokens.min(initial=longest)) for tokens, _ in lengths.values())
    bins = np.geomspace(max(1.0, shortest), max(2.0, longest) * 1.001, _BINS + 1)
    for axes, (label, (tokens, correct)) in zip(panels, lengths.items(), strict=True):
        mean = tokens.mean()
        tokens = np.maximum(tokens, bins[0])  # empty responses stand in the first bin
        parts, names = (
            [tokens[correct], tokens[~correct]],
            [f"correct ({correct.sum():,})", f"wrong ({(~correct).sum():,})"],
        )
        axes.hist(parts, bins, stacked=True, color=[_CORRECT, _WRONG], label=names)
        axes.axvline(max(mean, bins[0]), color=GREY, linewidth=1, linestyle="--", label=f"mean {mean:,.1f}")
        dress(axes, label)
        legend(axes, "upper left")
        axes.set_ylabel("samples")
    panels[-1].set_xscale("log", base=2)
    panels[-1].xaxis.set_major_formatter("{x:,.0f}")
    panels[-1].set_xlabel("tokens generated per problem")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    save(figure, path)


def draw_budgets(summaries: Mapping[str, Mapping], path: str | Path, title: str) -> bool:
    """Tokens spent under each budget: medians, with bars to the 95th percentile, against the budget itself.

    Returns:
        Whether there was a budget to draw.
    """
    lines = _lines(summaries, lambda point: point["budget_tokens"] is not None)
    if not lines:
        return False
    figure = new_figure()
    axes = figure.add_subplot()
    budgets = [point["budget_tokens"] for points in lines.values() for point in points]
    ends = np.array([min(budgets) / 1.2, max(budgets) * 1.2])
    axes.plot(ends, ends, color=GREY, linewidth=1, linestyle="--", label="the budget")
    for number, (label, points) in enumerate(lines.items()):
        points = sorted(points, key=lambda point: point["budget_tokens"])
        middle = np.array([point["generated_tokens"]["p50"] for point in points])
        above = np.array([point["generated_tokens"]["p95"] for point in points]) - middle
        within = min(point["within_budget_share"] for point in points)
        axes.errorbar(
            [point["budget_tokens"] * 1.02 ** (number - len(lines) / 2) for point in points],  # side by side
            middle,
            yerr=[np.zeros_like(above), above],
            fmt=MARKERS[number % len(MARKERS)],
            color=COLOURS[number % len(COLOURS)],
            markersize=5,
            capsize=2,
            label=f"{label} ({100 * within:.1f} % within)",
        )
    for axis, name in ((axes.xaxis, "budget in tokens"), (axes.yaxis, "tokens generated, median to p95")):
        axis.set_label_text(name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.0f}")
    dress(axes, title)
    legend(axes)
    save(figure, path)
    return True


def draw_difficulty(summaries: Mapping[str, Mapping], path: str | Path, title: str) -> bool:
    """Tokens and accuracy by difficulty, of each strategy's longest point: its unlimited one, where it has that.

    Returns:
        Whether the problems have difficulties.
    """
    lines = _longest(summaries, lambda point: bool(point["by_difficulty"]))
    if not lines:
        return False
    figure = new_figure(height=6)
    above, below = figure.subplots(2, sharex=True)
    for number, (label, point) in enumerate(lines.items()):
        groups = point["by_difficulty"]
        for axes, name, scale in ((above, "generated_tokens", 1), (below, "accuracy", 100)):
            values = [group[name] for group in groups]
            axes.errorbar(
                [group["difficulty"] for group in groups],
                [scale * value["mean"] for value in values],
                yerr=arms(values, scale),
                fmt=MARKERS[number % len(MARKERS)] + "-",
                color=COLOURS[number % len(COLOURS)],
                markersize=4.5,
                linewidth=1.2,
                capsize=2,
                label=f"{label}, {budget_label(point['budget_tokens'])}",
            )
    dress(above, title)
    dress(below, "")
    above.set_ylim(bottom=0)
    above.set_ylabel("mean tokens per problem")
    below.set_ylabel("accuracy")
    below.yaxis.set_major_formatter("{x:g} %")
    below.set_xlabel("difficulty")
    legend(above)
    save(figure, path)
    return True


def draw_coverage(summaries: Mapping[str, Mapping], path: str | Path, title: str) -> bool:
    """Coverage by the number of samples, of each strategy's longest point, and the power law fitted to it.

    Returns:
        Whether a problem has several samples.
    """
    lines = _longest(summaries, lambda point: len(coverage(point)) > 1)
    if not lines:
        return False
    figure = new_figure()
    axes = figure.add_subplot()
    for number, (label, point) in enumerate(lines.items()):
        shares = coverage(point)
        colour = COLOURS[number % len(COLOURS)]
        name = f"{label}, {budget_label(point['budget_tokens'])}"
        if "coverage_fit" in point:  # summaries of before do not have it
            law = PowerLaw(**point["coverage_fit"])
            k = np.geomspace(1, max(shares), 100)
            axes.plot(k, 100 * law(k), color=colour, linewidth=1.2, alpha=0.55)
            name += f": exp({law.a:.2f} k^{law.b:.2f})"
        axes.errorbar(
            [*shares],
            [100 * share["mean"] for share in shares.values()],
            yerr=arms([*shares.values()], 100),
            fmt=MARKERS[number % len(MARKERS)],
            color=colour,
            markersize=4.5,
            capsize=2,
            label=name,
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.set_xlabel("k samples of a problem")
    axes.set_ylabel("coverage: problems with one right")
    dress(axes, title)
    legend(axes)
    save(figure, path)
    return True


def _longest(summaries: Mapping[str, Mapping], chosen) -> dict[str, Mapping]:
    """Of each line the point that generates most."""
    return {
        label: max(points, key=lambda point: point["generated_tokens"]["mean"])
        for label, points in _lines(summaries, chosen).items()
    }


def _lines(summaries: Mapping[str, Mapping], chosen) -> dict[str, list[Mapping]]:
    """The chosen points of each run and strategy, under the shortest label that tells them apart."""
    several = len({point["strategy"] for summary in summaries.values() for point in summary["points"]}) > 1
    lines: dict[str, list[Mapping]] = {}
    for label, summary in summaries.items():
        for point in filter(chosen, summary["points"]):
            lines.setdefault(f"{label}, {point['strategy']}" if several else label, []).append(point)
    return lines
