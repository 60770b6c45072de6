"""DAST: difficulty-adaptive slow thinking (arXiv 2503.04472)."""

from __future__ import annotations

import numpy as np

from efficient_reasoning.rewards import Rollouts


def dast(rollouts: Rollouts, max_tokens: int) -> np.ndarray:
    """Correct: max(0.5 - 0.5 x, 0.1); wrong: min(0.9 x - 0.1, -0.1), with x = (L - b) / b.

    The budget b = p Lcorrect + (1 - p) max_tokens follows from the share p and the mean length Lcorrect of the correct
    responses of the group: easy problems get less. `max_tokens` is the most that a response may have. Up to the budget
    the correct one earns more the shorter it is, and the wrong one more the longer it is.

    >>> rollouts = Rollouts(np.array([1.0, 0.0]), np.array([100.0, 60.0]), np.array([0, 0]))
    >>> dast(rollouts, max_tokens=300).tolist()  # b = 200
    [0.75, -0.73]
    """
    share = rollouts.per_group(lambda lengths, correct: correct.mean())
    length = rollouts.per_group(lambda lengths, correct: lengths[correct > 0].mean() if correct.any() else 0.0)
    budget = share * length + (1 - share) * max_tokens
    x = (rollouts.lengths - budget) / np.maximum(budget, 1)
    return np.where(rollouts.correct > 0, np.maximum(0.5 - 0.5 * x, 0.1), np.minimum(0.9 * x - 0.1, -0.1))
