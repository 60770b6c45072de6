"""Forbidding first tokens where a server's masks hold for a whole request: the first token is a request of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from efficient_reasoning.inference.engine import Completion, Request, single_samples, stop_place

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def decode_apart(
    decode: Callable[[Sequence[Request]], list[Completion]],
    requests: Sequence[Request],
    tokenizer: PreTrainedTokenizerBase,
) -> list[Completion]:
    """Decode requests, in two parts where a first token is forbidden; both parts are charged.

    Args:
        decode: like `Engine.generate`, but `forbidden_first_ids` come in requests for one token only.
        requests: any.
        tokenizer: spells completions, for stop strings.
    """
    # The samples of a request part ways at their first token.
    requests = [
        part
        for request in requests
        for part in (single_samples([request]) if request.forbidden_first_ids else [request])
    ]
    beginnings = [
        dataclasses.replace(request, max_new_tokens=1) if request.forbidden_first_ids else request
        for request in requests
    ]
    decoded = iter(decode(beginnings))
    completions = [[next(decoded) for _ in range(request.n)] for request in requests]
    cut = [
        index
        for index, request in enumerate(requests)
        if request.forbidden_first_ids
        and request.max_new_tokens > 1
        and not (completions[index][0].finished or completions[index][0].stopped)
    ]
    rests = [_rest(requests[index], completions[index][0]) for index in cut]
    for index, rest in zip(cut, decode(rests) if rests else [], strict=True):
        completions[index] = [_joined(requests[index], completions[index][0], rest, tokenizer)]
    return [completion for samples in completions for completion in samples]


def _rest(request: Request, first: Completion) -> Request:
    return dataclasses.replace(
        request,
        prompt_ids=[*request.prompt_ids, *first.ids],
        max_new_tokens=request.max_new_tokens - 1,
        offset=request.offset + 1,
        forbidden_first_ids=frozenset(),
    )


def _joined(request: Request, first: Completion, rest: Completion, tokenizer: PreTrainedTokenizerBase) -> Completion:
    ids = [*first.ids, *rest.ids]
    logprobs = None if rest.logprobs is None else [*first.logprobs, *rest.logprobs]
    # A stop string that begins in the first token was not seen when the second part was decoded.
    length = stop_place(tokenizer, ids, request.stop_strings)
    if length is not None:
        ids, logprobs = ids[:length], logprobs and logprobs[:length]
    return Completion(
        ids,
        finished=rest.finished and length is None,
        spend=first.spend + rest.spend,
        stopped=rest.stopped or length is not None,
        logprobs=logprobs,
    )
