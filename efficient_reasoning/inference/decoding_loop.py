"""The loop that decodes: a step with fixed shapes, captured on CUDA, and the queue that refills its rows.

1. The step, from token to next token, sampling and forced closes included, lives on the device (`SlotCache`,
   `Rows`); on CUDA it is captured and replayed, which takes Python and launches out of the loop.
2. On CUDA the host looks at what has finished only every few steps, and only after it has launched the next ones, so
   the device never waits for it. A finished row stays as it is until it is refilled.
3. On a CPU the same step runs as it is. Nothing is captured, so it looks at once, reads only the columns in use, and
   lets rows go when the queue is empty.

Legend: R rows, V vocabulary, N requests, C columns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from efficient_reasoning.inference.capture import capture
from efficient_reasoning.inference.engine import Request, stop_place
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.inference.memory import send
from efficient_reasoning.inference.prefill import Prefill, Prompts
from efficient_reasoning.inference.prefixes import Ended
from efficient_reasoning.inference.rows import Rows, Step
from efficient_reasoning.inference.sampling import uniforms
from efficient_reasoning.inference.slots import SlotCache, width_of

if TYPE_CHECKING:
    from efficient_reasoning.inference.graph_engine import GraphEngine


@dataclass
class Decoded:
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


class Loop:
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
        step: Step,
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
        self.all_rows = self.live = Rows(step, rows, new_tokens, vocabulary, device)
        self.eos = torch.tensor(sorted(engine.eos_ids), device=device)
        self.biased = torch.tensor(step.biased_ids, dtype=torch.long, device=device)
        self.no_mask = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=device)
        self.cache: SlotCache | None = None
        self.kept: Prompts | None = None
        compiles = engine.compile_step and self.on_gpu
        self.advance = torch.compile(self._step, dynamic=False) if compiles else self._step
        self.graph: torch.cuda.CUDAGraph | None = None
        # One pool for all passes: what one needs besides what it returns is free again for the next.
        self.prefill = Prefill(engine, torch.cuda.graph_pool_handle() if self.on_gpu else None)

    def fits(self, step: Step, rows: int, prompt_tokens: int, new_tokens: int) -> bool:
        is_large = prompt_tokens <= self.prompt_tokens and new_tokens <= self.new_tokens and rows <= self.wanted_rows
        return is_large and self.does.covers(step)

    def close(self) -> None:
        """Give the memory back at once; a loop refers to itself, and is only found by the next garbage collection."""
        self.graph = self.cache = self.kept = None
        self.prefill.close()

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

    def _draw(self, rows: Rows, logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """The tokens (R,) that follow; logits (R, V), uniform (R,)."""
        if self.does.biased_ids:
            logits = logits.float().index_add(1, self.biased, rows.bias)
        if rows.closes is None:
            return rows.sampling.draw(logits, uniform, self.does.candidates)
        allowed = rows.closes.forbid(logits, rows.counts, rows.done)
        drawn = rows.sampling.draw(allowed, uniform, self.does.candidates)
        return rows.closes.follow(drawn, rows.counts, rows.done)

    @staticmethod
    def _write(rows: Rows, logits: torch.Tensor, place: torch.Tensor) -> None:
        rows.out.scatter_(1, place[:, None], rows.tokens[:, None].int())
        if rows.logprobs is not None:
            rows.logprobs.scatter_(1, place[:, None], rows.sampling.logprobs(logits, rows.tokens)[:, None])

    def _ends(self, rows: Rows) -> torch.Tensor:
        # torch.isin cannot be captured.
        ended = (rows.tokens[:, None] == self.eos).any(1) | (rows.counts >= rows.limits)
        stopped = (rows.tokens[:, None] == rows.stops).any(1)
        return ended | (stopped if rows.closes is None else stopped & ~rows.closes.was_forced)

    def _capture(self) -> None:
        """Capture a step while all rows are idle; replays see whatever the tensors hold by then."""
        self.graph, _ = capture(self.advance)
        self.cache.column.fill_(self.cache.at)

    # ---- the queue, on the host ----

    def run(self, requests: Sequence[Request]) -> list[Decoded]:
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
        decoded: dict[int, Decoded] = {}
        refill = max(1, self.rows // 16)
        looked, this_round = None, 0
        while waiting or self.occupied:
            if waiting and len(idle) >= min(refill, len(waiting)):
                came = {idle.pop(): waiting.popleft() for _ in range(min(len(idle), len(waiting)))}
                following = requests[waiting[0]] if waiting else None
                for row, spend in self._admit({row: requests[index] for row, index in came.items()}, following):
                    decoded[came[row]] = Decoded(spend, [])
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
            ended = look.ended(watched)
            for row in ended:
                index = self.occupied[row]
                look.fill(row, requests[index], decoded[index])
                if decoded[index].spells_stop:
                    self.live.done[row] = True
            self._hold({row: (requests[self.occupied[row]], decoded[self.occupied[row]]) for row in ended})
            for row in ended:
                del self.occupied[row]
                self.cache.release(row)
                idle.append(row)
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

    def _hold(self, ended: Mapping[int, tuple[Request, Decoded]]) -> None:
        """Hold what rows have read of responses that may go on, or are asked about."""
        rows = []
        for row, (request, decoded) in ended.items():
            if decoded.ids[-1] in self.engine.eos_ids and not request.asked_about:
                continue
            prompt_tokens = len(request.prompt_ids) - request.offset
            ids = [*request.prompt_ids, *decoded.ids[:-1]]  # nobody has read the last one yet
            if self.engine.holds(ids, prompt_tokens):
                rows.append(Ended(np.array(ids), prompt_tokens, row, self.cache.begin(row)))
        if rows:
            self.engine.prefixes.put(rows, self.cache)

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
        held = {prompt: self.prefill.held(prompt, of_prompt[prompt].values()) for prompt in new}
        computed = {prompt: len(prompt) - len(held[prompt]) for prompt in new}
        if len(new) < len(of_prompt):
            self._place(kept, of_prompt, wanted)
        for alike in self.prefill.alike(held):
            self._place(self.prefill.read(alike), of_prompt, wanted)
        for row, request in came.items():
            prompt = tuple(request.prompt_ids)
            yield row, Ledger(1, len(prompt), computed.pop(prompt, 0))

    def _place(self, batch: Prompts, of_prompt: dict[tuple, dict[int, Request]], wanted: tuple | None) -> None:
        """Give the rows of the batch's prompts what was prefilled, and keep the prompt that is wanted again."""
        came = {row: request for prompt in batch.number for row, request in of_prompt.get(prompt, {}).items()}
        requests, rows = list(came.values()), {row: len(request.prompt_ids) for row, request in came.items()}
        device = self.device
        if wanted in batch.number:
            self.kept = batch.only(wanted)
        if self.cache is None:
            self.cache = SlotCache(batch.layers, self.rows, self.columns)
            if self.on_gpu:
                self._capture()
        self.cache.make_room(width_of(batch.layers))
        index = send(torch.tensor(list(rows)), device)
        sources = send(torch.tensor([batch.number[tuple(request.prompt_ids)] for request in requests]), device)
        self.cache.place(rows, index, batch.layers, sources, batch.lengths[sources])
        self._begin(index, requests, batch.logits[sources])

    def _begin(self, index: torch.Tensor, requests: Sequence[Request], logits: torch.Tensor) -> None:
        """Give rows (their indices) new requests, and draw their first tokens from the logits (rows, V)."""
        rows, device = self.live, self.device
        rows.uniform[index] = send(uniforms(requests, rows.uniform.shape[1]), device)
        rows.limits[index] = send(torch.tensor([request.max_new_tokens for request in requests]), device)
        if self.does.stops:
            stops = [[*request.stop_ids, *[-1] * self.does.stops][: self.does.stops] for request in requests]
            rows.stops[index] = send(torch.tensor(stops), device)
        if self.does.biased_ids:
            bias = [[request.logit_bias.get(token, 0.0) for token in self.does.biased_ids] for request in requests]
            rows.bias[index] = send(torch.tensor(bias, dtype=torch.float32), device)
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


class _Look:
    """What the rows had come to when it was made; it waits for the device only when it is asked."""

    def __init__(self, loop: Loop):
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

    def fill(self, row: int, request: Request, decoded: Decoded) -> None:
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
    if not tokens:
        return logits, torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    index = tuple(send(torch.tensor(values, dtype=torch.long), logits.device) for values in (rows, tokens))
    allowed = logits.index_put(index, torch.full((), -torch.inf, dtype=logits.dtype, device=logits.device))
    best = logits.argmax(-1, keepdim=True)
    return allowed, allowed.gather(1, best)[:, 0].isinf()
