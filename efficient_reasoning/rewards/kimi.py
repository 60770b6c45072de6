"""Kimi k1.5's length reward (arXiv 2501.12599, section 2.3.3)."""

from __future__ import annotations

import numpy as np

from efficient_reasoning.rewards import Rollouts


def kimi(rollouts: Rollouts, weight: float = 1.0) -> np.ndarray:
    """C + weight x, with x = 0.5 - (L - min) / (max - min) over the group; a wrong response gets min(0, x) for x.

    Without that minimum the shortest wrong response would earn more than the longest right one. A group of equal
    lengths gets x = 0.

    >>> rollouts = Rollouts(np.array([1.0, 1.0, 0.0]), np.array([20.0, 60.0, 20.0]), np.array([0, 0, 0]))
    >>> kimi(rollouts).tolist()
    [1.5, 0.5, 0.0]
    """
    shortest = rollouts.per_group(lambda lengths, correct: lengths.min())
    spread = rollouts.per_group(lambda lengths, correct: lengths.max() - lengths.min())
    x = 0.5 - np.divide(rollouts.lengths - shortest, spread, out=np.full_like(spread, 0.5), where=spread > 0)
    return rollouts.correct + weight * np.where(rollouts.correct > 0, x, np.minimum(0.0, x))
