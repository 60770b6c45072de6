"""A model that says something else for every seed, and raters whose opinion is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from efficient_reasoning.inference import Response, get_strategy
from efficient_reasoning.inference.engine import Rated
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.inference.mock_engine import MockEngine
from efficient_reasoning.inference.strategy import run_all
from efficient_reasoning.inference.two_pass import TwoPassEngine
from tests.inference.minds import CLOSE, EOS, OPEN, TOKENIZER, WORD, assignment, encode, said


class Crowd(MockEngine):
    """The i-th sample thinks i + 1 words and gives the i-th answer; an empty one is never finished."""

    def __init__(self, answers: list[str], seed: int):
        super().__init__(self._say, frozenset({EOS}), TOKENIZER.decode)
        self.answers, self.seed, self.drawn = answers, seed, []

    def _decode(self, request):
        self.number = request.seed - self.seed
        if not request.offset:
            self.drawn.append(self.number)
        return super()._decode(request)

    def _say(self, so_far):
        answer = self.answers[self.number % len(self.answers)]
        words = [OPEN, *[WORD] * (self.number + 1)]
        response = [*words, CLOSE, *encode(answer), EOS] if answer else [*words, *[WORD] * 1000]
        return [response[len(said(so_far))], WORD]


def vote(
    strategy: str, answers: list[str] | Crowd, budget_tokens: int | None = None, seed: int = 5, **parameters
) -> tuple[str, Response, Crowd]:
    """What a strategy makes of a crowd that gives these answers: its answer, the response, and who was asked."""
    engine = Crowd(answers, seed) if isinstance(answers, list) else answers
    given = dataclasses.replace(assignment(budget_tokens, max_new_tokens=60), seed=seed)
    [response] = run_all(TwoPassEngine(engine), [get_strategy(strategy, **parameters).solve(given)])
    answer = TOKENIZER.decode(given.thinking.split(response.ids, given.prompt_ids).answer_ids).removesuffix("<|end|>")
    return answer, response, engine


class Opinion:
    """Rates every id by what was said up to there.

    Args:
        of: text behind the prompt -> value.
    """

    def __init__(self, of: Callable[[str], float]):
        self.of, self.asked, self.spent = of, [], Ledger()

    def rate(self, ratings):
        return [self._rate(rating) for rating in ratings]

    def _rate(self, rating) -> Rated:
        begin = rating.begin - rating.offset
        texts = [TOKENIZER.decode(rating.ids[begin : place + 1]) for place in range(rating.begin, len(rating.ids))]
        spend = Ledger(1, len(rating.ids), len(rating.ids), rated_tokens=len(rating.ids))
        self.asked.append(texts[-1])
        self.spent += spend
        return Rated([self.of(text) for text in texts], spend)
