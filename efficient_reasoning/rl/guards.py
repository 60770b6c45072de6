"""Guards: settings that undo a length reward are refused, and a run that collapses is stopped with advice.

A collapsed run goes on for hours without learning anything: every response is cut off, or all of a group are paid
alike, or the policy draws the same again and again. What is stopped ends as bad input does; its last checkpoint stays.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from transformers import TrainerCallback

from efficient_reasoning.errors import BadInput

if TYPE_CHECKING:
    from trl import GRPOConfig

    from efficient_reasoning.rewards import LengthReward

_WEIGHTS = ("weight", "alpha", "beta")  # parameters that say how much the length counts
_CUTS = ("thinkprune",)  # rewards whose signal are responses that are too long


def check_settings(reward: LengthReward, config: GRPOConfig) -> None:
    """Refuse what would silently train something else.

    Raises:
        BadInput: advantages that lose the reward's weight, or responses left out that the reward is about.
    """
    weights = [name for name in _WEIGHTS if name in inspect.signature(reward.formula).parameters]
    if config.scale_rewards == "group" and weights:
        raise BadInput(
            f"scale_rewards is group, which divides {weights[0]} of reward {reward.__name__} out again in every group "
            "that is all correct; give none or batch."
        )
    if config.mask_truncated_completions and reward.__name__ in _CUTS:
        raise BadInput(
            f"mask_truncated_completions leaves out what reward {reward.__name__} is to punish; give false."
        )


class _Sign(NamedTuple):
    """Of collapse: a metric, when it is bad (given its first value), and what to do."""

    metric: str
    is_bad: Callable[[float, float], bool]
    says: str


_SIGNS = (
    _Sign(
        "completions/clipped_ratio",
        lambda value, first: value > 0.5,
        "more than half of the responses were cut off; raise max_completion_length, or lower the learning rate",
    ),
    _Sign(
        "informative_groups",  # TRL's own metric looks at the batch as one where that scales the advantages
        lambda value, first: value < 0.2,
        "in more than 80 % of the groups all responses were paid alike; take problems that are neither too easy nor "
        "too hard, or raise temperature or num_generations",
    ),
    _Sign(
        "entropy",
        lambda value, first: value < 0.1 * first,
        "the entropy was below a tenth of what it was at first; lower the learning rate, or raise temperature or beta",
    ),
)


class CollapseGuard(TrainerCallback):
    """Stops a run in which something is wrong for too many steps on end.

    Args:
        patience_steps: how many; 0 for never.
    """

    def __init__(self, patience_steps: int):
        self.patience_steps = patience_steps
        self._first: dict[str, float] = {}
        self._bad_steps: dict[str, int] = {}
        self._step = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self._step = state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not self.patience_steps:
            return
        steps, self._step = state.global_step - self._step, state.global_step
        for sign in _SIGNS:
            if (value := (logs or {}).get(sign.metric)) is None:
                continue
            first = self._first.setdefault(sign.metric, value)
            bad = self._bad_steps.get(sign.metric, 0) + steps if sign.is_bad(value, first) else 0
            self._bad_steps[sign.metric] = bad
            if bad >= self.patience_steps:
                stopped = f"Stopped at step {state.global_step}: for {bad} steps {sign.says}"
                raise BadInput(f"{stopped}; or give guard_steps: 0 to go on.")


def check_loss(loss: torch.Tensor, step: int) -> None:
    """Stop before weights are saved that are no numbers.

    Raises:
        BadInput: the loss is infinite or not a number.
    """
    if not torch.isfinite(loss).all():
        raise BadInput(
            f"Stopped in step {step + 1}: the loss is {loss.mean().item()}; the last checkpoint is from before. Lower "
            "the learning rate or max_grad_norm."
        )
