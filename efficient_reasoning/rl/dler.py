"""DLER (arXiv 2510.15110): the crudest length reward, a limit, with what keeps it from collapsing.

1. The limit is `max_completion_length`: a response that it cuts off is wrong, and reward `accuracy` pays nothing else.
2. Advantages are divided by the deviation of the whole batch, and the ratio is clipped higher above 1 than below.
3. A group whose responses are all paid alike teaches nothing. Under a hard limit these are most; so they are dropped,
   and the batch is filled up from further prompts (dynamic sampling, DAPO, arXiv 2503.14476), which TRL does not do.

    DLERTrainer(..., rollout_func=EngineRollouts(thinking, config))
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from efficient_reasoning.errors import BadInput
from efficient_reasoning.rl.config import LengthRewardConfig
from efficient_reasoning.rl.rollout_correction import CorrectedGRPOTrainer

if TYPE_CHECKING:
    from efficient_reasoning.rewards import LengthReward

_PARTS = 8  # of what `GRPOTrainer._generate` returns
_PER_RESPONSE = (0, 1, 3, 4)  # prompt ids, completion ids, completions, log-probabilities
_NOT_COLUMNS = ("prompt", "completion", "completion_ids")  # which TRL keeps from a reward, as traces may have them


@dataclass
class DLERConfig(LengthRewardConfig):
    """LengthRewardConfig with DLER's constants."""

    epsilon_high: float | None = field(default=0.28, metadata={"help": "How far above 1 a ratio counts."})
    max_refills: int = field(
        default=3, metadata={"help": "Rounds of further prompts for one batch; 0 keeps the groups that teach nothing."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_refills < 0:
            raise BadInput(f"max_refills is {self.max_refills}; give 0 or more.")


class DLERTrainer(CorrectedGRPOTrainer):
    """CorrectedGRPOTrainer that drops groups that are paid alike, and fills the batch up.

    Logs `refills` (rounds), and `dropped_groups`, the share of all groups that were generated.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.check(*self.reward_funcs)
        self._ready: tuple | None = None  # what `_generate` has to return

    @staticmethod
    def check(reward: LengthReward) -> None:
        """Raise BadInput for a reward that does not go with it."""
        if reward.remembers:
            raise BadInput(
                f"Reward {reward.__name__} or its shaping remembers batches, and dler pays some twice; use grpo."
            )

    def _generate(self, prompts: list) -> tuple:
        if self._ready is None:
            return super()._generate(prompts)
        ready, self._ready = self._ready, None
        self.use_vllm = True  # as in the class above
        return ready

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict:
        if self.model.training and self.args.max_refills:
            inputs, self._ready = self._filled(inputs)
        return super()._generate_and_score_completions(inputs)

    def _filled(self, inputs: list[dict]) -> tuple[list[dict], tuple]:
        """As many groups, of these inputs and others, with their responses; those that teach something first."""
        size, wanted = self.num_generations, len(inputs) // self.num_generations
        kept: list[tuple[list[dict], list]] = []
        dropped: list[tuple[list[dict], list]] = []
        refills = 0
        while True:
            with self._restoring_use_vllm():
                parts = list(super()._generate([row["prompt"] for row in inputs]))
            rewards = torch.tensor(self._pay(inputs, parts)).view(-1, size)
            for group, paid in enumerate(rewards):
                members = slice(group * size, (group + 1) * size)
                found = inputs[members], [parts[part] and parts[part][members] for part in _PER_RESPONSE]
                (kept if paid.max() > paid.min() else dropped).append(found)
            missing = torch.tensor([wanted - len(kept)], device=self.accelerator.device)
            missing = int(self.accelerator.gather(missing).max())  # all processes generate as much
            if missing <= 0 or refills == self.args.max_refills:
                break
            refills += 1
            # From the generator that checkpoints restore, and that is another one in every process.
            drawn = torch.randint(len(self.train_dataset), (missing,)).tolist()
            inputs = [dict(self.train_dataset[index]) for index in drawn for _ in range(size)]
        metrics = self._metrics["train"]
        metrics["refills"].append(refills)
        counts = torch.tensor([[len(dropped), len(dropped) + len(kept)]], device=self.accelerator.device)
        lost, all_groups = self.accelerator.gather(counts).sum(0).tolist()
        metrics["dropped_groups"].append(lost / all_groups)
        chosen = [*kept, *dropped][:wanted]
        ready: list = [None] * _PARTS
        for place, part in enumerate(_PER_RESPONSE):
            if parts[part] is not None:
                ready[part] = [one for _, found in chosen for one in found[place]]
        ready[5], ready[7] = {}, []  # no further columns, no images
        return [row for rows, _ in chosen for row in rows], tuple(ready)

    def _pay(self, inputs: list[dict], parts: list) -> list[float]:
        columns = {name: [row[name] for row in inputs] for name in inputs[0] if name not in _NOT_COLUMNS}
        prompts = [row["prompt"] for row in inputs]
        return self.reward_funcs[0](prompts=prompts, completions=parts[3], completion_ids=parts[1], **columns)
