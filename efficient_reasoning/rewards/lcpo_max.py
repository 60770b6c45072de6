"""L1: length controlled policy optimization, lengths up to a budget (LCPO-Max, arXiv 2503.04697)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from efficient_reasoning.rewards import Rollouts

COLUMNS = ("budget_tokens",)  # that it reads


def lcpo_max(
    rollouts: Rollouts, alpha: float = 3e-4, delta: float = 0.5, form: Literal["paper", "released"] = "paper"
) -> np.ndarray:
    """C clip(alpha (n - L) + delta, 0, 1), with n tokens allowed in the prompt: column `budget_tokens` of the rows.

    The released code has half the slope and adds: C + clip(alpha / 2 (n - L) + delta, 0, 1) is `form="released"`. (Its
    script for L1-Max sets neither that flag nor the one for multiplying.) There, a wrong response is paid for being
    short. As in the paper, alpha is for budgets of up to 4,000 tokens.

    >>> columns = {"budget_tokens": [1000, 1000, 1000]}
    >>> rollouts = Rollouts(np.ones(3), np.array([0.0, 1000.0, 3000.0]), np.zeros(3), columns)
    >>> lcpo_max(rollouts).round(2).tolist(), lcpo_max(rollouts, form="released").round(2).tolist()
    ([0.8, 0.5, 0.0], [1.65, 1.5, 1.2])
    """
    left = rollouts.column("budget_tokens") - rollouts.lengths
    if form == "released":
        return rollouts.correct + np.clip(alpha / 2 * left + delta, 0, 1)
    return rollouts.correct * np.clip(alpha * left + delta, 0, 1)
