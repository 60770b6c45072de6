"""The cosine reward of "Demystifying Long Chain-of-Thought Reasoning in LLMs" (arXiv 2502.03373)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from efficient_reasoning.rewards import Rollouts


def cosine(
    rollouts: Rollouts,
    max_tokens: int,
    correct_short: float = 2.0,
    correct_long: float = 1.0,
    wrong_short: float = -10.0,
    wrong_long: float = 0.0,
    exceeded: float = -10.0,
    repetition_penalty: float = 0.05,
    ngram_tokens: int = 40,
) -> np.ndarray:
    """From `short` at no tokens to `long` at `max_tokens`, along half a cosine; `exceeded` from there on.

    Each token of an n-gram that has occurred before costs `repetition_penalty`, in right and wrong responses alike.
    The paper gives it at that token, with a discount of 0.99 of its own; here a response is charged for all of them.

    >>> rollouts = Rollouts(np.array([1.0, 0.0, 1.0]), np.array([50.0, 50.0, 100.0]), np.array([0, 0, 0]))
    >>> cosine(rollouts, max_tokens=100).round(2).tolist()
    [1.5, -5.0, -10.0]
    """
    short = np.where(rollouts.correct > 0, correct_short, wrong_short)
    long = np.where(rollouts.correct > 0, correct_long, wrong_long)
    share = np.minimum(rollouts.lengths / max_tokens, 1)
    rewards = long + (short - long) * (1 + np.cos(np.pi * share)) / 2
    reached = np.maximum(rollouts.lengths, [len(ids) for ids in rollouts.ids] or 0)  # L may be the thinking alone
    rewards = np.where(reached >= max_tokens, exceeded, rewards)
    repeated = [repeated_tokens(ids, ngram_tokens) for ids in rollouts.ids] or 0  # lengths alone repeat nothing
    return rewards - repetition_penalty * np.asarray(repeated)


def repeated_tokens(ids: Sequence[int], ngram_tokens: int) -> int:
    """How many tokens stand in an n-gram that has occurred before.

    >>> repeated_tokens([1, 2, 3, 1, 2, 3, 1, 9], 3)  # 1 2 3 again, then 2 3 1: four tokens
    4
    """
    seen, covered = set(), 0
    end = 0  # of what is counted
    for start in range(len(ids) - ngram_tokens + 1):
        ngram = tuple(ids[start : start + ngram_tokens])
        if ngram in seen:
            covered += start + ngram_tokens - max(start, end)
            end = start + ngram_tokens
        seen.add(ngram)
    return covered
