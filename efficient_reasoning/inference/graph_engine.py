"""Decoding with fixed shapes: a step is captured in a CUDA graph once, and rows are refilled from the queue.

1. The step, from token to next token, sampling and forced closes included, lives on the device (`SlotCache`,
   `SamplingTable`, `CloseTable`); on CUDA it is captured and replayed, which takes Python and launches out of the
   loop.
2. On CUDA the host looks at what has finished only every few steps, and only after it has launched the next ones, so
   the device never waits for it. A finished row stays as it is until it is refilled.
3. On a CPU the same step runs as it is. Nothing is captured, so it looks at once, reads only the columns in use, and
   lets rows go when the queue is empty.
4. A prompt is prefilled once for all of its samples.
5. Requests own their random numbers: which row or batch one gets into does not change its tokens.

Greedy tokens equal `model.generate`, which a test holds.

Legend: R rows, V vocabulary, U most new tokens, N prompts, P longest prompt, C columns.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, DynamicCache

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import scoring, step_attention
from efficient_reasoning.inference.closing import CloseTable
from efficient_reasoning.inference.engine import (
    IN_LOOP,
    LOGIT_BIAS,
    LOGPROBS,
    SCORE,
    Completion,
    Request,
    Score,
    single_samples,
    stop_place,
)
from efficient_reasoning.inference.flops import DecodingFlops
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.inference.memory import column_bytes, peak_bytes, rows_that_fit, send
from efficient_reasoning.inference.sampling import SamplingTable, sampling_groups, uniforms
from efficient_reasoning.inference.slots import Layers, SlotCache
from efficient_reasoning.thinking import ThinkingFormat

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_PREFILL_TOKENS, _PREFILL_PROMPTS = 1 << 16, 512  # most of one forward pass over prompts
_PROMPTS_APART, _WIDTHS_APART = 16, 32  # shapes of captured passes over prompts are multiples of these
_TOKENS_APART = 64  # lengths of prompts and completions are rounded up, so that loops serve again
_COLUMNS_APART = 256  # between two moves of the cache


class GraphEngine:
    """Decodes with a transformers causal language model whose layers attend to all of, or a window over, the past.

    Args:
        model: in eval mode; its attention implementation is replaced.
        eos_ids: token ids that end a completion.
        pad_id: fills the left of shorter prompts; never attended to.
        tokenizer: spells completions, for requests with stop strings.
        rows: R, decoded together; fewer where their caches would fill more than half of the free memory.
        stride: on CUDA, steps between two looks at what has finished.
        compile_step: on CUDA, let torch.compile fuse the step before it is captured, which takes half a minute once.

    Attributes:
        spent: the sum of what all completions and scores have been charged.

    Raises:
        BadInput: the model does not hand on to its attention what a step tells it.
    """

    capabilities = frozenset({LOGPROBS, LOGIT_BIAS, SCORE, IN_LOOP})

    def __init__(
        self,
        model: PreTrainedModel,
        eos_ids: frozenset[int],
        pad_id: int,
        tokenizer: PreTrainedTokenizerBase | None = None,
        rows: int = 512,
        stride: int = 4,
        compile_step: bool = False,
    ):
        step_attention.use_slots(model)
        self.model = model
        self.eos_ids = eos_ids
        self.pad_id = pad_id
        self.tokenizer = tokenizer
        self.rows = rows
        self.stride = stride
        self.compile_step = compile_step
        self.spent = Ledger()
        self._loops: dict[int | None, _Loop] = {}  # by the candidates of their draws

    @staticmethod
    def can_decode(config: PretrainedConfig) -> bool:
        """Whether all layers keep keys and values, and attend to them without more ado."""
        text = config.get_text_config()
        kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
        softcap = getattr(text, "attn_logit_softcapping", None)
        plain = kinds <= {"full_attention", "sliding_attention"} and softcap is None and config.model_type != "gpt_oss"
        model = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
        return plain and model is not None and model._supports_attention_backend and not model._is_stateful

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        requests = single_samples(requests)
        if any(request.forced_close and not request.forced_close.thinking.has_single_ids for request in requests):
            raise BadInput("Delimiters of several tokens are closed in two passes; use `TwoPassEngine`.")
        completions: dict[int, Completion] = {}
        for candidates, group in sampling_groups(requests):
            # Requests of one prompt stand together, so that its keys and values need not be kept for long.
            order = sorted(group, key=lambda index: (len(requests[index].prompt_ids), requests[index].prompt_ids))
            batch = [requests[index] for index in order]
            loop = self._loop_for(batch, candidates)
            began = time.perf_counter()
            decoded = loop.run(batch)
            executed = sum(row.spend.computed_prompt_tokens + len(row.ids) for row in decoded)
            seconds_per_token = (time.perf_counter() - began) / executed
            for index, row in zip(order, decoded, strict=True):
                completions[index] = self._completion(requests[index], row, seconds_per_token)
                self.spent += completions[index].spend
        return [completions[index] for index in range(len(requests))]

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Score]:
        scores = scoring.score(self.model, self.pad_id, pairs, self.flops)
        self.spent = sum((one.spend for one in scores), self.spent)
        return scores

    @torch.no_grad()
    def refresh(self, model: torch.nn.Module) -> None:
        """Take the weights of `model`, in place: a captured step reads them where they are."""
        for own, new in zip(self.model.parameters(), model.parameters(), strict=True):
            own.copy_(new)

    def _completion(self, request: Request, row: _Decoded, seconds_per_token: float) -> Completion:
        spend, ids = row.spend, row.ids
        computed = spend.computed_prompt_tokens
        spend.decoded_tokens = len(ids) - spend.forced_tokens
        spend.seconds = seconds_per_token * (computed + len(ids))
        spend.flops = self.flops.of_prompt(len(request.prompt_ids), computed)
        spend.flops += self.flops.of_new(len(request.prompt_ids), len(ids))
        spend.peak_memory_bytes = peak_bytes(self.model.device)
        finished = ids[-1] in self.eos_ids
        return Completion(
            ids,
            finished,
            spend,
            stopped=not finished and (row.spells_stop or row.ends_with_stop_id(request)),
            was_closed=spend.forced_tokens > 0,
            logprobs=row.logprobs if request.logprobs else None,
        )

    def _loop_for(self, requests: Sequence[Request], candidates: int | None) -> _Loop:
        """The loop of last time where it fits, which spares capturing another."""
        rows = min(self.rows, 1 << (len(requests) - 1).bit_length())
        step = _Step.of(requests, candidates)
        prompt_tokens = _up_to(_TOKENS_APART, max(len(request.prompt_ids) for request in requests))
        new_tokens = _up_to(_TOKENS_APART, max(request.max_new_tokens for request in requests))
        loop = self._loops.pop(candidates, None)
        if loop is None or not loop.fits(step, rows, prompt_tokens, new_tokens):
            loop = None  # frees its memory before the next one takes its own
            columns = prompt_tokens + new_tokens + 3 * self.stride + _COLUMNS_APART
            held = min(rows, rows_that_fit(self.column_bytes, columns, self.model.device))
            loop = _Loop(self, step, rows, held, columns, prompt_tokens, new_tokens)
        self._loops[candidates] = loop
        return loop

    @cached_property
    def column_bytes(self) -> int:
        return column_bytes(self.model)

    @cached_property
    def flops(self) -> DecodingFlops:
        return DecodingFlops.of(self.model)


@dataclass
class _Decoded:
    """What became of a request."""

    spend: Ledger
    ids: list[int]
    logprobs: list[float] | None = None
    spells_stop: bool = False

    def ends_with_stop_id(self, request: Request) -> bool:
        """Forced tokens, which may end at the limit, stop nothing."""
        close = request.forced_close
        is_forced = close is not None and 0 < len(self.ids) - close.after_tokens <= self.spend.forced_tokens
        return self.ids[-1] in request.stop_ids and not is_forced


@dataclass(frozen=True)
class _Step:
    """What a step does, which is fixed when it is captured.

    Attributes:
        candidates: of `SamplingTable.draw`.
        stops: most stop ids of a request.
        biased_ids: tokens whose logits some request changes.
        logprobs: whether log-probabilities are kept.
        thinking: delimiters of forced closes; None where no request has one.
    """

    candidates: int | None
    stops: int
    biased_ids: tuple[int, ...]
    logprobs: bool
    thinking: ThinkingFormat | None

    @classmethod
    def of(cls, requests: Sequence[Request], candidates: int | None) -> _Step:
        closes = (request.forced_close for request in requests)
        return cls(
            candidates,
            max(len(request.stop_ids) for request in requests),
            tuple(sorted({token for request in requests for token in request.logit_bias})),
            any(request.logprobs for request in requests),
            next((close.thinking for close in closes if close is not None), None),
        )

    def covers(self, other: _Step) -> bool:
        """Whether this one does whatever the other does, for rows that ask for no more."""
        return (
            other.stops <= self.stops
            and set(other.biased_ids) <= set(self.biased_ids)
            and other.logprobs <= self.logprobs
            and other.thinking in (None, self.thinking)
        )


class _Rows:
    """The state of R rows on the device.

    Args:
        step: which of it is needed.
        rows: R.
        new_tokens: U.
        vocabulary: V.
        device: of the model.
    """

    def __init__(self, step: _Step, rows: int, new_tokens: int, vocabulary: int, device: torch.device):
        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> torch.Tensor:
            return torch.zeros(rows, *shape, dtype=dtype, device=device)

        self.tokens, self.counts = zeros(), zeros()  # the last of each row, and how many are new
        self.limits = zeros() + 1
        self.done = zeros(dtype=torch.bool) | True
        self.uniform = zeros(new_tokens + 1, dtype=torch.float)
        self.out = zeros(new_tokens + 1, dtype=torch.int32)  # the last column is for nobody
        self.logprobs = zeros(new_tokens + 1, dtype=torch.float) if step.logprobs else None
        self.masked = zeros()  # first tokens whose best candidate was forbidden
        self.stops = zeros(step.stops) - 1
        self.bias = zeros(len(step.biased_ids), dtype=torch.float)
        self.sampling = SamplingTable(rows, device)
        self.closes = CloseTable(rows, step.thinking, vocabulary, device) if step.thinking else None

    def first(self, count: int) -> _Rows:
        """The first rows, in the same memory."""
        return self._map(lambda states: states[:count], slice(count))

    def keep(self, index: torch.Tensor) -> _Rows:
        """These rows alone."""
        return self._map(lambda states: states[index], index)

    def put(self, index: torch.Tensor, rows: _Rows) -> None:
        """Take over what `keep(index)` has become."""
        for name, states in vars(rows).items():
            if isinstance(states, torch.Tensor):
                getattr(self, name)[index] = states
        if self.closes is not None:
            self.closes.put(index, rows.closes)

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor], rows: slice | torch.Tensor) -> _Rows:
        view = object.__new__(_Rows)
        for name, states in vars(self).items():
            if isinstance(states, torch.Tensor):
                setattr(view, name, change(states))
            else:
                setattr(view, name, states and states.of_rows(rows))
        return view


class _Loop:
    """R rows, and the step that advances them.

    Args:
        engine: whose model decodes.
        step: what a step does.
        wanted_rows: that were asked for.
        rows: R, as many of them as memory holds.
        columns: C of the cache.
        prompt_tokens, new_tokens: the most of a request.
    """

    def __init__(
        self,
        engine: GraphEngine,
        step: _Step,
        wanted_rows: int,
        rows: int,
        columns: int,
        prompt_tokens: int,
        new_tokens: int,
    ):
        device = engine.model.device
        self.engine, self.does, self.rows = engine, step, rows
        self.wanted_rows, self.columns = wanted_rows, columns
        self.prompt_tokens, self.new_tokens = prompt_tokens, new_tokens
        self.device, self.on_gpu = device, device.type == "cuda"
        vocabulary = engine.model.config.get_text_config().vocab_size
        self.all_rows = self.live = _Rows(step, rows, new_tokens, vocabulary, device)
        self.eos = torch.tensor(sorted(engine.eos_ids), device=device)
        self.biased = torch.tensor(step.biased_ids, dtype=torch.long, device=device)
        self.no_mask = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=device)
        self.cache: SlotCache | None = None
        self.kept: _Prompts | None = None
        compiles = engine.compile_step and self.on_gpu
        self.advance = torch.compile(self._step, dynamic=False) if compiles else self._step
        self.graph: torch.cuda.CUDAGraph | None = None
        self.readers: dict[tuple[int, int], _CapturedReader] = {}

    def fits(self, step: _Step, rows: int, prompt_tokens: int, new_tokens: int) -> bool:
        is_large = prompt_tokens <= self.prompt_tokens and new_tokens <= self.new_tokens and rows <= self.wanted_rows
        return is_large and self.does.covers(step)

    # ---- the step, on the device ----

    def step(self) -> None:
        if self.graph is None:
            self.advance()
        else:
            self.graph.replay()
        self.cache.stepped()

    def _step(self) -> None:
        rows, cache = self.live, self.cache
        lengths = cache.lengths[: len(rows.done)]
        lengths.copy_(torch.where(rows.done, 1, lengths + 1))
        logits = self.engine.model.forward(
            input_ids=rows.tokens[:, None],
            attention_mask=self.no_mask,
            position_ids=lengths[:, None] - 1,
            past_key_values=cache,
            use_cache=True,
            slots=cache,
        ).logits[:, -1]  # (R, V)
        drawn = self._draw(rows, logits, rows.uniform.gather(1, rows.counts[:, None])[:, 0])
        rows.tokens.copy_(torch.where(rows.done, rows.tokens, drawn))
        place = torch.where(rows.done, self.new_tokens, rows.counts)
        self._write(rows, logits, place)
        rows.counts.add_(~rows.done)
        rows.done.logical_or_(self._ends(rows))
        cache.column.add_(1)

    def _draw(self, rows: _Rows, logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """The tokens (R,) that follow; logits (R, V), uniform (R,)."""
        if self.does.biased_ids:
            logits = logits.float().index_add(1, self.biased, rows.bias)
        if rows.closes is None:
            return rows.sampling.draw(logits, uniform, self.does.candidates)
        allowed = rows.closes.forbid(logits, rows.counts, rows.done)
        drawn = rows.sampling.draw(allowed, uniform, self.does.candidates)
        return rows.closes.follow(drawn, rows.counts, rows.done)

    @staticmethod
    def _write(rows: _Rows, logits: torch.Tensor, place: torch.Tensor) -> None:
        rows.out.scatter_(1, place[:, None], rows.tokens[:, None].int())
        if rows.logprobs is not None:
            rows.logprobs.scatter_(1, place[:, None], rows.sampling.logprobs(logits, rows.tokens)[:, None])

    def _ends(self, rows: _Rows) -> torch.Tensor:
        # torch.isin cannot be captured.
        ended = (rows.tokens[:, None] == self.eos).any(1) | (rows.counts >= rows.limits)
        stopped = (rows.tokens[:, None] == rows.stops).any(1)
        return ended | (stopped if rows.closes is None else stopped & ~rows.closes.was_forced)

    def _capture(self) -> None:
        """Capture a step while all rows are idle; replays see whatever the tensors hold by then."""
        self.graph, _ = _captured(self.advance)
        self.cache.column.fill_(self.cache.at)

    # ---- the queue, on the host ----

    def run(self, requests: Sequence[Request]) -> list[_Decoded]:
        """What becomes of each request."""
        # A run that was interrupted may have left rows running, and a prompt that was read with older weights.
        self.live = self.all_rows
        self.live.done.fill_(True)
        self.kept = None
        if self.cache is not None:
            self.cache.clear()
        waiting = deque(range(len(requests)))
        idle = list(range(self.rows))
        self.occupied: dict[int, int] = {}  # request of each occupied row
        since: dict[int, int] = {}  # round in which each request came
        decoded: dict[int, _Decoded] = {}
        refill = max(1, self.rows // 16)
        looked, this_round = None, 0
        while waiting or self.occupied:
            if waiting and len(idle) >= min(refill, len(waiting)):
                came = {idle.pop(): waiting.popleft() for _ in range(min(len(idle), len(waiting)))}
                following = requests[waiting[0]] if waiting else None
                for row, spend in self._admit({row: requests[index] for row, index in came.items()}, following):
                    decoded[came[row]] = _Decoded(spend, [])
                self.occupied |= came
                since |= dict.fromkeys(came.values(), this_round)
            for _ in range(self.engine.stride if self.on_gpu else 1):
                self.cache.make_room()
                self.step()
            look, looked = looked, _Look(self)
            this_round += 1
            if not self.on_gpu:
                look = looked  # there is nothing to overlap
            if look is None:
                continue
            watched = {row: requests[i] for row, i in self.occupied.items() if since[i] < this_round - self.on_gpu}
            for row in look.ended(watched):
                index = self.occupied.pop(row)
                self.cache.release(row)
                idle.append(row)
                look.fill(row, requests[index], decoded[index])
                if decoded[index].spells_stop:
                    self.live.done[row] = True
            if not self.on_gpu and not waiting:
                self._let_go()
        return [decoded[index] for index in range(len(requests))]

    def _let_go(self) -> None:
        """Give up idle rows once they are a quarter of those that step."""
        if 4 * len(self.occupied) > 3 * len(self.live.done) or not self.occupied:
            return
        keep = sorted(self.occupied)
        index = torch.tensor(keep, device=self.device)
        self.live = self.live.keep(index)
        self.cache.keep(keep, index)
        self.occupied = {row: self.occupied[old] for row, old in enumerate(keep)}

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
            count, width = _up_to(_PROMPTS_APART, count), _up_to(_WIDTHS_APART, width)
        padded = np.full((count, width), self.engine.pad_id)  # (N, P)
        lengths = np.ones(count, dtype=np.int64)
        for n, prompt in enumerate(prompts):
            padded[n, width - len(prompt) :] = prompt
            lengths[n] = len(prompt)
        ids, lengths = (send(torch.from_numpy(array), self.device) for array in (padded, lengths))
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
        device = self.device
        if wanted in batch.number:
            self.kept = batch.only(wanted)
        if self.cache is None:
            self.cache = SlotCache(batch.layers, self.rows, self.columns)
            if self.on_gpu:
                self._capture()
        self.cache.make_room(batch.layers[0][0].shape[2])
        index = send(torch.tensor(rows), device)
        sources = send(torch.tensor([batch.number[tuple(request.prompt_ids)] for request in requests]), device)
        self.cache.place(rows, index, batch.layers, sources, batch.lengths[sources])
        self._begin(index, requests, batch.logits[sources])

    def _begin(self, index: torch.Tensor, requests: Sequence[Request], logits: torch.Tensor) -> None:
        """Give rows (their indices) new requests, and draw their first tokens from the logits (rows, V)."""
        rows, device = self.live, self.device
        of_request = [uniforms(request.seed, rows.uniform.shape[1], request.offset) for request in requests]
        rows.uniform[index] = send(torch.stack(of_request), device)
        rows.limits[index] = send(torch.tensor([request.max_new_tokens for request in requests]), device)
        if self.does.stops:
            stops = [[*request.stop_ids, *[-1] * self.does.stops][: self.does.stops] for request in requests]
            rows.stops[index] = send(torch.tensor(stops), device)
        if self.does.biased_ids:
            bias = [[request.logit_bias.get(token, 0.0) for token in self.does.biased_ids] for request in requests]
            rows.bias[index] = send(torch.tensor(bias), device)
        rows.sampling.set(index, requests)
        rows.counts[index] = 0
        if rows.closes is not None:
            rows.closes.set(index, requests)
        began = rows.keep(index)
        began.done.fill_(False)
        allowed, took_best = _forbid(logits, requests)
        began.masked = took_best.long()
        began.tokens = self._draw(began, allowed, began.uniform[:, 0])
        self._write(began, logits, began.counts)
        began.counts += 1
        began.done = self._ends(began)
        rows.put(index, began)


def _up_to(multiple: int, number: int) -> int:
    return -(-number // multiple) * multiple


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
        rows = loop.live
        self.tokenizer = loop.engine.tokenizer
        states = {"done": rows.done, "counts": rows.counts, "out": rows.out, "masked": rows.masked}
        if rows.closes is not None:
            states |= {"forced": rows.closes.forced, "guarded": rows.closes.masked}
        if rows.logprobs is not None:
            states["logprobs"] = rows.logprobs
        # On a CPU the rows are looked at before they step again.
        self.states = {name: _to_host(value) if loop.on_gpu else value for name, value in states.items()}
        self.made = torch.cuda.Event() if loop.on_gpu else None
        if self.made:
            self.made.record()

    def ended(self, requests: Mapping[int, Request]) -> list[int]:
        """Those of the rows that are done, or have spelled a stop string of their request."""
        if self.made:
            self.made.synchronize()
        done = self.states["done"].tolist()
        return [row for row, request in requests.items() if done[row] or self._place(row, request) is not None]

    def fill(self, row: int, request: Request, decoded: _Decoded) -> None:
        """Write down what a row that has ended decoded."""
        place = self._place(row, request)
        decoded.spells_stop = place is not None
        count = self.states["counts"][row] if place is None else place
        decoded.ids = self.states["out"][row, :count].tolist()
        decoded.spend.masked_tokens = int(self.states["masked"][row])
        if "logprobs" in self.states:
            decoded.logprobs = self.states["logprobs"][row, :count].tolist()
        if request.forced_close is not None:
            after = request.forced_close.after_tokens
            # A stop string may have been spelled before.
            forced = max(0, min(int(self.states["forced"][row]), len(decoded.ids) - after))
            decoded.spend.forced_tokens = forced
            decoded.spend.masked_tokens += int(self.states["guarded"][row])
            if decoded.logprobs:
                decoded.logprobs[after : after + forced] = [0.0] * forced

    def _place(self, row: int, request: Request) -> int | None:
        if not request.stop_strings:
            return None  # without copying the ids
        ids = self.states["out"][row, : self.states["counts"][row]].tolist()
        return stop_place(self.tokenizer, ids, request.stop_strings)


def _to_host(states: torch.Tensor) -> torch.Tensor:
    return torch.empty(states.shape, dtype=states.dtype, pin_memory=True).copy_(states, non_blocking=True)


def _forbid(logits: torch.Tensor, requests: Sequence[Request]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, V) without what the requests forbid first, and whether that took away the best one (N,)."""
    rows = [row for row, request in enumerate(requests) for _ in request.forbidden_first_ids]
    tokens = [token for request in requests for token in request.forbidden_first_ids]
    index = tuple(send(torch.tensor(values, dtype=torch.long), logits.device) for values in (rows, tokens))
    allowed = logits.index_put(index, torch.full((), -torch.inf, dtype=logits.dtype, device=logits.device))
    best = logits.argmax(-1, keepdim=True)
    return allowed, allowed.gather(1, best)[:, 0].isinf()
