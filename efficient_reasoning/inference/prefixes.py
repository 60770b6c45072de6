"""Keys and values that outlive a call: whoever goes on from what was read before, reads on from there.

1. A search, a trial answer or a forced close asks again, with a prompt that is the prompt of the problem and what has
   been decoded of a response (`Request.offset`). Of those, the longest beginning that is held is not computed again.
2. Held is what a run (`Keeping.keeping`) has read, and nothing beyond it: weights cannot change within a run, and
   what a strategy is charged does not depend on what ran before it.
3. A token's keys and values stand in one place, shared by all responses to a problem that begin alike. Where memory is
   full, the responses of the problem that was asked for least recently go.

Legend: K key-value heads, D head dimension, S tokens in the store, N prompts, H most held tokens of a prompt.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from efficient_reasoning.inference.engine import shared
from efficient_reasoning.inference.memory import cache_bytes, free_bytes, send
from efficient_reasoning.inference.slots import KeyValues, PromptCache, SlotCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FIRST_TOKENS = 1 << 12  # of a store, which doubles up to its bound
_SHARE = 8  # of the free memory, for what a run holds


@dataclass(frozen=True)
class Ended:
    """A row that is about to be released.

    Attributes:
        ids: that it has read.
        prompt_tokens: of the problem's prompt, which begins them.
        row: in the cache.
        column: of the first id.
    """

    ids: np.ndarray
    prompt_tokens: int
    row: int
    column: int


@dataclass
class _Held:
    """What is held of one problem: responses with its prompt, (ids, places) each, and all places that they take."""

    responses: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    places: list[int] = field(default_factory=list)

    def longest(self, ids: np.ndarray) -> tuple[int | None, int]:
        """Which response begins most like these ids, and for how many of them."""
        lengths = [shared(ids, other) for other, _ in self.responses]
        best = max(range(len(lengths)), key=lengths.__getitem__, default=None)
        return best, 0 if best is None else lengths[best]

    def add(self, ids: np.ndarray, best: int | None, common: int, places: list[int]) -> None:
        """A response that has so many ids in common with the best one, and takes places of its own from there on."""
        known, before = (ids[:0], np.zeros(0, dtype=np.int64)) if best is None else self.responses[best]
        response = (ids, np.concatenate([before[:common], np.array(places)]))
        if best is not None and common == len(known):
            self.responses[best] = response
        else:
            self.responses.append(response)
        self.places += places


class Prefixes:
    """Keys and values of what a run has read.

    Args:
        most_tokens: that it holds.
    """

    def __init__(self, most_tokens: int):
        self.most_tokens = most_tokens
        self._of_problem: OrderedDict[bytes, _Held] = OrderedDict()  # by its prompt, the one used last at the end
        self._layers: list[KeyValues] = []  # (S, K, D)
        self._tokens = 0  # S
        self._free: list[int] = []

    def find(self, ids: Sequence[int], prompt_tokens: int) -> np.ndarray:
        """Places of the longest beginning of the ids that is held; of all but the last, whose logits are wanted.

        Args:
            ids: to be read.
            prompt_tokens: of the problem's prompt, without which nothing is found.
        """
        ids = np.asarray(ids)
        held = self._of_problem.get(ids[:prompt_tokens].tobytes())
        if held is None:
            return np.zeros(0, dtype=np.int64)
        self._of_problem.move_to_end(ids[:prompt_tokens].tobytes())
        best, common = held.longest(ids)
        return held.responses[best][1][: min(common, len(ids) - 1)]

    def behind(
        self, rows: Sequence[tuple[Sequence[int], np.ndarray]], pad_id: int, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor, list[KeyValues]]:
        """Ids that end together, the beginnings of which are held: all compute as many columns, the others are held.

        Args:
            rows: ids, and the places of a beginning of them, which `find` may have found.
            pad_id: fills the left of shorter ones.
            device: of the model.

        Returns:
            The columns (N, Q) to compute, with held tokens in place of padding, the number of each row's ids (N,), and
            keys and values (N, K, P - Q, D) of the columns before.
        """
        width = max(len(ids) for ids, _ in rows)
        tail = max(len(ids) - len(held) for ids, held in rows)  # Q
        columns = np.full((len(rows), tail), pad_id)
        places = np.zeros((len(rows), width - tail), dtype=np.int64)
        for n, (ids, held) in enumerate(rows):
            columns[n, -len(ids) :] = ids[-tail:]
            if len(ids) > tail:
                places[n, width - len(ids) :] = held[: len(ids) - tail]
        lengths = np.array([len(ids) for ids, _ in rows])
        columns, places, lengths = (send(torch.from_numpy(each), device) for each in (columns, places, lengths))
        return columns, lengths, self.gather(places) if width > tail else []

    def gather(self, places: torch.Tensor) -> list[KeyValues]:
        """What each layer keeps of tokens (N, H) in the store, (N, K, H, D)."""
        return [KeyValues(*(states[places].transpose(1, 2) for states in layer)) for layer in self._layers]

    def put(self, rows: Sequence[Ended], cache: SlotCache | PromptCache) -> None:
        """Hold what these rows of the cache have read; what is held already stays where it is."""
        sources: dict[int, tuple[int, int]] = {}  # by place, so that one that was taken back is written once
        for row in rows:
            places, end = self._room_for(row, cache), row.column + len(row.ids)
            columns = range(end - len(places), end)
            sources.update(zip(places, ((row.row, column) for column in columns), strict=True))
        if not sources:
            return
        index = torch.tensor([(place, *source) for place, source in sources.items()]).T.contiguous()
        to, row, column = send(index, cache.lengths.device)
        for layer, states in zip(self._layers, cache.layers, strict=True):
            for held, own in zip(layer, states, strict=True):
                held[to] = own[row, :, column]

    def _room_for(self, row: Ended, cache: SlotCache | PromptCache) -> list[int]:
        """Places for the last ids of a row, which are not held yet."""
        problem = row.ids[: row.prompt_tokens].tobytes()
        held = self._of_problem.pop(problem, None) or _Held()
        best, common = held.longest(row.ids)
        places = self._take(len(row.ids) - common, cache)
        if places:
            held.add(row.ids, best, common, places)
        if held.responses:
            self._of_problem[problem] = held
        return places

    def _take(self, count: int, cache: SlotCache | PromptCache) -> list[int]:
        """Free places, others' if need be; none where there are not so many."""
        while len(self._free) < count:
            if self._tokens < self.most_tokens:
                self._grow(cache)
            elif self._of_problem:
                self._free += self._of_problem.popitem(last=False)[1].places
            else:
                return []  # one problem fills the store
        kept = len(self._free) - count
        taken, self._free[kept:] = self._free[kept:], []
        return taken

    def _grow(self, cache: SlotCache | PromptCache) -> None:
        tokens = min(self.most_tokens, max(_FIRST_TOKENS, 2 * self._tokens))

        def larger(layer: int, kind: int, like: torch.Tensor) -> torch.Tensor:
            states = like.new_zeros(tokens, like.shape[1], like.shape[3])  # padding reads what nobody has written
            if self._tokens:
                states[: self._tokens] = self._layers[layer][kind]
            return states

        self._layers = [
            KeyValues(*(larger(number, kind, like) for kind, like in enumerate(layer)))
            for number, layer in enumerate(cache.layers)
        ]
        self._free += range(self._tokens, tokens)
        self._tokens = tokens


class Keeping:
    """A model whose attention reads slots, and what a run of it has read.

    Attributes:
        model: reads.
        prefixes: what the run that is under way has read; None between runs.
    """

    model: PreTrainedModel
    prefixes: Prefixes | None = None

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """A run: what one call reads of responses is held for the next ones. Weights must stay as they are meanwhile.

        All of it is dropped behind the outermost run. Models with states hold nothing, since a state cannot be cut.
        """
        of_column, of_row = self.cache_bytes
        if self.prefixes is not None or of_row:
            yield
            return
        self.prefixes = Prefixes(free_bytes(self.model.device) // _SHARE // of_column)
        try:
            yield
        finally:
            self.prefixes = None

    @cached_property
    def cache_bytes(self) -> tuple[int, int]:
        return cache_bytes(self.model)
