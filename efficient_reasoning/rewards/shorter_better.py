"""ShorterBetter: the shortest correct response of the group as the target (arXiv 2504.21370)."""

from __future__ import annotations

import numpy as np

from efficient_reasoning.rewards import Rollouts


def shorter_better(rollouts: Rollouts, alpha: float = 2.0, beta: float = 0.001) -> np.ndarray:
    """alpha C - beta |L - S|, with S the shortest correct length of the group, or its mean length without one.

    Away from S a right response may earn less than a wrong one at S.

    >>> rollouts = Rollouts(np.array([1.0, 1.0, 0.0]), np.array([200.0, 600.0, 100.0]), np.array([0, 0, 0]))
    >>> shorter_better(rollouts).tolist()
    [2.0, 1.6, -0.1]
    """
    target = rollouts.per_group(
        lambda lengths, correct: lengths[correct > 0].min() if correct.any() else lengths.mean()
    )
    return alpha * rollouts.correct - beta * np.abs(rollouts.lengths - target)
