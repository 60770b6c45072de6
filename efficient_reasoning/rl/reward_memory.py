"""What rewards remember, in every checkpoint: HAPO's shortest lengths, LASER-D's targets.

It stands in the trainer's own state, which is written last and whole, so no checkpoint has one without the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import TrainerCallback

from efficient_reasoning.rewards import LengthReward

_NAME = "reward_memory"


class RewardMemory(TrainerCallback):
    """Saves the memory of rewards with each checkpoint, and gives it back to them where training goes on.

    Args:
        rewards: those of the trainer; every process has them, and they remember the same.
    """

    def __init__(self, rewards: Sequence[LengthReward]):
        self.rewards = rewards

    def on_train_begin(self, args, state, control, **kwargs):
        saved = state.stateful_callbacks.get(_NAME, {})
        for reward in self.rewards:
            reward.memory = saved.get(reward.__name__, reward.memory)

    def on_step_end(self, args, state, control, **kwargs):
        state.stateful_callbacks[_NAME] = {reward.__name__: reward.memory for reward in self.rewards}
