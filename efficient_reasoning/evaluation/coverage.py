"""Coverage: the share of problems that at least one of k samples solves, and the power law that it follows.

1. Coverage at k is pass@k, and at 1 the accuracy: a point of `summary.json` holds both with their intervals.
2. Over many problems it grows as c(k) = exp(a k^b) with a, b < 0 (Large Language Monkeys, arXiv 2407.21787): a line of
   log(-log c) over log k. c(1) = exp(a), and b says how fast the rest is solved; at b = 0 it never is.
3. The fit is least squares of log c over k = 1, 2, 4, ..., which are even on a logarithmic axis. For a given b the
   best a has a closed form, so that b alone is searched, on a grid that closes in.
4. It describes the k that were measured. Beyond them it is a guess, and a test that lets wrong programs pass, or a
   problem that no sample can solve, bends the curve away from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_LEAST_POINTS = 3
_STEEPEST = -8.0  # b at which two samples instead of one take -log c down to 1/256 of itself
_GRID, _ZOOMS = 81, 8


@dataclass(frozen=True)
class PowerLaw:
    """c(k) = exp(a k^b).

    Attributes:
        a: log coverage of one sample, below zero.
        b: exponent, at most zero.
        residual: root of the mean squared error of log c over the k that were fitted.
    """

    a: float
    b: float
    residual: float

    def __call__(self, k: np.ndarray | float) -> np.ndarray:
        return np.exp(self.a * np.asarray(k, float) ** self.b)


def coverage(point: Mapping) -> dict[int, dict]:
    """The intervals of a summary's point by k, rising from 1; k = 1 alone where a problem has one sample."""
    later = {int(match[1]): point[name] for name in point if (match := re.fullmatch(r"pass_at_(\d+)", name))}
    return {1: point["accuracy"], **dict(sorted(later.items()))}


def fit_power_law(shares: Mapping[int, float]) -> PowerLaw | None:
    """The power law through coverage by k; None with fewer than three shares above 0 and below 1 to fit it to."""
    if min(shares.values()) <= 0 or sum(share < 1 for share in shares.values()) < _LEAST_POINTS:
        return None
    k = np.array([*shares], float)  # (K,)
    logs = np.log([*shares.values()])  # (K,)
    low, high = _STEEPEST, 0.0
    for _ in range(_ZOOMS):
        b = np.linspace(low, high, _GRID)  # (G,)
        powers = k ** b[:, None]  # (G, K)
        a = powers @ logs / (powers**2).sum(1)  # (G,)
        errors = ((logs - a[:, None] * powers) ** 2).mean(1)  # (G,)
        best = int(errors.argmin())
        low, high = b[max(best - 1, 0)], b[min(best + 1, _GRID - 1)]
    return PowerLaw(float(a[best]), float(b[best]), float(errors[best] ** 0.5))
