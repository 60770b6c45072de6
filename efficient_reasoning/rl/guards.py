"""Guards: settings that undo a length reward are refused, and a run that collapses is stopped with advice.

A collapsed run goes on for hours without learning anything: every response is cut off, or all of a group are paid
alike, or the policy draws the same again and again. What is stopped ends as bad input does; its last checkpoint stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from transformers import TrainerCallback

from efficient_reasoning.errors import BadInput

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import GRPOConfig

    from efficient_reasoning.rewards import LengthReward

_NAME = "collapse_guard"
_NO_LENGTH_TERM = ("accuracy", "thinkprune")  # what a response is paid is the same for all that are right
_PUNISH_CUTS = ("cosine", "thinkprune")  # rewards
_READ_CUTS = ("dler", "adaptthink", "mrt")  # algorithms that need the responses that are cut off
_FOR_ONE_REWARD = {  # settings of TRL's that have no use here: what they may be, and why nothing else
    "reward_weights": (lambda value: value is None, "there is one reward, whose weight its reward_parameters give"),
    "remove_unused_columns": (lambda value: not value, "the reward reads them"),
}
# What a reward gets beside the columns of the rows, and what makes them rows with pictures.
_TAKEN = ("prompts", "completions", "trainer_state", "log_extra", "log_metric", "image", "images")


def check_settings(reward: LengthReward, config: GRPOConfig, algorithm: str = "grpo") -> None:
    """Refuse what would silently train something else.

    Raises:
        BadInput: advantages that lose the reward's weight, responses left out that the reward is about, or checkpoints
            between steps that share responses: a run that goes on from there would draw, and remember, others.
    """
    name = reward.__name__
    shared = config.steps_per_generation * config.num_iterations  # batches
    period = shared // math.gcd(shared, config.gradient_accumulation_steps)  # steps until both begin anew
    if period > 1 and config.save_strategy == "steps" and config.save_steps % period:
        raise BadInput(
            f"save_steps is {config.save_steps:g}, and the responses of {period} steps are drawn together; make it a "
            f"multiple of {period}."
        )
    by_group = {"scale_rewards": "group", "multi_objective_aggregation": "normalize_then_sum"}
    for key, value in by_group.items():
        if getattr(config, key, None) == value and name not in _NO_LENGTH_TERM:
            raise BadInput(
                f"{key} is {value}, which divides the weight of reward {name}'s length term out again in every group "
                "that is all correct; leave it out."
            )
    reader = f"reward {name}" if name in _PUNISH_CUTS else algorithm if algorithm in _READ_CUTS else None
    if config.mask_truncated_completions and reader:
        raise BadInput(f"mask_truncated_completions leaves out what {reader} has to see; give false.")
    if config.max_completion_length is None:
        raise BadInput("max_completion_length is null; give the most tokens of a response.")
    for key, (is_fine, says) in _FOR_ONE_REWARD.items():
        if not is_fine(value := getattr(config, key)):
            raise BadInput(f"{key} is {getattr(value, 'value', value)}, and {says}; leave it out.")


def check_vllm(config: GRPOConfig) -> None:
    """Raise BadInput where vLLM is to be used, and is not installed."""
    if config.use_vllm and find_spec("vllm") is None:
        raise BadInput("use_vllm needs vLLM; install it with `pip install 'efficient-reasoning[vllm]'`.")


def check_columns(path: str, names: Sequence[str]) -> None:
    """Refuse columns whose names TRL takes for something else.

    Args:
        path: of the rows, for the message.
        names: of their columns.

    Raises:
        BadInput: one does.
    """
    for name in names:
        if name in _TAKEN:
            raise BadInput(f"{path} has a column {name!r}, a name that the trainer takes; rename it, or leave it out.")


def check_rows(path: str, rows: Dataset, names: Sequence[str], reward: str, limit_tokens: int) -> None:
    """Refuse rows that would end a run in its middle, or teach nothing.

    Args:
        path: of the rows, for the message.
        rows: with these columns.
        names: of columns that hold numbers.
        reward: its name.
        limit_tokens: of a response.

    Raises:
        BadInput: a value that is no number, or more tokens asked for than a response may have.
    """
    for name in names:
        for number, value in enumerate(rows[name], start=1):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise BadInput(f"{path}, row {number}: its {name} is {value!r}, no number; write the rows again.")
    if reward == "lcpo_exact" and (most := max(rows["budget_tokens"])) > limit_tokens:
        raise BadInput(
            f"{path} asks for up to {most} tokens, and max_completion_length is {limit_tokens}; raise it, or write "
            "rows with a lower max_budget_tokens."
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


# What is no sign under an algorithm: no means of groups, or a limit that is to cut off.
_NO_SIGN = {
    "adaptthink": ("informative_groups",),
    "ppo": ("informative_groups",),
    "dler": ("completions/clipped_ratio",),
}
_LAST = "last log"


class CollapseGuard(TrainerCallback):
    """Stops a run in which something is wrong for too many steps on end, also across resumptions.

    Args:
        patience_steps: how many; 0 for never.
        algorithm: what makes advantages; not every sign is one under each.
    """

    def __init__(self, patience_steps: int, algorithm: str = "grpo"):
        self.patience_steps = patience_steps
        self.signs = [sign for sign in _SIGNS if sign.metric not in _NO_SIGN.get(algorithm, ())]
        self._seen: dict[str, dict[str, float]] = {}  # of each metric: its first value, and bad steps

    def on_train_begin(self, args, state, control, **kwargs):
        self._seen = state.stateful_callbacks.setdefault(_NAME, self._seen)

    def on_log(self, args, state, control, logs=None, **kwargs):
        last = self._seen.setdefault(_LAST, {"step": 0})
        steps = state.global_step - last["step"]  # that this log tells of
        last["step"] = state.global_step
        for sign in self.signs if self.patience_steps and steps else ():
            if (value := (logs or {}).get(sign.metric)) is None:
                continue  # also while the length does not count yet
            seen = self._seen.setdefault(sign.metric, {"first": value, "bad_steps": 0})
            seen["bad_steps"] = seen["bad_steps"] + steps if sign.is_bad(value, seen["first"]) else 0
            if seen["bad_steps"] >= self.patience_steps:
                stopped = f"Stopped at step {state.global_step}: for {seen['bad_steps']} steps {sign.says}"
                raise BadInput(f"{stopped}, in another output_dir; or go on here with guard_steps: 0.")
