"""Whole runs against each other: the area under their fronts, and their tokens at equal accuracy.

Both are read from the front of all points of a run. Equal accuracy is the best of the baseline less the point that "no
loss" allows: the accuracy of a third run does not move it. Problems are resampled together for all runs, so that
what is hard for all of them cancels in the change.

Legend: C problems, R resamples, P points of a run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from efficient_reasoning.evaluation.metrics import area_under_curve, tokens_at
from efficient_reasoning.evaluation.statistics import LEVEL, NO_LOSS, Interval, resampled_means

RESAMPLES = 1000  # a front is found for each


@dataclass(frozen=True)
class Curve:
    """A run as a whole.

    Attributes:
        run: its label.
        area: mean accuracy over the logarithm of the tokens, from where all runs have begun to the end of the longest.
        tokens: mean tokens at which it reaches the baseline's best accuracy less `NO_LOSS`; None where it never does,
            and where the baseline is never right.
        area_change, tokens_change: from the baseline, run - baseline and run / baseline - 1; None in its own row.
    """

    run: str
    area: Interval
    tokens: Interval | None
    area_change: Interval | None = None
    tokens_change: float | None = None


def compare_curves(runs: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]]) -> list[Curve]:
    """Compare runs with the first of them.

    Args:
        runs: label -> points: mean tokens and accuracy of each problem, both (C,), problems in one order.
    """
    means, draws = {}, {}  # (P, 2) and (R, P, 2): tokens and accuracy
    for label, points in runs.items():
        columns = [column for point in points for column in point]
        mean, drawn = resampled_means(columns, RESAMPLES)
        means[label], draws[label] = np.reshape(mean, (-1, 2)), drawn.reshape(RESAMPLES, -1, 2)
        for tokens in (means[label][..., 0], draws[label][..., 0]):
            np.maximum(tokens, 1, out=tokens)  # a run that says nothing stands where a logarithmic axis begins
    baseline = next(iter(runs))
    measured = _measure(means, baseline)
    resampled = [_measure({label: own[r] for label, own in draws.items()}, baseline) for r in range(RESAMPLES)]
    curves = []
    for label in runs:
        area, tokens = measured[label]
        areas = np.array([one[label][0] for one in resampled])
        lengths = np.array([math.inf if one[label][1] is None else one[label][1] for one in resampled])
        change = ratio = None
        if label != baseline:
            base_area, base_tokens = measured[baseline]
            change = _interval(area - base_area, areas - np.array([one[baseline][0] for one in resampled]))
            ratio = None if tokens is None else tokens / base_tokens - 1
        curves.append(
            Curve(label, _interval(area, areas), None if tokens is None else _interval(tokens, lengths), change, ratio)
        )
    return curves


def _measure(runs: Mapping[str, np.ndarray], baseline: str) -> dict[str, tuple[float, float | None]]:
    """Area and tokens of each run; (P, 2) of tokens and accuracy."""
    low = max(points[:, 0].min() for points in runs.values())
    high = max(points[:, 0].max() for points in runs.values())
    best = runs[baseline][:, 1].max()
    equal = best - NO_LOSS if best > NO_LOSS else math.inf  # any tokens do for an accuracy of nothing
    return {
        label: (area_under_curve(points := list(map(tuple, own)), low, high), tokens_at(points, equal))
        for label, own in runs.items()
    }


def _interval(mean: float, draws: np.ndarray) -> Interval:
    # Neighbours instead of interpolation: between two infinities there is no number.
    low = np.quantile(draws, (1 - LEVEL) / 2, method="lower")
    high = np.quantile(draws, (1 + LEVEL) / 2, method="higher")
    return Interval(mean, float(low), float(high))
