"""A process verifier: a token classifier that says, at the end of each step, how likely the answer is to be right.

1. It is an ordinary checkpoint for token classification with the labels "wrong" and "right", made from a causal model
   (`efficient-reasoning train train_verifier`): what it says of an id depends on nothing that follows.
2. It reads whole responses, prompt included, right-padded and without a cache: a search that asks again about the same
   beginning pays for it again.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from efficient_reasoning.checkpoint import load_config, load_tokenizer, resolve_model, thinking_format
from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.engine import Rated, Rating
from efficient_reasoning.inference.flops import DecodingFlops
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.inference.memory import peak_bytes
from efficient_reasoning.thinking import ThinkingFormat

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LABELS = ("wrong", "right")
_TOKENS = 1 << 15  # most of one pass, padding included

# Legend: N responses of a pass, T longest of them with its prompt.


@dataclass(frozen=True)
class Verifier:
    """Rates ids by the probability that the response that begins with them will be right.

    Attributes:
        model: classifies tokens by LABELS.
        tokenizer, thinking: of its checkpoint, as a reasoner has them.
        name: what it was loaded as, without the folders around it.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    thinking: ThinkingFormat
    name: str

    @functools.cached_property
    def flops(self) -> DecodingFlops:
        return DecodingFlops.of(self.model)

    def rate(self, ratings: Sequence[Rating]) -> list[Rated]:
        """P(right) behind each id from `begin` on."""
        rated: dict[int, Rated] = {}
        order = sorted(range(len(ratings)), key=lambda index: len(ratings[index].ids))
        while order:
            count = max(1, _TOKENS // len(ratings[order[-1]].ids))
            chosen, order = order[-count:], order[:-count]
            rated.update(zip(chosen, self._one_pass([ratings[index] for index in chosen]), strict=True))
        return [rated[index] for index in range(len(ratings))]

    @torch.inference_mode()
    def _one_pass(self, ratings: Sequence[Rating]) -> list[Rated]:
        began = time.perf_counter()
        rows = [list(rating.ids) for rating in ratings]
        longest, device = max(map(len, rows)), self.model.device
        # Padding stands behind what is read, where causal attention never looks: any id will do, and no mask.
        input_ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)  # (N, T)
        logits = self.model(input_ids=input_ids, use_cache=False).logits  # (N, T, 2)
        right = logits.float().softmax(-1)[:, :, LABELS.index("right")].tolist()  # (N, T)
        seconds_per_token = (time.perf_counter() - began) / sum(map(len, rows))
        return [
            Rated(
                values[rating.begin : len(row)],
                Ledger(
                    requests=1,
                    prompt_tokens=len(row),
                    computed_prompt_tokens=len(row),
                    rated_tokens=len(row),
                    flops=self.flops.of_score(len(row), 0),
                    seconds=seconds_per_token * len(row),
                    peak_memory_bytes=peak_bytes(device),
                ),
            )
            for rating, row, values in zip(ratings, rows, right, strict=True)
        ]


@functools.lru_cache(maxsize=4)  # strategies are made anew for every chunk of problems
def load_verifier(model: str) -> Verifier:
    """A verifier, which stays loaded.

    Args:
        model: folder or Hub id.

    Raises:
        BadInput: a broken checkpoint, or one that is no verifier.
    """
    from transformers import AutoModelForTokenClassification

    location = resolve_model(model)
    tokenizer, config = load_tokenizer(location), load_config(location)
    is_classifier = any("TokenClassification" in name for name in config.architectures or [])
    if not is_classifier or config.label2id != {label: number for number, label in enumerate(LABELS)}:
        raise BadInput(f"{model}: no verifier; `efficient-reasoning train train_verifier` makes one.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = "float32" if device == "cpu" else "auto"
    loaded = AutoModelForTokenClassification.from_pretrained(location, dtype=dtype).to(device).eval()
    name = Path(model).name if Path(model).is_dir() else model
    return Verifier(loaded, tokenizer, thinking_format(location, tokenizer), name)
