"""HAPO: be shorter than the shortest correct response so far (arXiv 2505.11225)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from efficient_reasoning.rewards import Rollouts


def hapo(
    rollouts: Rollouts, weight: float = 1.0, low: float = -0.7, *, memory: Mapping[str, int] | None = None
) -> np.ndarray:
    """C + weight x, with x = cos(min(pi L / 2h, pi)): correct max(x, low), wrong min(x, 0).

    h is the length of the shortest correct response to the problem in all batches before this one, which `memory`
    holds by problem. A problem that nobody has solved yet gets x = 0.

    >>> rollouts = Rollouts(np.array([1.0, 1.0, 0.0]), np.array([20.0, 60.0, 10.0]), np.zeros(3), problems=["a"] * 3)
    >>> hapo(rollouts, memory={"a": 30}).round(3).tolist()
    [1.5, 0.3, 0.0]
    """
    shortest = np.array([(memory or {}).get(problem, np.nan) for problem in rollouts.problems], np.float64)
    x = np.cos(np.minimum(np.pi / 2 * rollouts.lengths / np.maximum(shortest, 1), np.pi))
    x = np.where(rollouts.correct > 0, np.maximum(x, low), np.minimum(x, 0.0))
    return rollouts.correct + weight * np.where(np.isnan(shortest), 0.0, x)


def remember(rollouts: Rollouts, memory: Mapping[str, int], **_) -> dict[str, int]:
    """The memory behind this batch.

    >>> remember(Rollouts(np.array([1.0, 0.0]), np.array([20.0, 10.0]), np.zeros(2), problems=["a"] * 2), {"a": 30})
    {'a': 20}
    """
    shortest = dict(memory)
    for problem, correct, length in zip(rollouts.problems, rollouts.correct, rollouts.lengths, strict=True):
        if correct:
            shortest[problem] = int(min(length, shortest.get(problem, length)))
    return shortest
