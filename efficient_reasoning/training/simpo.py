"""SimPO (arXiv 2405.14734): preferences by the mean log-probability of a token, without a reference model.

The loss of a pair is -log sigmoid(beta * (mean log p of chosen - mean log p of rejected) - gamma). TRL has it among
the losses of its CPOTrainer, which would add a likelihood term of CPO's own (`cpo_alpha`), and cut at 512 tokens where
`max_length` is none.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from trl.experimental.cpo import CPOConfig, CPOTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class SimPOConfig(CPOConfig):
    """CPOConfig with SimPO's constants."""

    loss_type: Literal["simpo"] = field(default="simpo", metadata={"help": "What makes it SimPO."})
    cpo_alpha: float = field(default=0.0, metadata={"help": "Weight of CPO's likelihood term; SimPO has none."})
    beta: float = field(default=2.0, metadata={"help": "Scale of the difference of mean log-probabilities."})
    simpo_gamma: float = field(default=1.0, metadata={"help": "Margin by which chosen has to win."})
    max_length: int = field(default=1024, metadata={"help": "Most tokens of a prompt with its response."})


class SimPOTrainer(CPOTrainer):
    """CPOTrainer on prompts as inference encodes them, and with room behind them for a response.

    CPOTrainer puts a BOS before every text, also where the tokenizer writes none; and of a response without tokens,
    behind a prompt that fills `max_length`, the mean is not a number.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        room = self.max_length
        self.train_dataset = self.train_dataset.filter(lambda row: len(row["prompt_input_ids"]) < room)

    def tokenize_row(self, feature: dict, model: PreTrainedModel | None = None) -> dict:
        row = super().tokenize_row(feature, model)
        bos = self.processing_class.bos_token_id
        if bos is None or self.processing_class(feature["prompt"])["input_ids"][:1] == [bos]:
            return row
        return {name: ids[1:] for name, ids in row.items()}
