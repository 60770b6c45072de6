"""Strategies that ask several models: each request goes to whom it is for, and is charged to the problem."""

from __future__ import annotations

import dataclasses
from unittest import mock

import pytest

from efficient_reasoning import load_reasoner
from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.engine import Likelihood, Rated, Rating
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.inference.mock_engine import MockEngine
from efficient_reasoning.inference.others import check_tokenizer, hand_over, load_other
from efficient_reasoning.inference.strategy import Response, charge_latents, run_all
from tests.inference.minds import EOS, OTHER, PROMPT, TOKENIZER, WORD, assignment, script


class Counter:
    """Rates ids by how many there are, all that it is asked together."""

    def __init__(self):
        self.batches = []

    def rate(self, ratings):
        self.batches.append(len(ratings))
        return [Rated([len(rating.ids)], Ledger(rated_tokens=len(rating.ids))) for rating in ratings]


def speaker(*ids: int) -> MockEngine:
    return MockEngine(script([*ids, EOS]), frozenset({EOS}), TOKENIZER.decode)


def test_every_request_goes_to_whom_it_is_for_and_comes_back_in_its_place():
    own, other, rater = speaker(WORD), speaker(OTHER), Counter()

    def steps():
        given = assignment(None)
        theirs = dataclasses.replace(given, engine=other)
        asked = [
            theirs.request([], 5),
            Rating(PROMPT, 1, rater),
            dataclasses.replace(given.request([], 5), n=2),
            theirs.request([], 5),
        ]
        return (yield asked)

    for first, rated, second, third, last in run_all(own, [steps(), steps()]):
        assert [one.ids for one in (first, second, third, last)] == [[OTHER, EOS], *[[WORD, EOS]] * 2, [OTHER, EOS]]
        assert rated.values == [len(PROMPT)]
    assert (len(own.requests), len(other.requests), rater.batches) == (2, 4, [2])


def test_latents_are_charged_for_prompts_of_the_model_that_has_them():
    other = speaker(OTHER)

    def steps():
        given = assignment(None)
        [mine, theirs, rated] = yield [
            given.request([], 5),
            dataclasses.replace(given, engine=other).request([], 5),
            Rating(PROMPT, 1, Counter()),
        ]
        return Response(spend=mine.spend + theirs.spend + rated.spend)

    [response] = run_all(speaker(WORD), [charge_latents(steps(), 2)])
    assert response.spend.decoded_tokens == 2 + 2 + 2
    assert response.spend.prompt_tokens == 2 * len(PROMPT) - 2


def test_likelihood_rates_every_id_and_charges_what_it_reads():
    engine = MockEngine(script([WORD]), frozenset({EOS}), confidence=lambda ids, token: 0.5)
    [rated] = Likelihood(engine).rate([Rating([*PROMPT, WORD, OTHER], len(PROMPT), None)])
    assert rated.values == pytest.approx([-0.6931, -0.6931], abs=1e-4)
    assert rated.spend.rated_tokens == rated.spend.prompt_tokens == len(PROMPT) + 2


def test_a_problem_is_handed_over_in_the_words_of_the_other_model():
    reasoner = load_other("overthinker", "mock")
    assert load_other("overthinker", "mock") is reasoner
    given = dataclasses.replace(assignment(40), question="What?", latents=3)
    theirs = hand_over(given, reasoner)
    assert reasoner.tokenizer.decode(theirs.prompt_ids).endswith("What?\n")
    assert theirs.request([], 5).engine is theirs.engine
    assert (theirs.latents, theirs.budget_tokens) == (0, 40)


def test_problems_that_are_handed_over_are_decoded_together():
    reasoner = load_other("overthinker", "mock")  # whose forced closes come in parts
    given = dataclasses.replace(assignment(40), question="What?")

    def steps():
        return (yield [hand_over(given, reasoner).request([], 20)])

    with mock.patch.object(reasoner.engine, "generate", wraps=reasoner.engine.generate) as generate:
        run_all(speaker(WORD), [steps() for _ in range(3)])
    assert [len(call.args[0]) for call in generate.call_args_list] == [3]


def test_another_tokenizer_is_refused():
    reasoner = load_reasoner("overthinker", "mock")
    check_tokenizer(reasoner, load_other("overthinker", "mock"))
    stranger = load_reasoner("overthinker", "mock")
    stranger.tokenizer.add_tokens(["<another>"])
    with pytest.raises(BadInput, match="different tokenizers"):
        check_tokenizer(reasoner, stranger)
