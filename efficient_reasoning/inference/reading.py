"""What a model reads without going on with it, in a run: no beginning twice (`prefixes`).

1. A verifier is asked again about what a branch has come to, and a model that rates steps about the next ones. Of such
   a passage, the longest beginning that is held is not computed again, as far as nobody asks about it.
2. Of the passages of a problem of which nothing is held yet, the first is read before the others: these begin behind
   what they have in common with it.
3. What ends a response is not held, unless others wait for its beginning: nobody goes on from there.

Legend: N passages of a pass, P longest of them, Q of its columns that are computed, C most ids of them that are asked
about, V outputs of an id.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from efficient_reasoning.inference.flops import DecodingFlops
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.inference.memory import peak_bytes
from efficient_reasoning.inference.prefixes import Ended, Prefixes
from efficient_reasoning.inference.slots import KeyValues, PromptCache

_MOST_TOKENS, _MOST_OUTPUTS = 1 << 16, 1 << 26  # of one pass
_SHORT_TOKENS = 32  # passages with as little behind what is held are read in one pass


@dataclass(frozen=True)
class Passage:
    """Ids to be read.

    Attributes:
        ids: from the beginning of a prompt on.
        begin: how many stand before the first that is asked about.
        prompt_tokens: of the problem's prompt, which begins them; at most `begin`.
    """

    ids: Sequence[int]
    begin: int
    prompt_tokens: int

    @property
    def problem(self) -> tuple[int, ...]:
        return tuple(self.ids[: self.prompt_tokens])


@dataclass(frozen=True)
class Reader:
    """Reads passages with a model whose attention reads slots.

    Attributes:
        model: in eval mode.
        pad_id: fills the left of shorter passages; never attended to.
        eos_ids: token ids that end a response.
        flops: of the model.
        prefixes: what the run that is under way has read.
    """

    model: PreTrainedModel
    pad_id: int
    eos_ids: frozenset[int]
    flops: DecodingFlops
    prefixes: Prefixes

    @torch.inference_mode()
    def read(
        self,
        passages: Sequence[Passage],
        values: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        before: int,
    ) -> list[tuple[list[float], Ledger]]:
        """What is made of each id that is asked about, and what that cost.

        Args:
            passages: to be read.
            values: what is made (N, C) of the outputs (N, C + before, V) and the ids (N, Q), which end together.
            before: 1 where it takes the output of the id before; else 0.
        """
        found: dict[int, tuple[list[float], Ledger]] = {}
        for wave, is_awaited in self._waves(passages):
            for chosen in self._alike(passages, wave, before):
                began = time.perf_counter()
                batch = [passages[index] for index in chosen]
                rows = [(passage.ids, self._held(passage, before)) for passage in batch]
                ids, lengths, held = self.prefixes.behind(rows, self.pad_id, self.model.device)
                kept = max(len(passage.ids) - passage.begin for passage in batch) + before
                # A classifier of tokens has no head, and says something of all of them.
                heads = {} if self.model.get_output_embeddings() is None else {"logits_to_keep": kept}
                cache, outputs = run(self.model, ids, lengths, held, **heads)
                made = values(outputs[:, -kept:], ids).tolist()
                width = max(len(passage.ids) for passage in batch)
                self.prefixes.put(
                    [
                        Ended(np.array(passage.ids), passage.prompt_tokens, row, width - len(passage.ids))
                        for row, passage in enumerate(batch)
                        if is_awaited or passage.ids[-1] not in self.eos_ids
                    ],
                    cache,
                )
                computed = [len(passage.ids) - len(places) for passage, (_, places) in zip(batch, rows, strict=True)]
                seconds_per_token = (time.perf_counter() - began) / sum(computed)
                peak = peak_bytes(self.model.device)  # once: asking a CUDA device takes long
                for index, passage, row, tokens in zip(chosen, batch, made, computed, strict=True):
                    spend = self._spend(passage, tokens, seconds_per_token * tokens, peak)
                    found[index] = row[len(row) - len(passage.ids) + passage.begin :], spend
        return [found[index] for index in range(len(passages))]

    def _waves(self, passages: Sequence[Passage]) -> Iterator[tuple[list[int], bool]]:
        """Which are read one after the other, and whether others wait for them."""
        first: dict[tuple[int, ...], int] = {}
        waiting = []
        for index, passage in enumerate(passages):
            if first.setdefault(passage.problem, index) != index and not len(self._held(passage, 0)):
                waiting.append(index)
        late = set(waiting)
        yield [index for index in range(len(passages)) if index not in late], bool(waiting)
        yield waiting, False

    def _alike(self, passages: Sequence[Passage], wave: Sequence[int], before: int) -> Iterator[list[int]]:
        """Those that are read together: about as many tokens follow what is held."""
        head = self.model.get_output_embeddings()
        of_id = 1 if head is None else head.weight.shape[0]
        by_tail: dict[int, list[int]] = {}
        for index in sorted(wave, key=lambda index: len(passages[index].ids)):
            tail = len(passages[index].ids) - len(self._held(passages[index], before))
            by_tail.setdefault(max(_SHORT_TOKENS, tail - 1).bit_length(), []).append(index)
        for alike in by_tail.values():
            while alike:
                asked = max(len(passages[index].ids) - passages[index].begin for index in alike) + before
                most = min(_MOST_TOKENS // len(passages[alike[-1]].ids), _MOST_OUTPUTS // (asked * of_id))
                count = max(1, most)
                yield alike[-count:]
                alike = alike[:-count]

    def _held(self, passage: Passage, before: int) -> np.ndarray:
        """Where the beginning of a passage is held; none of what is asked about."""
        return self.prefixes.find(passage.ids[: passage.begin - before + 1], passage.prompt_tokens)

    def _spend(self, passage: Passage, computed_tokens: int, seconds: float, peak: int) -> Ledger:
        tokens, asked = len(passage.ids), len(passage.ids) - passage.begin
        return Ledger(
            requests=1,
            prompt_tokens=tokens,
            computed_prompt_tokens=computed_tokens,
            flops=self.flops.of_score(passage.begin, asked, tokens - computed_tokens),
            seconds=seconds,
            peak_memory_bytes=peak,
        )


def run(
    model: PreTrainedModel, ids: torch.Tensor, lengths: torch.Tensor, held: Sequence[KeyValues] = (), **heads
) -> tuple[PromptCache, torch.Tensor]:
    """Run the last columns (N, Q) of passages that end together, the others of which are held.

    Args:
        model: whose attention reads slots.
        ids: (N, Q).
        lengths: (N,), of the passages.
        held: keys and values (N, K, P - Q, D) of each layer; empty where P is Q.
        heads: arguments of the model about its outputs.

    Returns:
        What each layer keeps of all columns, and the outputs (N, ..., V) of the last of them.
    """
    cache, width = PromptCache(lengths, held), ids.shape[1]
    outputs = model(
        input_ids=ids,
        attention_mask=torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=ids.device),  # a mask that is taken as it is
        position_ids=(torch.arange(width, device=ids.device) - width + lengths[:, None]).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        slots=cache,
        **heads,
    ).logits
    return cache, outputs
