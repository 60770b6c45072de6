"""AdaptThink (arXiv 2505.13417): learn for which problems not to think at all.

1. Half of the responses to a problem are made to open with an empty block, the others made not to: both modes are
   seen from the first step on, however rarely the model would choose one of them.
2. Their choice, the first token behind the opened block, was drawn with a probability of one half then, whatever the
   policy gives it; what thinks draws among the other tokens. The old log-probability says so (`drawn_by_lot`), and the
   loss is PPO's, clipped, with nothing else changed.
3. A response earns C - Aref, and `empty_bonus` where it does not think: an advantage as it stands. Means of a group
   would compare modes, of which one was forced; Aref is the accuracy of the reference model on the problem, a column
   that `efficient-reasoning data reference_lengths` writes.

    AdaptThinkTrainer(..., rollout_func=EngineRollouts(thinking, config, empty_share=config.empty_share))
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from trl.models.utils import disable_gradient_checkpointing

from efficient_reasoning.errors import BadInput
from efficient_reasoning.rl.config import LengthRewardConfig
from efficient_reasoning.rl.rollout_correction import CorrectedGRPOTrainer

if TYPE_CHECKING:
    from efficient_reasoning.rewards import LengthReward

_REFERENCE = "reference_accuracy"


@dataclass
class AdaptThinkConfig(LengthRewardConfig):
    """LengthRewardConfig with AdaptThink's constants."""

    empty_bonus: float = field(default=0.05, metadata={"help": "What not to think is worth, in shares of accuracy."})
    empty_share: float = field(default=0.5, metadata={"help": "Share of a group that is made not to think."})

    vllm_importance_sampling_mode: str = field(
        default="token_truncate", metadata={"help": "How the correction of rollouts weighs; a token_ mode."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < round(self.empty_share * self.num_generations) < self.num_generations:
            raise BadInput(
                f"empty_share is {self.empty_share}: of {self.num_generations} responses all or none would not think; "
                "give a share between, or more num_generations."
            )
        if self.use_vllm:
            raise BadInput("vLLM cannot open some responses with an empty block here; leave out use_vllm.")
        if self.vllm_importance_sampling_mode.startswith("sequence"):
            raise BadInput(
                f"vllm_importance_sampling_mode is {self.vllm_importance_sampling_mode}, and one token of each "
                "response is drawn by lot; set it to token_truncate or token_mask."
            )


class AdaptThinkTrainer(CorrectedGRPOTrainer):
    """CorrectedGRPOTrainer whose rollouts choose their mode by lot; its reward is `accuracy`.

    Logs `empty_probability`: what the policy gives to not thinking, a mean over the batch's problems.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.check(*self.reward_funcs)
        if _REFERENCE not in self.train_dataset.column_names:
            raise BadInput(
                f"AdaptThink needs column {_REFERENCE!r}; write the rows with `efficient-reasoning data "
                "reference_lengths`."
            )

    @staticmethod
    def check(reward: LengthReward) -> None:
        """Raise BadInput for a reward that does not go with it."""
        if reward.__name__ != "accuracy":
            raise BadInput(f"reward is {reward.__name__}, and AdaptThink pays accuracy alone; give that.")

    def _calculate_rewards(self, *args) -> torch.Tensor:
        self._rewards = super()._calculate_rewards(*args)  # (N of all processes, 1)
        return self._rewards

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict:
        batch = super()._generate_and_score_completions(inputs)
        if not self.model.training:
            return batch
        # Where the mode is chosen: the first token that was not forced to be there.
        place = batch["tool_mask"].argmax(1, keepdim=True)  # (B, 1)
        closes = torch.tensor([row["closes"] for row in inputs], device=place.device)[:, None]
        is_empty = batch["completion_ids"].gather(1, place) == closes
        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            log_empty = self._log_empty(batch, place, closes)  # (B, 1)
            old = batch.get("old_per_token_logps")
            if old is None:  # TRL spares it where a batch serves one update
                names = "prompt_ids", "prompt_mask", "completion_ids", "completion_mask"
                old = self._logps(*(batch[name] for name in names))
        drawn = drawn_by_lot(old.gather(1, place), is_empty, log_empty, self.args.empty_share)
        batch["old_per_token_logps"] = old.scatter(1, place, drawn)
        first = self.accelerator.process_index * len(inputs)
        correct = self._rewards[first : first + len(inputs), 0]
        reference = torch.tensor([row[_REFERENCE] for row in inputs], device=place.device)
        batch["advantages"] = correct - reference + self.args.empty_bonus * is_empty[:, 0]
        empty = self.accelerator.gather(log_empty[:, 0].exp())
        self._metrics["train"]["empty_probability"].append(empty.mean().item())
        return batch

    def _log_empty(self, batch: dict, place: torch.Tensor, closes: torch.Tensor) -> torch.Tensor:
        """Log-probability (B, 1) that the policy chooses not to think."""
        longest = int(place.max()) + 1
        ids = batch["completion_ids"][:, :longest].scatter(1, place, closes)
        # The prompts of a group are the same, and so is what was forced in front of the choice.
        size = self.num_generations
        columns = batch["prompt_ids"], batch["prompt_mask"], ids, batch["completion_mask"][:, :longest]
        logps = self._logps(*(column[::size] for column in columns))
        return logps.gather(1, place[::size]).repeat_interleave(size, 0)

    def _logps(self, prompt_ids, prompt_mask, ids, mask) -> torch.Tensor:
        """Log-probabilities (B, T) of the completions' ids (B, T)."""
        whole, attention = torch.cat([prompt_ids, ids], 1), torch.cat([prompt_mask, mask], 1)
        size = self.args.per_device_train_batch_size
        return self._get_per_token_logps_and_entropies(self.model, whole, attention, ids.shape[1], batch_size=size)[0]


def drawn_by_lot(
    old: torch.Tensor, is_empty: torch.Tensor, log_empty: torch.Tensor, empty_share: float
) -> torch.Tensor:
    """Log-probabilities with which tokens were drawn, where not thinking was drawn with a fixed share.

    Args:
        old: log-probability of each token under the policy.
        is_empty: whether it is the one that closes the block at once.
        log_empty: log-probability of that one under the policy.
        empty_share: the share; the others are drawn as the policy draws among them.
    """
    others = (-log_empty.exp()).clamp(min=-1 + 1e-6).log1p()
    return torch.where(is_empty, math.log(empty_share), math.log(1 - empty_share) + old - others)
