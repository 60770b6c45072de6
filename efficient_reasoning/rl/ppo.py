"""PPO with a critic (arXiv 1707.06347), which TRL has no longer: GRPO's trainer with values in place of group means.

1. The critic is a small network on the policy's own last hidden states. Its gradient ends there, so it may learn fast
   without pulling at the policy, and costs no second model.
2. A response is paid at its last token. Advantages are those of GAE (arXiv 1506.02438), one a token, whitened over the
   tokens of all processes. With `gae_lambda` 1 a payment reaches every token undiminished; with 0.95 it has faded
   after some dozens, and a critic that knows nothing yet decides alone (VC-PPO, arXiv 2503.01491).
3. TRL's policy loss takes advantages of shape (B, T) as they are; the value loss, clipped like it, is added to it.
4. The critic is in the checkpoints, so that a run can be resumed, and not in the model that is left in the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from transformers import Trainer

from efficient_reasoning.errors import BadInput
from efficient_reasoning.rl.config import LengthRewardConfig
from efficient_reasoning.rl.rollout_correction import CorrectedGRPOTrainer


@dataclass
class PPOConfig(LengthRewardConfig):
    """LengthRewardConfig with PPO's constants."""

    gae_lambda: float = field(default=1.0, metadata={"help": "Lambda of GAE; below 1 the critic counts for more."})
    gamma: float = field(default=1.0, metadata={"help": "Discount of a token."})
    value_coef: float = field(default=0.5, metadata={"help": "Weight of the value loss."})
    value_clip: float = field(default=0.2, metadata={"help": "Most that a value moves in an update."})
    value_learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of the critic."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gae_lambda", "gamma"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"{name} is {getattr(self, name)}; give a number between 0 and 1.")
        for name in ("value_coef", "value_clip", "value_learning_rate"):
            if getattr(self, name) <= 0:
                raise BadInput(f"{name} is {getattr(self, name)}; give a number above 0.")
        if self.ddp_find_unused_parameters:
            raise BadInput("The critic stands outside of the forward pass; set ddp_find_unused_parameters to false.")
        self.ddp_find_unused_parameters = False  # left open, transformers sets it to true
        if self.sync_ref_model:
            raise BadInput("The reference has no critic to take from the policy; leave out sync_ref_model with ppo.")
        if self.use_vllm:
            raise BadInput(
                "vLLM would be sent the critic among the weights, and has none; leave out use_vllm with ppo."
            )


class PPOTrainer(CorrectedGRPOTrainer):
    """CorrectedGRPOTrainer with a critic; `num_generations` counts for the reward's groups alone."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        size = self.model.config.get_text_config().hidden_size
        self.model.critic = torch.nn.Sequential(
            torch.nn.Linear(size, size), torch.nn.Tanh(), torch.nn.Linear(size, 1)
        ).to(self.model.device)
        torch.nn.init.zeros_(self.model.critic[-1].weight)  # the first values are 0
        self._hidden: list[torch.Tensor] | None = None  # of the forward passes that are watched
        self.model.base_model.register_forward_hook(self._watch)
        self._give_critic_its_rate()

    def _give_critic_its_rate(self) -> None:
        optimizer, settings = Trainer.get_optimizer_cls_and_kwargs(self.args, self.model)
        critic = list(self.model.critic.parameters())
        policy = [weight for name, weight in self.model.named_parameters() if not name.startswith("critic.")]
        groups = [
            {"params": policy, "weight_decay": self.args.weight_decay},
            {"params": critic, "weight_decay": 0.0, "lr": self.args.value_learning_rate},
        ]
        self.optimizer_cls_and_kwargs = optimizer, settings | {"params": groups}

    def _watch(self, module: torch.nn.Module, inputs: tuple, output: object) -> None:
        if self._hidden is not None:
            self._hidden.append(output[0].detach())

    @contextmanager
    def _watching(self) -> Iterator[list[torch.Tensor]]:
        self._hidden = []
        try:
            yield self._hidden
        finally:
            self._hidden = None

    def _values(self, hidden: list[torch.Tensor], tokens: int) -> torch.Tensor:
        """Of the states in which each of the last `tokens` tokens is drawn: (B, T)."""
        states = torch.cat(hidden)[:, -tokens - 1 : -1]  # (B, T, H)
        return self.model.critic(states.to(self.model.critic[0].weight.dtype))[..., 0].float()

    def _calculate_rewards(self, *args) -> torch.Tensor:
        self._rewards = super()._calculate_rewards(*args)  # (N of all processes, functions)
        return self._rewards

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict:
        batch = super()._generate_and_score_completions(inputs)
        mask = batch["completion_mask"].float()  # (B, T)
        first = self.accelerator.process_index * len(mask)
        rewards = self._rewards[first : first + len(mask)] * self.reward_weights.to(mask.device)
        with torch.no_grad(), self._watching() as hidden:
            self._forward(batch)
            values = self._values(hidden, mask.shape[1]) * mask
        advantages = gae(rewards.nansum(dim=1), values, mask, self.args.gamma, self.args.gae_lambda)
        batch["returns"], batch["old_values"] = advantages + values, values
        batch["advantages"] = self._whiten(advantages, mask)
        return batch

    def _forward(self, batch: dict) -> None:
        """One pass over prompts and completions, as many rows at a time as the loss takes."""
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        rows = self.args.per_device_train_batch_size
        model = self.accelerator.unwrap_model(self.model)
        for part, mask in zip(ids.split(rows), attention.split(rows), strict=True):
            with self.compute_loss_context_manager():
                model.base_model(input_ids=part, attention_mask=mask, use_cache=False)

    def _whiten(self, advantages: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Advantages (B, T) of mean 0 and deviation 1 over the tokens of all processes."""
        sums = torch.stack([(advantages * mask).sum(), (advantages.square() * mask).sum(), mask.sum()])
        total, squares, count = self.accelerator.reduce(sums, reduction="sum")
        mean = total / count.clamp(min=1)
        deviation = (squares / count.clamp(min=1) - mean.square()).clamp(min=0).sqrt()
        return (advantages - mean) / (deviation + 1e-4) * mask

    def _compute_loss(self, model: torch.nn.Module, inputs: dict) -> torch.Tensor:
        with self._watching() as hidden:
            loss = super()._compute_loss(model, inputs)
        mask = inputs["completion_mask"].float()
        values = self._values(hidden, mask.shape[1])
        value_loss = clipped_value_loss(values, inputs["old_values"], inputs["returns"], mask, self.args.value_clip)
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["value_loss"].append(self.accelerator.gather(value_loss.detach()).mean().item())
        steps = self.current_gradient_accumulation_steps if mode == "train" else 1
        return loss + self.args.value_coef * value_loss / steps

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model that is left in the end; a checkpoint to go on from has the critic."""
        if not _internal_call and hasattr(self.model, "critic"):
            del self.model.critic
        super().save_model(output_dir, _internal_call)


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, gae_lambda: float
) -> torch.Tensor:
    """Generalized advantage estimates, one a token.

    Args:
        rewards: (B,) paid at the last token of each response.
        values: (B, T) of the states before each token, 0 behind the response.
        mask: (B, T) 1 on the tokens of the response, which begins at 0, and 0 behind it.
        gamma: discount of a token.
        gae_lambda: lambda of GAE.

    Returns:
        (B, T), 0 behind the response.
    """
    following = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)  # whether a token comes after
    paid = rewards[:, None] * (mask - following)
    advantages, last = torch.zeros_like(values), torch.zeros_like(rewards)
    for t in reversed(range(values.shape[1])):
        ahead = values[:, t + 1] * following[:, t] if t + 1 < values.shape[1] else 0.0
        last = (paid[:, t] + gamma * ahead - values[:, t] + gamma * gae_lambda * last) * mask[:, t]
        advantages[:, t] = last
    return advantages


def clipped_value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor, clip: float
) -> torch.Tensor:
    """Half the squared error, a mean over tokens; of it and that of a value that moved by at most `clip` the greater.

    Args:
        values, old_values, returns, mask: (B, T).
    """
    near = old_values + (values - old_values).clamp(-clip, clip)
    worst = torch.maximum((values - returns).square(), (near - returns).square())
    return 0.5 * (worst * mask).sum() / mask.sum().clamp(min=1)
