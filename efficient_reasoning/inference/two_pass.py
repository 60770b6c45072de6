"""A forced close on any engine: think, close where needed, answer, each a request of its own.

Engines with IN_LOOP do the same within one request, and the tokens are equal up to the first that had to be forbidden:
there it is never drawn, here it is decoded, taken back and charged to the budget before the model is asked again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager

from efficient_reasoning.inference.engine import (
    IN_LOOP,
    Completion,
    Engine,
    Hidden,
    Request,
    Score,
    keeping,
    single_samples,
)
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.inference.strategy import Exchange, run_all
from efficient_reasoning.thinking import Phase, ThinkingFormat


class TwoPassEngine:
    """Gives an engine requests with a forced close in parts that it can decode.

    Args:
        engine: without IN_LOOP, or for delimiters that IN_LOOP does not know.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        self.capabilities = engine.capabilities | {IN_LOOP}

    def keeping(self) -> AbstractContextManager:
        return keeping(self.engine)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        return run_all(self.engine, [_decode(request) for request in single_samples(requests)])

    def score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], offsets: Sequence[int] | None = None
    ) -> list[Score]:
        return self.engine.score(pairs, offsets)

    def read(self, prompts: Sequence[Sequence[int]]) -> list[Hidden]:
        return self.engine.read(prompts)


def _decode(request: Request) -> Exchange[Completion]:
    if request.forced_close is None:
        [completion] = yield [request]
        return completion
    thinking, after_tokens = request.forced_close.thinking, request.forced_close.after_tokens
    begin = len(request.prompt_ids) - request.offset
    prompt_ids, response = request.prompt_ids[:begin], list(request.prompt_ids[begin:])
    spend, logprobs, forbidden_ids = Ledger(), [], request.forbidden_first_ids
    spent_tokens = 0  # new ones, and those that were taken back: a budget bounds them with the rest
    is_over = was_closed = False  # whether the thinking may not go on, and whether it had to be ended
    finished = stopped = taken_back = False

    while spent_tokens < request.max_new_tokens and not (finished or stopped):
        room_tokens = request.max_new_tokens - spent_tokens
        if not is_over and spent_tokens >= after_tokens:
            suffix = thinking.close(response, prompt_ids)[:room_tokens]
            response += suffix
            logprobs += [0.0] * len(suffix)
            spend += Ledger(forced_tokens=len(suffix))
            spent_tokens += len(suffix)
            is_over, was_closed = True, bool(suffix)
            forbidden_ids = frozenset() if suffix else forbidden_ids
            continue
        phase, blanks = thinking.states(response, prompt_ids)[-1]
        if is_over or taken_back:
            forbidden_ids |= _forbidden(thinking, phase, blanks, is_over)
        # Else the request is that of plain thinking, whatever the budget, and may be recalled (`recall`).
        if not is_over:
            room_tokens = min(room_tokens, after_tokens - spent_tokens)
        elif phase == "closed" and blanks < thinking.blank_allowance:
            # Too much white space is taken back with all that follows it, which must not use up the answer's room.
            room_tokens = min(room_tokens, thinking.blank_allowance - blanks)
        [part] = yield [
            dataclasses.replace(
                request,
                prompt_ids=[*prompt_ids, *response],
                max_new_tokens=room_tokens,
                offset=len(response),
                stop_ids=request.stop_ids | (_delimiters(thinking) if is_over else frozenset()),
                stop_strings=(*request.stop_strings, *(_spelt_delimiters(thinking) if is_over else ())),
                forbidden_first_ids=forbidden_ids,
                forced_close=None,
            )
        ]
        spend += part.spend
        spent_tokens += len(part.ids)
        kept = _allowed(thinking, response, part.ids, prompt_ids, is_over)
        whole = kept == len(part.ids)
        taken_back = not whole
        forbidden_ids = frozenset(part.ids[kept : kept + 1]) | (frozenset() if kept else forbidden_ids)
        response += part.ids[:kept]
        logprobs += (part.logprobs or [])[:kept]
        finished, stopped = whole and part.finished, whole and part.stopped
    return Completion(
        ids=response[request.offset :],
        finished=finished,
        spend=spend,
        stopped=stopped,
        was_closed=was_closed,
        logprobs=logprobs if request.logprobs else None,
    )


def _allowed(
    thinking: ThinkingFormat, before: list[int], ids: list[int], prompt_ids: Sequence[int], is_over: bool
) -> int:
    """How many of the ids, which follow `before`, may stay."""
    states = thinking.states([*before, *ids], prompt_ids)[len(before) :]
    allowed = len(ids)
    if is_over and _spelt_delimiters(thinking) and any(phase != "answering" for phase, _ in states[1:]):
        # A delimiter of several ids shows itself with its last one, which is what must go.
        for place, token in enumerate(ids):
            phase = thinking.phases([*before, *ids[: place + 1]], prompt_ids)[-1]
            if phase == "thinking" or (phase == "closed" and token not in thinking.blank_ids):
                allowed = place
                break
    for place, (token, (phase, blanks)) in enumerate(zip(ids[:allowed], states, strict=False)):
        if token in _forbidden(thinking, phase, blanks, is_over):
            return place
    return allowed


def _forbidden(thinking: ThinkingFormat, phase: Phase, blanks: int, is_over: bool) -> frozenset[int]:
    """What must not follow: an end before an answer, white space in its place, a block or a close that is too late."""
    forbidden = _delimiters(thinking) if is_over else frozenset()
    if phase != "answering":
        forbidden |= thinking.eos_ids
    if phase == "closed" and blanks >= thinking.blank_allowance:
        forbidden |= thinking.blank_ids
    return forbidden


def _delimiters(thinking: ThinkingFormat) -> frozenset[int]:
    return frozenset((*thinking.open_ids, *thinking.close_ids) if thinking.has_single_ids else ())


def _spelt_delimiters(thinking: ThinkingFormat) -> tuple[str, ...]:
    return () if thinking.has_single_ids else (thinking.open_text, thinking.close_text)
