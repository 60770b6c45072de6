"""Training Language Models to Reason Efficiently (Arora & Zanette, arXiv 2502.04463)."""

from __future__ import annotations

import numpy as np

from efficient_reasoning.rewards import Rollouts


def arora_zanette(rollouts: Rollouts, alpha: float = 0.2) -> np.ndarray:
    r"""C (1 - alpha sigmoid((L - mean) / std)), mean and deviation over the correct responses of the group.

    A correct response earns between 1 - alpha and 1, so with alpha < 1 every correct one stays above every wrong one.
    With no spread among the correct responses all of them get 1 - alpha / 2.

    >>> rollouts = Rollouts(np.array([1.0, 1.0, 0.0]), np.array([20.0, 60.0, 5.0]), np.array([0, 0, 0]))
    >>> arora_zanette(rollouts, alpha=0.2).round(4).tolist()
    [0.9462, 0.8538, 0.0]
    """
    mean = rollouts.per_group(lambda lengths, correct: lengths[correct > 0].mean() if correct.any() else 0.0)
    deviation = rollouts.per_group(lambda lengths, correct: lengths[correct > 0].std() if correct.any() else 0.0)
    scaled = np.divide(rollouts.lengths - mean, deviation, out=np.zeros_like(mean), where=deviation > 0)
    sigmoid = (1 + np.tanh(scaled / 2)) / 2  # exp(-scaled) would overflow for a wrong response far below the mean
    return rollouts.correct * (1 - alpha * sigmoid)
