"""L1: length controlled policy optimization, exact lengths (LCPO-Exact, arXiv 2503.04697)."""

from __future__ import annotations

import numpy as np

from efficient_reasoning.rewards import Rollouts

COLUMNS = ("budget_tokens",)  # that it reads


def lcpo_exact(rollouts: Rollouts, alpha: float = 3e-4) -> np.ndarray:
    """C - alpha |n - L|, with n tokens asked for in the prompt: column `budget_tokens` of the training rows.

    The paper's alpha is for n ~ U(100, 4000): the farthest miss costs about what a right answer earns. It scales with
    that range; for 16 to 128 it is about 0.0105. Far from n a right response may earn less than a wrong one at n.

    >>> columns = {"budget_tokens": [100, 100]}
    >>> lcpo_exact(Rollouts(np.array([1.0, 0.0]), np.array([300.0, 90.0]), np.array([0, 0]), columns), 0.001).tolist()
    [0.8, -0.01]
    """
    return rollouts.correct - alpha * np.abs(rollouts.column("budget_tokens") - rollouts.lengths)
