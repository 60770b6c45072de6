"""An engine without a model: a rule says which token follows. Strategies are tested on it in milliseconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.engine import LOGPROBS, SCORE, Completion, Request, Score, single_samples
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.thinking import ThinkingFormat


class MockEngine:
    """Decodes with a rule; sampling settings and seeds mean nothing to it.

    Args:
        rule: all token ids so far, prompt included -> the next one, or several, the best one first.
        eos_ids: token ids that end a completion.
        decode: ids -> text, for requests with stop strings.
        confidence: all token ids so far, and the next one -> its probability; 1 without it.

    Attributes:
        requests: all that it was asked, in order.
        spent: the sum of what it has charged.
    """

    capabilities = frozenset({LOGPROBS, SCORE})

    def __init__(
        self,
        rule: Callable[[Sequence[int]], int | Sequence[int]],
        eos_ids: frozenset[int],
        decode: Callable[[Sequence[int]], str] | None = None,
        confidence: Callable[[Sequence[int], int], float] = lambda ids, token: 1.0,
    ):
        self.rule = rule
        self.eos_ids = eos_ids
        self.decode = decode
        self.confidence = confidence
        self.requests: list[Request] = []
        self.spent = Ledger()

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.requests += requests
        completions = [self._decode(request) for request in single_samples(requests)]
        self.spent = sum((completion.spend for completion in completions), self.spent)
        return completions

    def score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], offsets: Sequence[int] | None = None
    ) -> list[Score]:
        scores = [
            Score(
                [math.log(self.confidence([*prefix, *ids[:place]], token)) for place, token in enumerate(ids)],
                Ledger(
                    requests=1, prompt_tokens=len(prefix) + len(ids), computed_prompt_tokens=len(prefix) + len(ids)
                ),
            )
            for prefix, ids in pairs
        ]
        self.spent = sum((score.spend for score in scores), self.spent)
        return scores

    def _decode(self, request: Request) -> Completion:
        ids: list[int] = []
        logprobs: list[float] = []
        forbidden, masked_tokens, stopped = request.forbidden_first_ids, 0, False
        while len(ids) < request.max_new_tokens and not stopped and not (ids and ids[-1] in self.eos_ids):
            so_far = [*request.prompt_ids, *ids]
            said = self.rule(so_far)
            candidates = [said] if isinstance(said, int) else list(said)
            token = next((candidate for candidate in candidates if candidate not in forbidden), None)
            if token is None:
                raise BadInput("The mock has nothing to say that is not forbidden; give its script an answer.")
            masked_tokens += token != candidates[0]
            forbidden = frozenset()
            logprobs.append(math.log(self.confidence(so_far, token)))
            ids.append(token)
            stopped = token in request.stop_ids or any(text in self.decode(ids) for text in request.stop_strings)
        prompt_tokens = len(request.prompt_ids)
        return Completion(
            ids,
            finished=ids[-1] in self.eos_ids,
            spend=Ledger(1, prompt_tokens, prompt_tokens, len(ids), masked_tokens=masked_tokens),
            stopped=stopped,
            logprobs=logprobs if request.logprobs else None,
        )


def scripted(thinking: ThinkingFormat, thoughts: str, answer: str) -> Callable[[Sequence[int]], int]:
    """A rule that opens a block, thinks these thoughts, closes it, gives this answer and ends.

    A block that is closed early is answered at once. Delimiters must be single ids.
    """
    encode = thinking.tokenizer.encode
    thought_ids, answer_ids = (encode(text, add_special_tokens=False) for text in (thoughts, answer))
    [open_id], [close_id], end_id = thinking.open_ids, thinking.close_ids, min(thinking.eos_ids)

    def rule(ids: Sequence[int]) -> int:
        since_open, since_close = (_since(ids, delimiter) for delimiter in (open_id, close_id))
        if since_close is not None and (since_open is None or since_close < since_open):
            return [*answer_ids, *[end_id] * (since_close + 1)][since_close]
        if since_open is None:
            return open_id
        return [*thought_ids, *[close_id] * (since_open + 1)][since_open]

    return rule


def _since(ids: Sequence[int], token: int) -> int | None:
    return next((place for place, other in enumerate(reversed(ids)) if other == token), None)
