"""RLOO (arXiv 2402.14740) as TRL has it, with rollouts of this toolkit's engine, for which TRL has no place there.

A response's advantage is its reward less the mean of the others of its group, and its ratio is that of the whole
response. TRL's RLOO corrects nothing where another program draws otherwise than the trainer computes, vLLM included.

    RLOOTrainer(..., rollout_func=EngineRollouts(thinking, config))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import trl

from efficient_reasoning.prompts import encode_prompt


@dataclass
class RLOOConfig(trl.RLOOConfig):
    """TRL's, without a reference model unless one is asked for."""

    beta: float = field(default=0.0, metadata={"help": "Weight of the divergence from the reference in the reward."})


class RLOOTrainer(trl.RLOOTrainer):
    """TRL's RLOOTrainer with a `rollout_func` such as GRPOTrainer takes; None leaves the generation to TRL."""

    def __init__(self, *args, rollout_func: Callable[[list, RLOOTrainer], dict] | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.rollout_func = rollout_func

    def _tokenize_prompts(self, prompts: list) -> tuple:
        if self.rollout_func is None:
            return super()._tokenize_prompts(prompts)
        return [encode_prompt(self.processing_class, prompt) for prompt in prompts], None, {}

    def _generate_single_turn(self, prompt_ids: list[list[int]], *rest) -> list[list[int]]:
        if self.rollout_func is None:
            return super()._generate_single_turn(prompt_ids, *rest)
        return self.rollout_func(prompt_ids, self)["completion_ids"]
