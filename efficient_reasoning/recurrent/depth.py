"""How deep: in training by lot, in inference as ordered.

A step's depth is Poisson with a log-normal rate, which reaches far beyond its mean now and then (arXiv 2502.05171). It
depends on the seed and the number of the step alone: all processes take as many iterations, and a run that goes on
takes those that an uninterrupted one would have taken.
"""

from __future__ import annotations

import math

import numpy as np
from torch import nn
from transformers import TrainerCallback

from efficient_reasoning.errors import BadInput
from efficient_reasoning.recurrent.configuration_recurrent import RecurrentConfig
from efficient_reasoning.recurrent.modeling_recurrent import RecurrentModel


def sample_depth(mean: float, sigma: float | None, seed: int, step: int) -> int:
    """Iterations of a training step: 1 + Poisson((mean - 1) exp(sigma z - sigma^2 / 2)), z standard normal.

    Their mean is `mean` (the paper's is its r-bar plus 1); there is no upper limit.

    Args:
        mean: at least 1.
        sigma: spread of the rate, 0 or more; None takes the mean, rounded, at every step.
        seed, step: 0 or more.

    Raises:
        BadInput: a mean below 1, or a spread below 0.
    """
    if mean < 1 or (sigma or 0) < 0:
        raise BadInput(f"Depths of mean {mean} and sigma {sigma} cannot be drawn; give at least 1 and 0.")
    if sigma is None:
        return round(mean)
    random = np.random.default_rng([seed, step])
    return 1 + int(random.poisson((mean - 1) * math.exp(random.normal(-(sigma**2) / 2, sigma))))


def recurrent_models(model: nn.Module) -> list[RecurrentModel]:
    """Those inside a model, whatever is wrapped around them."""
    return [module for module in model.modules() if isinstance(module, RecurrentModel)]


class DepthSampling(TrainerCallback):
    """Draws the depth of every training step of the recurrent models inside a model; does nothing to others."""

    def __init__(self, model: nn.Module):
        self.models = recurrent_models(model)

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        for model in self.models:
            config = model.config
            model.training_depth = sample_depth(config.mean_depth, config.depth_sigma, args.seed, state.global_step)


def set_depth(config: RecurrentConfig, depth: int | None = None, exit_kl: float | None = None) -> None:
    """Have a model decode at another depth, or exit adaptively; None leaves either as it is.

    Raises:
        BadInput: less than one iteration, or a divergence that is no number of 0 or more.
    """
    if depth is not None and depth < 1:
        raise BadInput(f"depth is {depth}; give at least 1 iteration.")
    if exit_kl is not None and not 0 <= exit_kl < math.inf:
        raise BadInput(f"exit_kl is {exit_kl}; give a divergence in nats of 0 or more, such as 5e-4.")
    if depth is not None:
        config.depth = depth
    if exit_kl is not None:
        config.exit_kl = exit_kl
