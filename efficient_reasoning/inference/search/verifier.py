"""A process verifier: a token classifier that says, at the end of each step, how likely the answer is to be right.

1. It is an ordinary checkpoint for token classification with the labels "wrong" and "right", made from a causal model
   (`efficient-reasoning train train_verifier`): what it says of an id depends on nothing that follows.
2. In a run it holds what it has read of responses that may go on (`prefixes`), where its attention reads slots. Else
   it reads them whole, prompt included, right-padded and without a cache.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers.modeling_layers import GenericForTokenClassification

from efficient_reasoning.checkpoint import load_config, load_tokenizer, resolve_model, thinking_format
from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import step_attention
from efficient_reasoning.inference.engine import Rated, Rating
from efficient_reasoning.inference.flops import DecodingFlops
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.inference.memory import peak_bytes
from efficient_reasoning.inference.prefixes import Keeping
from efficient_reasoning.inference.reading import Passage, Reader
from efficient_reasoning.thinking import ThinkingFormat

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LABELS = ("wrong", "right")
_TOKENS = 1 << 15  # most of one pass, padding included

# Legend: N responses of a pass, T longest of them with its prompt.


@dataclass(eq=False)
class Verifier(Keeping):
    """Rates ids by the probability that the response that begins with them will be right.

    Attributes:
        model: classifies tokens by LABELS.
        tokenizer, thinking: of its checkpoint, as a reasoner has them.
        name: what it was loaded as, without the folders around it.
        prefixes: what the run that is under way has read; None between runs, and where nothing can be held.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    thinking: ThinkingFormat
    name: str

    @functools.cached_property
    def flops(self) -> DecodingFlops:
        return DecodingFlops.of(self.model)

    def keeping(self) -> AbstractContextManager:
        return super().keeping() if self.model.config._attn_implementation == step_attention.NAME else nullcontext()

    def rate(self, ratings: Sequence[Rating]) -> list[Rated]:
        """P(right) behind each id from `begin` on."""
        if self.prefixes is not None:
            return self._read_on(ratings)
        rated: dict[int, Rated] = {}
        order = sorted(range(len(ratings)), key=lambda index: len(ratings[index].ids))
        while order:
            count = max(1, _TOKENS // len(ratings[order[-1]].ids))
            chosen, order = order[-count:], order[:-count]
            rated.update(zip(chosen, self._one_pass([ratings[index] for index in chosen]), strict=True))
        return [rated[index] for index in range(len(ratings))]

    def _read_on(self, ratings: Sequence[Rating]) -> list[Rated]:
        reader = Reader(self.model, 0, self.thinking.eos_ids, self.flops, self.prefixes)
        passages = [Passage(rating.ids, rating.begin, rating.begin - rating.offset) for rating in ratings]
        read = reader.read(passages, lambda logits, ids: _right(logits), before=0)
        return [Rated(values, replace(spend, rated_tokens=spend.prompt_tokens)) for values, spend in read]

    @torch.inference_mode()
    def _one_pass(self, ratings: Sequence[Rating]) -> list[Rated]:
        began = time.perf_counter()
        rows = [list(rating.ids) for rating in ratings]
        longest, device = max(map(len, rows)), self.model.device
        # Padding stands behind what is read, where causal attention never looks: any id will do, and no mask.
        input_ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)  # (N, T)
        logits = self.model(input_ids=input_ids, use_cache=False).logits  # (N, T, 2)
        right = _right(logits).tolist()
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


def _right(logits: torch.Tensor) -> torch.Tensor:
    """P(right) (N, T) of logits (N, T, 2)."""
    return logits.float().softmax(-1)[:, :, LABELS.index("right")]


@functools.lru_cache(maxsize=4)  # strategies are made anew for every chunk of problems
def load_verifier(model: str) -> Verifier:
    """A verifier, which stays loaded.

    Args:
        model: folder or Hub id.

    Raises:
        BadInput: a broken checkpoint, or one that is no verifier.
    """
    from transformers import AutoModelForTokenClassification

    from efficient_reasoning.inference.graph_engine import GraphEngine

    location = resolve_model(model)
    tokenizer, config = load_tokenizer(location), load_config(location)
    is_classifier = any("TokenClassification" in name for name in config.architectures or [])
    if not is_classifier or config.label2id != {label: number for number, label in enumerate(LABELS)}:
        raise BadInput(f"{model}: no verifier; `efficient-reasoning train train_verifier` makes one.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = "float32" if device == "cpu" else "auto"
    loaded = AutoModelForTokenClassification.from_pretrained(location, dtype=dtype).to(device).eval()
    if isinstance(loaded, GenericForTokenClassification) and GraphEngine.can_decode(config):
        with suppress(BadInput):  # it holds nothing, then
            step_attention.use_slots(loaded)
    name = Path(model).name if Path(model).is_dir() else model
    return Verifier(loaded, tokenizer, thinking_format(location, tokenizer), name)
