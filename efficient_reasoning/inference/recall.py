"""Not decoding twice what is already known: one pass of a problem serves all of its budgets.

A request owns its randomness, so one with the same prompt, sampling and seed but a lower limit gets the beginning of
the same tokens. Budget forcing at 64, 128 and 256 tokens asks for just that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from efficient_reasoning.inference.engine import Completion, Engine, Request


class RecallingEngine:
    """Passes requests on, and answers from memory those of which a longer decoding is known.

    What is recalled is charged as if it had been decoded: a strategy's spend does not depend on what ran before it.

    Args:
        engine: decodes what is not known.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        self._known: dict[tuple, Completion] = {}

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        keys = [(tuple(request.prompt_ids), request.sampling, request.seed) for request in requests]
        recalled = [self._recall(key, request) for key, request in zip(keys, requests, strict=True)]
        unknown = [index for index, completion in enumerate(recalled) if completion is None]
        for index, completion in zip(unknown, self.engine.generate([requests[i] for i in unknown]), strict=True):
            recalled[index] = completion
            self._known[keys[index]] = completion
        return recalled

    def _recall(self, key: tuple, request: Request) -> Completion | None:
        known = self._known.get(key)
        if known is None or (len(known.ids) < request.max_new_tokens and not known.finished):
            return None
        ids = known.ids[: request.max_new_tokens]
        tokens, known_tokens = (known.spend.prompt_tokens + count for count in (len(ids), len(known.ids)))
        spend = dataclasses.replace(
            known.spend, decoded_tokens=len(ids), seconds=known.spend.seconds * tokens / known_tokens
        )
        return Completion(ids, known.finished and len(ids) == len(known.ids), spend)
