"""Prompts, read side by side before rows decode behind them.

1. Those that are about as long are padded on the left and read in one pass; of those whose beginnings are held, only
   what follows; those with latents in one pass a latent, and one more.
2. On CUDA a pass is captured by its shape, of which rounding leaves few; passes over latents when a shape comes again,
   since each takes as long as many others. Passes behind held beginnings have too many shapes.

Legend: N prompts, P longest prompt, Q of its columns that are computed, K key-value heads, D head dimension, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from efficient_reasoning.inference.capture import Captured
from efficient_reasoning.inference.engine import Request
from efficient_reasoning.inference.memory import send
from efficient_reasoning.inference.reading import run
from efficient_reasoning.inference.slots import KeyValues, Layers

if TYPE_CHECKING:
    from efficient_reasoning.inference.graph_engine import GraphEngine

_MOST_TOKENS, _MOST_PROMPTS = 1 << 16, 512  # of one pass
_PROMPTS_APART, _WIDTHS_APART = 16, 32  # shapes of captured passes are multiples of these
_SHORT_TOKENS = 32  # prompts with as little behind what is held are read in one pass
_HELD_TOKENS = 2 * _MOST_TOKENS  # of captured passes: each keeps the keys and values that it writes


@dataclass(frozen=True)
class Prompts:
    """Prefilled prompts.

    Attributes:
        number: n of each prompt.
        layers: what each layer keeps of them.
        logits: (N, V) behind the prompts.
        lengths: (N,) in tokens.
    """

    number: dict[tuple[int, ...], int]
    layers: Layers
    logits: torch.Tensor
    lengths: torch.Tensor

    def only(self, prompt: tuple[int, ...]) -> Prompts:
        n = self.number[prompt]
        layers = [layer._make(states[n : n + 1].clone() for states in layer) for layer in self.layers]
        return Prompts({prompt: 0}, layers, self.logits[n : n + 1].clone(), self.lengths[n : n + 1])


class Prefill:
    """Reads prompts.

    Args:
        engine: whose model reads.
        pool: of what is captured; None where nothing is.
    """

    def __init__(self, engine: GraphEngine, pool: tuple[int, int] | None):
        self.engine, self.pool = engine, pool
        self.device = engine.model.device
        compiles = engine.compile_step and pool is not None
        self._pass = torch.compile(self._run, dynamic=True) if compiles else self._run
        self._captured: dict[tuple[int, ...], Captured] = {}  # by shape, the one used last at the end
        self._seen: set[tuple[int, ...]] = set()  # shapes of passes over latents

    def close(self) -> None:
        """Give the memory back."""
        self._captured.clear()

    def held(self, prompt: tuple[int, ...], requests: Iterable[Request]) -> np.ndarray:
        """Where keys and values of the beginning of a prompt are held, for requests that go on from it."""
        offset = max(request.offset for request in requests)
        if not offset or not self.engine.holds(prompt, len(prompt) - offset):
            return np.zeros(0, dtype=np.int64)
        return self.engine.prefixes.find(prompt, len(prompt) - offset)

    def alike(self, held: Mapping[tuple[int, ...], np.ndarray]) -> Iterator[dict[tuple[int, ...], np.ndarray]]:
        """Prompts that are read together: about as many tokens follow what is held, or equally many the latents.

        Args:
            held: where beginnings of prompts are held; the prompts sorted by length.
        """
        latents = self.engine.latents
        by_tail: dict[tuple, list[tuple[int, ...]]] = {}
        for prompt, places in held.items():
            if len(places):
                tail = "held", max(_SHORT_TOKENS, len(prompt) - len(places) - 1).bit_length()
            else:
                tail = "latents", latents.tail(prompt) if latents is not None else None
            by_tail.setdefault(tail, []).append(prompt)
        for alike in by_tail.values():
            while alike:
                count = max(1, min(_MOST_PROMPTS, _MOST_TOKENS // len(alike[-1])))
                yield {prompt: held[prompt] for prompt in alike[:count]}
                alike = alike[count:]

    def read(self, held: Mapping[tuple[int, ...], np.ndarray]) -> Prompts:
        """What stays of prompts, and their logits; on CUDA they stay valid until the next call.

        Args:
            held: where their beginnings are held: of all of them, or of none. They are `alike`.
        """
        prompts = list(held)
        if len(held[prompts[0]]):
            read, lengths = self._read_on(held)
        elif self.engine.latents is not None and self.engine.latents.columns(prompts[0]):
            read, lengths = self._read_latents(prompts)
        else:
            read, lengths = self._read_whole(prompts)
        return Prompts({prompt: n for n, prompt in enumerate(prompts)}, *read, lengths)

    def _read_whole(self, prompts: Sequence[tuple[int, ...]]) -> tuple[tuple[Layers, torch.Tensor], torch.Tensor]:
        count, width = self._shape(len(prompts), max(map(len, prompts)))
        padded = np.full((count, width), self.engine.pad_id)  # (N, P)
        lengths = np.ones(count, dtype=np.int64)
        for n, prompt in enumerate(prompts):
            padded[n, width - len(prompt) :] = prompt
            lengths[n] = len(prompt)
        ids, lengths = self._send(padded, lengths)
        return self._run_captured(self._pass, (ids, lengths), (count, width)), lengths

    def _read_latents(self, prompts: Sequence[tuple[int, ...]]) -> tuple[tuple[Layers, torch.Tensor], torch.Tensor]:
        latents, model = self.engine.latents, self.engine.model
        count, _ = self._shape(len(prompts), max(map(len, prompts)))
        lengths = np.array([len(prompt) for prompt in prompts])
        prompts = [*prompts, *[prompts[-1]] * (count - len(prompts))]
        batch = latents.batch(prompts, self.engine.pad_id, 1 if self.pool is None else _WIDTHS_APART)

        def run(ids: torch.Tensor, mask: torch.Tensor, is_latent: torch.Tensor) -> tuple[Layers, torch.Tensor]:
            shown = replace(batch, input_ids=ids, attention_mask=mask, is_latent=is_latent)
            layers, states = latents.read(model, shown)
            return [KeyValues(*layer) for layer in layers], model.get_output_embeddings()(states)

        inputs = [send(each, self.device) for each in (batch.input_ids, batch.attention_mask, batch.is_latent)]
        shape = (*batch.input_ids.shape, batch.first_column, batch.end_column)
        read = self._run_captured(run, inputs, shape) if shape in self._seen else run(*inputs)
        self._seen.add(shape)
        return read, send(torch.from_numpy(lengths), self.device)

    def _read_on(self, held: Mapping[tuple[int, ...], np.ndarray]) -> tuple[tuple[Layers, torch.Tensor], torch.Tensor]:
        """Prompts whose beginnings are held."""
        ids, lengths, states = self.engine.prefixes.behind(list(held.items()), self.engine.pad_id, self.device)
        return self._run(ids, lengths, states), lengths

    def _run(
        self, ids: torch.Tensor, lengths: torch.Tensor, held: Sequence[KeyValues] = ()
    ) -> tuple[Layers, torch.Tensor]:
        """Run the last columns (N, Q) of prompts of these lengths (N,), the others of which are held (N, K, P - Q, D):
        what each layer keeps of all of them, and logits (N, V) behind them.
        """
        cache, logits = run(self.engine.model, ids, lengths, held, logits_to_keep=1)
        return cache.layers, logits[:, -1]

    def _shape(self, count: int, width: int) -> tuple[int, int]:
        """Prompts and columns of the pass that reads these."""
        if self.pool is None:
            return count, width
        width = up_to(_WIDTHS_APART, width)
        return max(count, min(up_to(_PROMPTS_APART, count), _MOST_TOKENS // width)), width

    def _run_captured(
        self,
        run: Callable[..., tuple[Layers, torch.Tensor]],
        inputs: Sequence[torch.Tensor],
        shape: tuple[int, ...],
    ) -> tuple[Layers, torch.Tensor]:
        """What `run` makes of the inputs; the shape, prompts and columns first, is all else that it depends on."""
        if self.pool is None:
            return run(*inputs)
        captured = self._captured.pop(shape, None)
        if captured is None:
            while self._captured and sum(n * p for n, p, *_ in [shape, *self._captured]) > _HELD_TOKENS:
                del self._captured[next(iter(self._captured))]
            captured = Captured(run, inputs, self.pool)
        self._captured[shape] = captured
        return captured(*inputs)

    def _send(self, *arrays: np.ndarray) -> list[torch.Tensor]:
        return [send(torch.from_numpy(array), self.device) for array in arrays]


def up_to(multiple: int, number: int) -> int:
    return -(-number // multiple) * multiple
