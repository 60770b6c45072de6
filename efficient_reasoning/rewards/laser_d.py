"""LASER-D: a bonus within a length that fits the difficulty (arXiv 2505.15612)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from efficient_reasoning.rewards import Rollouts

_CLASSES = ("hard", "medium", "easy")  # groups that solve less than a third, less than two thirds, or more


def laser_d(
    rollouts: Rollouts, weight: float = 0.5, refresh_batches: int = 20, *, memory: Mapping | None = None
) -> np.ndarray:
    """C + weight C [L <= target], with a target in tokens for easy, medium and hard problems each.

    How hard a problem is, the accuracy of its group says. The targets are in `memory`, and renewed every
    `refresh_batches` batches; there is no bonus before. The paper watches 500 problems of their own for that, and this
    the responses of training since the targets before.

    >>> rollouts = Rollouts(np.array([1.0, 1.0, 0.0]), np.array([20.0, 60.0, 10.0]), np.array([0, 0, 0]))
    >>> laser_d(rollouts, memory={"targets": {"easy": 30}}).tolist()
    [1.5, 1.0, 0.0]
    """
    targets = (memory or {}).get("targets", {})
    target = np.array([targets.get(name, 0) for name in _classes(rollouts)])
    return rollouts.correct * (1 + weight * (rollouts.lengths <= target) * (target > 0))


def remember(rollouts: Rollouts, memory: Mapping, refresh_batches: int = 20, **_) -> dict:
    """The memory behind this batch: `batches` and `lengths` since the last targets, and `targets`.

    A target is the least length within which one correct response of a group is to be expected: of a group of n, an
    easy problem has 2n/3, a medium one n/3 and a hard one 1 correct response, and the share of all the class's
    responses up to this length, times this number, has to come to 1.

    >>> rollouts = Rollouts(np.array([1.0, 1.0, 0.0]), np.array([20.0, 60.0, 90.0]), np.array([0, 0, 0]))
    >>> remember(rollouts, {}, refresh_batches=1)
    {'batches': 0, 'lengths': {}, 'targets': {'easy': 60}}
    """
    lengths = {name: list(values) for name, values in memory.get("lengths", {}).items()}
    for name, length in zip(_classes(rollouts), rollouts.lengths, strict=True):
        lengths.setdefault(name, []).append(int(length))
    batches, targets = memory.get("batches", 0) + 1, dict(memory.get("targets", {}))
    if batches < refresh_batches:
        return {"batches": batches, "lengths": lengths, "targets": targets}
    size = len(rollouts.lengths) / len(np.unique(rollouts.groups))
    expected = {"easy": max(1, int(2 * size / 3)), "medium": max(1, int(size / 3)), "hard": 1}
    for name, values in lengths.items():
        targets[name] = sorted(values)[-(-len(values) // expected[name]) - 1]
    return {"batches": 0, "lengths": {}, "targets": targets}


def _classes(rollouts: Rollouts) -> list[str]:
    share = rollouts.per_group(lambda lengths, correct: correct.mean())
    return [_CLASSES[place] for place in np.searchsorted([1 / 3 - 1e-9, 2 / 3 - 1e-9], share)]
