"""An engine without a model: a rule says which token follows. Strategies are tested on it in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from efficient_reasoning.inference.engine import Completion, Request
from efficient_reasoning.inference.ledger import Ledger


class MockEngine:
    """Decodes with a rule; sampling settings and seeds mean nothing to it.

    Args:
        rule: all token ids so far, prompt included -> the next one.
        eos_ids: token ids that end a completion.

    Attributes:
        requests: all that it was asked, in order.
    """

    def __init__(self, rule: Callable[[Sequence[int]], int], eos_ids: frozenset[int]):
        self.rule = rule
        self.eos_ids = eos_ids
        self.requests: list[Request] = []

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.requests += requests
        return [self._decode(request) for request in requests]

    def _decode(self, request: Request) -> Completion:
        ids: list[int] = []
        while len(ids) < request.max_new_tokens and not (ids and ids[-1] in self.eos_ids):
            ids.append(self.rule([*request.prompt_ids, *ids]))
        prompt_tokens = len(request.prompt_ids)
        return Completion(ids, ids[-1] in self.eos_ids, Ledger(1, prompt_tokens, prompt_tokens, len(ids)))
