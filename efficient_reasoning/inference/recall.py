"""Not decoding twice what is already known: one pass of a problem serves all of its budgets.

A request owns its randomness, so one with the same prompt, sampling and seed but a lower limit gets the beginning of
the same tokens. Budget forcing at 64, 128 and 256 tokens asks for just that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from efficient_reasoning.inference.engine import (
    IN_LOOP,
    Completion,
    Engine,
    Hidden,
    Request,
    Score,
    keeping,
    shared,
    single_samples,
)


class RecallingEngine:
    """Passes requests on, and answers from memory those of which a longer decoding is known.

    What is recalled is charged as if it had been decoded: a strategy's spend does not depend on what ran before it. So
    is what goes on from there: an engine that holds what it reads (`prefixes`) would have held what it decoded.

    Args:
        engine: decodes what is not known.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        # A forced close comes in two parts, of which the first is the beginning of others.
        self.capabilities = engine.capabilities - {IN_LOOP}
        self._known: dict[tuple, Completion] = {}
        # In this run, what would be held of what was recalled, by the problem's prompt.
        self._recalled: dict[tuple[int, ...], list[np.ndarray]] | None = None

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """A run, as `Keeping.keeping`."""
        outer = self._recalled
        self._recalled = {} if outer is None else outer
        try:
            with keeping(self.engine):
                yield
        finally:
            self._recalled = outer

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        requests = single_samples(requests)
        keys = [_key(request) for request in requests]
        recalled = [self._recall(key, request) for key, request in zip(keys, requests, strict=True)]
        unknown = [index for index, completion in enumerate(recalled) if completion is None]
        decoded = self.engine.generate([requests[i] for i in unknown]) if unknown else []
        for index, completion in zip(unknown, decoded, strict=True):
            recalled[index] = self._charge(requests[index], completion)
            self._known[keys[index]] = recalled[index]
        for index in set(range(len(requests))) - set(unknown):
            self._hold(requests[index], recalled[index])
        return recalled

    def _hold(self, request: Request, completion: Completion) -> None:
        """Note what an engine would hold of a completion, had it decoded it."""
        prompt_tokens = len(request.prompt_ids) - request.offset
        ids = [*request.prompt_ids, *completion.ids[:-1]]
        holds = getattr(self.engine, "holds", None)
        is_read = request.asked_about or not completion.finished
        if self._recalled is not None and is_read and holds and holds(ids, prompt_tokens):
            self._recalled.setdefault(tuple(ids[:prompt_tokens]), []).append(np.array(ids))

    def _charge(self, request: Request, completion: Completion) -> Completion:
        """A completion that was decoded, not charged for what would have been held."""
        prompt_tokens, spend = len(request.prompt_ids), completion.spend
        held = self._held(request.prompt_ids, request.offset) if request.offset else 0
        if prompt_tokens - held >= spend.computed_prompt_tokens:
            return completion
        saved = spend.computed_prompt_tokens - (prompt_tokens - held)
        flops = self.engine.flops.of_prompt(prompt_tokens, spend.computed_prompt_tokens)
        flops -= self.engine.flops.of_prompt(prompt_tokens, prompt_tokens - held)
        computed = spend.computed_prompt_tokens + len(completion.ids)
        spend = dataclasses.replace(
            spend,
            computed_prompt_tokens=prompt_tokens - held,
            flops=spend.flops - flops,
            seconds=spend.seconds * (1 - saved / computed),
        )
        return dataclasses.replace(completion, spend=spend)

    def _charge_score(self, score: Score, prefix: Sequence[int], ids: Sequence[int], offset: int) -> Score:
        """As `_charge`, of a score."""
        tokens, spend, held = len(prefix) + len(ids), score.spend, self._held(prefix, offset)
        if tokens - held >= spend.computed_prompt_tokens:
            return score
        costs = self.engine.flops
        flops = costs.of_score(len(prefix), len(ids), tokens - spend.computed_prompt_tokens)
        flops -= costs.of_score(len(prefix), len(ids), held)
        spend = dataclasses.replace(
            spend,
            computed_prompt_tokens=tokens - held,
            flops=spend.flops - flops,
            seconds=spend.seconds * (tokens - held) / spend.computed_prompt_tokens,
        )
        return dataclasses.replace(score, spend=spend)

    def _held(self, ids: Sequence[int], offset: int) -> int:
        """How many ids would be held of what was recalled; all but the last, whose logits are wanted.

        Args:
            ids: a problem's prompt, and so much of a response.
            offset: how much of a response.
        """
        recalled = self._recalled.get(tuple(ids[: len(ids) - offset]), []) if self._recalled else []
        before = np.array(ids[:-1]) if recalled else None
        return max((shared(before, other) for other in recalled), default=0)

    def _recall(self, key: tuple, request: Request) -> Completion | None:
        known = self._known.get(key)
        ends = known is not None and (known.finished or known.stopped)
        if known is None or (len(known.ids) < request.max_new_tokens and not ends):
            return None
        ids = known.ids[: request.max_new_tokens]
        decoded_tokens = known.spend.decoded_tokens - len(known.ids) + len(ids)
        computed, prompt_tokens = known.spend.computed_prompt_tokens, len(request.prompt_ids)
        share = (computed + decoded_tokens) / (computed + known.spend.decoded_tokens)
        costs, flops = getattr(self.engine, "flops", None), 0.0  # of engines that know their model
        iterations = known.iterations[: len(ids)]
        if costs:
            flops = costs.of_prompt(prompt_tokens, computed)
            flops += costs.of_new(prompt_tokens, len(ids), iterations)
        spend = dataclasses.replace(
            known.spend,
            decoded_tokens=decoded_tokens,
            core_iterations=sum(iterations),
            draft_tokens=round(known.spend.draft_tokens * share),
            flops=flops,
            seconds=known.spend.seconds * share,
        )
        whole = len(ids) == len(known.ids)
        return Completion(
            ids,
            known.finished and whole,
            spend,
            known.stopped and whole,
            logprobs=known.logprobs and known.logprobs[: len(ids)],
            iterations=iterations,
        )

    def score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], offsets: Sequence[int] | None = None
    ) -> list[Score]:
        scores = self.engine.score(pairs, offsets)
        return [
            self._charge_score(score, prefix, ids, offset)
            for score, (prefix, ids), offset in zip(scores, pairs, offsets or [0] * len(pairs), strict=True)
        ]

    def read(self, prompts: Sequence[Sequence[int]]) -> list[Hidden]:
        return self.engine.read(prompts)


def _key(request: Request) -> tuple:
    """Everything that decides the tokens, and what is known of them, but their number."""
    return (
        tuple(request.prompt_ids),
        request.sampling,
        request.seed,
        request.offset,
        request.stop_ids,
        request.stop_strings,
        request.logprobs,
        tuple(sorted(request.logit_bias.items())),
        request.forbidden_first_ids,
    )
