"""What engines that hold a transformers model have in common."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from efficient_reasoning.inference import scoring
from efficient_reasoning.inference.engine import Hidden, Score
from efficient_reasoning.inference.flops import DecodingFlops
from efficient_reasoning.inference.ledger import Ledger

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class ModelEngine:
    """A model, its ends and what it has spent.

    Args:
        model: a causal language model in eval mode.
        eos_ids: token ids that end a completion.
        pad_id: fills up rows; never attended to.
        tokenizer: spells completions, for requests with stop strings.

    Attributes:
        spent: the sum of what all completions, scores and states have been charged.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        eos_ids: frozenset[int],
        pad_id: int,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ):
        self.model = model
        self.eos_ids = eos_ids
        self.pad_id = pad_id
        self.tokenizer = tokenizer
        self.spent = Ledger()

    def score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], offsets: Sequence[int] | None = None
    ) -> list[Score]:
        scores = scoring.score(self.model, self.pad_id, pairs, self.flops)
        self.spent = sum((one.spend for one in scores), self.spent)
        return scores

    def read(self, prompts: Sequence[Sequence[int]]) -> list[Hidden]:
        states = scoring.read(self.model, self.pad_id, prompts, self.flops)
        self.spent = sum((one.spend for one in states), self.spent)
        return states

    @torch.no_grad()
    def refresh(self, model: torch.nn.Module) -> None:
        """Take the weights of `model`, in place: a captured step reads them where they are. It may have more."""
        new = dict(model.named_parameters())
        for name, own in self.model.named_parameters():
            own.copy_(new[name])

    @cached_property
    def flops(self) -> DecodingFlops:
        return DecodingFlops.of(self.model)
