"""O1-Pruner: length-harmonizing fine-tuning (arXiv 2501.12570)."""

from __future__ import annotations

import numpy as np

from efficient_reasoning.rewards import Rollouts

COLUMNS = ("reference_tokens", "reference_accuracy")  # that it reads


def o1_pruner(rollouts: Rollouts, accuracy_weight: float = 2.0, low: float = -2.0, high: float = 4.0) -> np.ndarray:
    """(Lref - L) / L + lambda (C - Aref), clipped to [low, high].

    Lref and Aref are the mean length and accuracy of the reference model on the problem: columns `reference_tokens`
    and `reference_accuracy` of the training rows (`efficient-reasoning data reference_lengths`). L counts as at least
    1. At the ceiling a very short wrong response earns what a right one does.

    >>> columns = {"reference_tokens": [60, 60], "reference_accuracy": [0.5, 0.5]}
    >>> o1_pruner(Rollouts(np.array([1.0, 0.0]), np.array([40.0, 80.0]), np.array([0, 0]), columns)).tolist()
    [1.5, -1.25]
    """
    lengths = np.maximum(rollouts.lengths, 1)
    saved = (rollouts.column("reference_tokens") - lengths) / lengths
    gained = rollouts.correct - rollouts.column("reference_accuracy")
    return np.clip(saved + accuracy_weight * gained, low, high)
