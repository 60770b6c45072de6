"""Not decoding twice what is already known: one pass of a problem serves all of its budgets.

A request owns its randomness, so one with the same prompt, sampling and seed but a lower limit gets the beginning of
the same tokens. Budget forcing at 64, 128 and 256 tokens asks for just that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from efficient_reasoning.inference.engine import IN_LOOP, Completion, Engine, Hidden, Request, Score, single_samples


class RecallingEngine:
    """Passes requests on, and answers from memory those of which a longer decoding is known.

    What is recalled is charged as if it had been decoded: a strategy's spend does not depend on what ran before it.

    Args:
        engine: decodes what is not known.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        # A forced close comes in two parts, of which the first is the beginning of others.
        self.capabilities = engine.capabilities - {IN_LOOP}
        self._known: dict[tuple, Completion] = {}

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        requests = single_samples(requests)
        keys = [_key(request) for request in requests]
        recalled = [self._recall(key, request) for key, request in zip(keys, requests, strict=True)]
        unknown = [index for index, completion in enumerate(recalled) if completion is None]
        decoded = self.engine.generate([requests[i] for i in unknown]) if unknown else []
        for index, completion in zip(unknown, decoded, strict=True):
            recalled[index] = completion
            self._known[keys[index]] = completion
        return recalled

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
        if costs:  # and read all of a prompt or nothing
            flops = costs.of_prompt(prompt_tokens, prompt_tokens if computed else 0)
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

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Score]:
        return self.engine.score(pairs)

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
