"""Plain accuracy: the control of every length reward (alpha = 0)."""

from __future__ import annotations

import numpy as np

from efficient_reasoning.rewards import Rollouts


def accuracy(rollouts: Rollouts) -> np.ndarray:
    """C: 1 for a correct response, 0 for a wrong one.

    >>> accuracy(Rollouts(np.array([1.0, 0.0]), np.array([90.0, 20.0]), np.array([0, 0]))).tolist()
    [1.0, 0.0]
    """
    return rollouts.correct
