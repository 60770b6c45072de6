"""ThinkPrune: pruning long chains by a limit that is tightened from round to round (arXiv 2504.01296)."""

from __future__ import annotations

import numpy as np

from efficient_reasoning.rewards import Rollouts


def thinkprune(rollouts: Rollouts, limit_tokens: int) -> np.ndarray:
    """C [L <= limit_tokens]; a round is a run, which goes on from the last one with a smaller limit.

    >>> rollouts = Rollouts(np.array([1.0, 1.0, 0.0]), np.array([90.0, 110.0, 20.0]), np.array([0, 0, 0]))
    >>> thinkprune(rollouts, limit_tokens=100).tolist()
    [1.0, 0.0, 0.0]
    """
    return rollouts.correct * (rollouts.lengths <= limit_tokens)
