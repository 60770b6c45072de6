"""Decoding with fixed shapes: a step is captured in a CUDA graph once, and rows are refilled from the queue.

1. The step, from token to next token, sampling included, lives on the device (`SlotCache`, `SamplingTable`); on CUDA
   it is captured and replayed, which takes Python and launches out of the loop. On a CPU it runs as it is.
2. The host looks at what has finished only every few steps, and only after it has launched the next ones, so the
   device never waits for it. A finished row stays as it is until it is refilled.
3. A prompt is prefilled once for all of its samples.
4. Requests own their random numbers: which row or batch one gets into does not change its tokens.

Greedy tokens equal `model.generate`, which a test holds.

Legend: R rows, V vocabulary, U most new tokens, N prompts, P longest prompt, C columns.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import DynamicCache

from efficient_reasoning.inference import step_attention
from efficient_reasoning.inference.engine import Completion, Request
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.inference.memory import column_bytes, rows_that_fit, send
from efficient_reasoning.inference.sampling import SamplingTable, sampling_groups, uniforms
from efficient_reasoning.inference.slots import Layers, SlotCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PREFILL_TOKENS, _PREFILL_PROMPTS = 1 << 16, 512  # most of one forward pass over prompts
_PROMPTS_APART, _WIDTHS_APART = 16, 32  # shapes of captured passes over prompts are multiples of these
_COLUMNS_APART = 256  # between two moves of the cache


class GraphEngine:
    """Decodes with a transformers causal language model whose layers attend to all of, or a window over, the past.

    Args:
        model: in eval mode; its attention implementation is replaced.
        eos_ids: token ids that end a completion.
        pad_id: fills the left of shorter prompts; never attended to.
        rows: R, decoded together; fewer where their caches would fill more than half of the free memory.
        stride: steps between two looks at what has finished.
        compile_step: let torch.compile fuse the step before it is captured, which takes a minute once.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        eos_ids: frozenset[int],
        pad_id: int,
        rows: int = 512,
        stride: int = 4,
        compile_step: bool = False,
    ):
        model.set_attn_implementation(step_attention.NAME)
        self.model = model
        self.eos_ids = eos_ids
        self.pad_id = pad_id
        self.rows = rows
        self.stride = stride
        self.compile_step = compile_step
        self._loop: _Loop | None = None

    @staticmethod
    def can_decode(model: PreTrainedModel) -> bool:
        """Whether all layers keep keys and values, and attend to them without more ado."""
        config = model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        softcap = getattr(config, "attn_logit_softcapping", None)
        plain = kinds <= {"full_attention", "sliding_attention"} and softcap is None and config.model_type != "gpt_oss"
        return plain and model._supports_attention_backend and not model._is_stateful

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        completions: dict[int, Completion] = {}
        for candidates, group in sampling_groups(requests):
            # Requests of one prompt stand together, so that its keys and values need not be kept for long.
            order = sorted(group, key=lambda index: (len(requests[index].prompt_ids), requests[index].prompt_ids))
            loop = self._loop_for([requests[index] for index in order], candidates)
            began = time.perf_counter()
            decoded = loop.run([requests[index] for index in order])
            executed = sum(spend.computed_prompt_tokens + spend.decoded_tokens for _, spend in decoded)
            seconds_per_token = (time.perf_counter() - began) / executed
            for index, (ids, spend) in zip(order, decoded, strict=True):
                spend.seconds = seconds_per_token * (spend.computed_prompt_tokens + spend.decoded_tokens)
                completions[index] = Completion(ids, ids[-1] in self.eos_ids, spend)
        return [completions[index] for index in range(len(requests))]

    @torch.no_grad()
    def refresh(self, model: torch.nn.Module) -> None:
        """Take the weights of `model`, in place: a captured step reads them where they are."""
        for own, new in zip(self.model.parameters(), model.parameters(), strict=True):
            own.copy_(new)

    def _loop_for(self, requests: Sequence[Request], candidates: int | None) -> _Loop:
        """The loop of last time where it fits, which spares capturing another."""
        rows = min(self.rows, 1 << (len(requests) - 1).bit_length())
        prompt_tokens = max(len(request.prompt_ids) for request in requests)
        new_tokens = max(request.max_new_tokens for request in requests)
        if self._loop is None or not self._loop.fits(candidates, rows, prompt_tokens, new_tokens):
            self._loop = None  # frees its memory before the next one takes its own
            columns = prompt_tokens + new_tokens + 3 * self.stride + _COLUMNS_APART
            held = min(rows, rows_that_fit(self.column_bytes, columns, self.model.device))
            self._loop = _Loop(self, candidates, rows, held, columns, prompt_tokens, new_tokens)
        return self._loop

    @cached_property
    def column_bytes(self) -> int:
        return column_bytes(self.model)


class _Loop:
    """The state of R rows on the device, and the step that advances it.

    Args:
        engine: whose model decodes.
        candidates: of `SamplingTable.draw`.
        wanted_rows: that were asked for.
        rows: R, as many of them as memory holds.
        columns: C of the cache.
        prompt_tokens, new_tokens: the most of a request.
    """

    def __init__(
        self,
        engine: GraphEngine,
        candidates: int | None,
        wanted_rows: int,
        rows: int,
        columns: int,
        prompt_tokens: int,
        new_tokens: int,
    ):
        device = engine.model.device
        self.engine, self.candidates, self.rows = engine, candidates, rows
        self.wanted_rows, self.columns = wanted_rows, columns
        self.prompt_tokens, self.new_tokens = prompt_tokens, new_tokens
        self.on_gpu = device.type == "cuda"
        self.tokens = torch.zeros(rows, dtype=torch.long, device=device)
        self.counts = torch.zeros(rows, dtype=torch.long, device=device)  # new tokens of each row
        self.limits = torch.ones(rows, dtype=torch.long, device=device)
        self.done = torch.ones(rows, dtype=torch.bool, device=device)
        self.uniform = torch.zeros(rows, new_tokens + 1, device=device)
        self.out = torch.zeros(rows, new_tokens + 1, dtype=torch.int32, device=device)  # the last column is for nobody
        self.eos = torch.tensor(sorted(engine.eos_ids), device=device)
        self.no_mask = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=device)
        self.table = SamplingTable(rows, device)
        self.cache: SlotCache | None = None
        self.kept: _Prompts | None = None
        self.advance = torch.compile(self._step, dynamic=False) if engine.compile_step else self._step
        self.graph: torch.cuda.CUDAGraph | None = None
        self.readers: dict[tuple[int, int], _CapturedReader] = {}

    def fits(self, candidates: int | None, rows: int, prompt_tokens: int, new_tokens: int) -> bool:
        same_kind = (candidates, rows) == (self.candidates, self.wanted_rows)
        return same_kind and prompt_tokens <= self.prompt_tokens and new_tokens <= self.new_tokens

    # ---- the step, on the device ----

    def step(self) -> None:
        if self.graph is None:
            self.advance()
        else:
            self.graph.replay()
        self.cache.stepped()

    def _step(self) -> None:
        cache = self.cache
        cache.lengths.copy_(torch.where(self.done, 1, cache.lengths + 1))
        logits = self.engine.model.forward(
            input_ids=self.tokens[:, None],
            attention_mask=self.no_mask,
            position_ids=cache.lengths[:, None] - 1,
            past_key_values=cache,
            use_cache=True,
            slots=cache,
        ).logits[:, -1]  # (R, V)
        uniform = self.uniform.gather(1, self.counts[:, None])[:, 0]
        drawn = self.table.draw(logits, uniform, self.candidates)
        self.tokens.copy_(torch.where(self.done, self.tokens, drawn))
        place = torch.where(self.done, self.new_tokens, self.counts)
        self.out.scatter_(1, place[:, None], self.tokens[:, None].int())
        self.counts.add_(~self.done)
        self.done.logical_or_(self._ends(self.tokens) | (self.counts >= self.limits))
        cache.column.add_(1)

    def _ends(self, tokens: torch.Tensor) -> torch.Tensor:
        return (tokens[:, None] == self.eos).any(1)  # torch.isin cannot be captured

    def _capture(self) -> None:
        """Capture a step while all rows are idle; replays see whatever the tensors hold by then."""
        self.graph, _ = _captured(self.advance)
        self.cache.column.fill_(self.cache.at)

    # ---- the queue, on the host ----

    def run(self, requests: Sequence[Request]) -> list[tuple[list[int], Ledger]]:
        """Token ids and spend of each request."""
        # A run that was interrupted may have left rows running, and a prompt that was read with older weights.
        self.done.fill_(True)
        self.kept = None
        waiting = deque(range(len(requests)))
        idle = list(range(self.rows))
        self.occupied: dict[int, int] = {}  # request of each occupied row
        since: dict[int, int] = {}  # round in which it came
        decoded: dict[int, tuple[list[int], Ledger]] = {}
        refill = max(1, self.rows // 16)
        looked, this_round = None, 0
        while waiting or self.occupied:
            if waiting and len(idle) >= min(refill, len(waiting)):
                came = {idle.pop(): waiting.popleft() for _ in range(min(len(idle), len(waiting)))}
                following = requests[waiting[0]] if waiting else None
                for row, spend in self._admit({row: requests[index] for row, index in came.items()}, following):
                    decoded[came[row]] = ([], spend)
                self.occupied |= came
                since |= dict.fromkeys(came, this_round)
            for _ in range(self.engine.stride):
                self.cache.make_room(0, self.occupied)
                self.step()
            look, looked = looked, _Look(self)
            this_round += 1
            if look is None:
                continue
            candidates = [row for row in self.occupied if since[row] < this_round - 1]
            for row, ids in look.finished(candidates):
                index = self.occupied.pop(row)
                idle.append(row)
                spend = decoded[index][1]
                spend.decoded_tokens = len(ids)
                decoded[index] = (ids, spend)
        return [decoded[index] for index in range(len(requests))]

    def _admit(self, came: dict[int, Request], following: Request | None) -> Iterator[tuple[int, Ledger]]:
        """Put requests into idle rows, their first token drawn; each row with its spend so far.

        The prompt that the request behind them shares with the last of them is kept for it.
        """
        of_prompt: dict[tuple, dict[int, Request]] = {}
        for row, request in came.items():
            of_prompt.setdefault(tuple(request.prompt_ids), {})[row] = request
        wanted = tuple(following.prompt_ids) if following is not None else None
        kept, self.kept = self.kept, None
        new = [prompt for prompt in of_prompt if kept is None or prompt not in kept.number]
        computed = set(new)
        if len(new) < len(of_prompt):
            self._place(kept, of_prompt, wanted)
        while new:
            count = max(1, min(_PREFILL_PROMPTS, _PREFILL_TOKENS // len(new[-1])))  # sorted by length
            self._place(self._prefill(new[:count]), of_prompt, wanted)
            new = new[count:]
        for row, request in came.items():
            prompt = tuple(request.prompt_ids)
            yield row, Ledger(1, len(prompt), len(prompt) if prompt in computed else 0)
            computed.discard(prompt)

    def _prefill(self, prompts: Sequence[tuple[int, ...]]) -> _Prompts:
        """Keys, values and logits of the prompts; on CUDA they stay valid until the next call."""
        count, width = len(prompts), max(map(len, prompts))
        if self.on_gpu:  # few shapes, each captured once
            count = -(-count // _PROMPTS_APART) * _PROMPTS_APART
            width = -(-width // _WIDTHS_APART) * _WIDTHS_APART
        padded = np.full((count, width), self.engine.pad_id)  # (N, P)
        lengths = np.ones(count, dtype=np.int64)
        for n, prompt in enumerate(prompts):
            padded[n, width - len(prompt) :] = prompt
            lengths[n] = len(prompt)
        ids, lengths = (send(torch.from_numpy(array), self.tokens.device) for array in (padded, lengths))
        read = self._read
        if self.on_gpu:
            if (count, width) not in self.readers:
                self.readers[count, width] = _CapturedReader(self, ids.clone(), lengths.clone())
            read = self.readers[count, width]
        return _Prompts({prompt: n for n, prompt in enumerate(prompts)}, *read(ids, lengths), lengths)

    def _read(self, ids: torch.Tensor, lengths: torch.Tensor) -> tuple[Layers, torch.Tensor]:
        """Run prompts (N, P) of these lengths (N,): keys and values of each layer, and logits (N, V) behind them."""
        cache = DynamicCache()
        width = ids.shape[1]
        logits = self.engine.model(
            input_ids=ids,
            attention_mask=self.no_mask,
            position_ids=(torch.arange(width, device=ids.device) - width + lengths[:, None]).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            slots=step_attention.PromptLengths(lengths),
        ).logits[:, -1]
        return [(layer.keys, layer.values) for layer in cache.layers], logits

    def _place(self, batch: _Prompts, of_prompt: dict[tuple, dict[int, Request]], wanted: tuple | None) -> None:
        """Give the rows of the batch's prompts what was prefilled, and keep the prompt that is wanted again."""
        came = {row: request for prompt in batch.number for row, request in of_prompt.get(prompt, {}).items()}
        requests, rows = list(came.values()), list(came)
        device = self.tokens.device
        if wanted in batch.number:
            self.kept = batch.only(wanted)
        if self.cache is None:
            self.cache = SlotCache(batch.layers, self.rows, self.columns)
            if self.on_gpu:
                self._capture()
        self.cache.make_room(batch.layers[0][0].shape[2], self.occupied)
        index = send(torch.tensor(rows), device)
        sources = send(torch.tensor([batch.number[tuple(request.prompt_ids)] for request in requests]), device)
        self.cache.place(rows, index, batch.layers, sources, batch.lengths[sources])
        self.table.set(index, requests)
        uniform = send(torch.stack([uniforms(request.seed, self.uniform.shape[1]) for request in requests]), device)
        first = self.table.of_rows(index).draw(batch.logits[sources], uniform[:, 0], self.candidates)
        limits = send(torch.tensor([request.max_new_tokens for request in requests]), device)
        self.uniform[index] = uniform
        self.limits[index] = limits
        self.tokens[index] = first
        self.out[index, 0] = first.int()
        self.counts[index] = 1
        self.done[index] = self._ends(first) | (limits <= 1)


def _captured(function: Callable[[], object]) -> tuple[torch.cuda.CUDAGraph, object]:
    """A graph of the function, and what it returned: the tensors that every replay fills."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function()
    return graph, result


class _CapturedReader:
    """`_Loop._read` for prompts of one shape."""

    def __init__(self, loop: _Loop, ids: torch.Tensor, lengths: torch.Tensor):
        self.ids, self.lengths = ids, lengths
        self.graph, self.read = _captured(lambda: loop._read(self.ids, self.lengths))

    def __call__(self, ids: torch.Tensor, lengths: torch.Tensor) -> tuple[Layers, torch.Tensor]:
        self.ids.copy_(ids)
        self.lengths.copy_(lengths)
        self.graph.replay()
        return self.read


@dataclass(frozen=True)
class _Prompts:
    """Prefilled prompts.

    Attributes:
        number: n of each prompt.
        layers: keys and values (N, K, P, D) of each layer, padded on the left.
        logits: (N, V) behind the prompts.
        lengths: (N,) in tokens.
    """

    number: dict[tuple[int, ...], int]
    layers: Layers
    logits: torch.Tensor
    lengths: torch.Tensor

    def only(self, prompt: tuple[int, ...]) -> _Prompts:
        n = self.number[prompt]
        layers = [(keys[n : n + 1].clone(), values[n : n + 1].clone()) for keys, values in self.layers]
        return _Prompts({prompt: 0}, layers, self.logits[n : n + 1], self.lengths[n : n + 1])


class _Look:
    """What the rows had come to when it was made; it waits for the device only when it is asked."""

    def __init__(self, loop: _Loop):
        self.state = [self._copy(states, loop.on_gpu) for states in (loop.done, loop.counts, loop.out)]
        self.made = torch.cuda.Event() if loop.on_gpu else None
        if self.made:
            self.made.record()

    @staticmethod
    def _copy(states: torch.Tensor, on_gpu: bool) -> torch.Tensor:
        if not on_gpu:
            return states.clone()
        return torch.empty(states.shape, dtype=states.dtype, pin_memory=True).copy_(states, non_blocking=True)

    def finished(self, rows: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Those of the rows that are done, with their token ids."""
        if self.made:
            self.made.synchronize()
        done, counts, out = self.state
        done, counts = done.tolist(), counts.tolist()
        for row in rows:
            if done[row]:
                yield row, out[row, : counts[row]].tolist()
