"""What was decoded once is not decoded again, and nobody can tell."""

from __future__ import annotations

import dataclasses

import pytest

from efficient_reasoning.inference import Request, Sampling, load_reasoner, solve_many
from efficient_reasoning.inference.engine import IN_LOOP
from efficient_reasoning.inference.recall import RecallingEngine

BUDGETS = (None, 60, 40, 200)
QUESTIONS = ["Compute 34 + 27 - 15 + 88.", "Chickens and rabbits: 24 heads and 56 legs. How many chickens?"]


class Counting:
    """An engine that remembers what it was asked."""

    def __init__(self, engine):
        self.engine, self.requests = engine, []
        self.capabilities = engine.capabilities - {IN_LOOP}

    def generate(self, requests):
        self.requests += requests
        return self.engine.generate(requests)


@pytest.fixture(scope="module")
def reasoner():
    return load_reasoner("overthinker", device="cpu")


def test_budgets_share_one_pass_and_give_what_they_give_alone(reasoner):
    engine = Counting(reasoner.engine)
    recalling = RecallingEngine(engine)
    for budget in BUDGETS:
        shared = dataclasses.replace(reasoner, engine=recalling)
        ours = solve_many(shared, QUESTIONS, budget_tokens=budget, seeds=[1, 2])
        in_passes = dataclasses.replace(reasoner, engine=Counting(reasoner.engine))
        alone = solve_many(in_passes, QUESTIONS, budget_tokens=budget, seeds=[1, 2])
        for one, other in zip(ours, alone, strict=True):
            assert one.completion_ids == other.completion_ids
            assert one.spend.decoded_tokens == other.spend.decoded_tokens
            assert one.spend.prompt_tokens == other.spend.prompt_tokens
            assert one.spend.seconds > 0
    # Both chains once, and one answer behind a forced close for each at 60 and at 40 tokens.
    assert len(engine.requests) == 2 + 2 + 2


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 4},
        {"sampling": Sampling(0.7)},
        {"prompt_ids": [5, 6]},
        {"max_new_tokens": 40},
    ],
)
def test_other_requests_are_decoded(reasoner, other):
    same = {"prompt_ids": [5, 6, 7], "max_new_tokens": 6, "sampling": Sampling(), "seed": 3}
    engine = Counting(reasoner.engine)
    recalling = RecallingEngine(engine)
    recalling.generate([Request(**same)])
    [recalled] = recalling.generate([Request(**same | {"max_new_tokens": 2})])
    assert (len(engine.requests), len(recalled.ids), recalled.finished) == (1, 2, False)
    [decoded] = recalling.generate([Request(**same | other)])
    assert len(engine.requests) == 2
    assert decoded.ids == reasoner.engine.generate([Request(**same | other)])[0].ids


def test_an_end_is_recalled_as_an_end_only_where_it_is_reached(reasoner):
    prompt = reasoner.tokenizer.encode("Compute 3 + 4 - 5.")
    recalling = reasoner.recalling().engine
    [whole] = recalling.generate([Request(prompt, 400)])
    assert whole.finished
    for limit, finished in ((len(whole.ids), True), (len(whole.ids) + 9, True), (len(whole.ids) - 1, False)):
        [recalled] = recalling.generate([Request(prompt, limit)])
        assert (recalled.ids, recalled.finished) == (whole.ids[:limit], finished)
        assert recalled.spend.decoded_tokens == len(recalled.ids)


def test_what_is_recalled_is_charged_like_what_is_decoded(reasoner):
    prompt = reasoner.tokenizer.encode("Compute 34 + 27 - 15 + 88.\n")
    recalling = reasoner.recalling().engine
    [whole] = recalling.generate([Request(prompt, 60)])
    assert len(whole.ids) == 60
    [recalled] = recalling.generate([Request(prompt, 10)])
    [fresh] = reasoner.engine.generate([Request(prompt, 10)])
    assert recalled.spend.flops == pytest.approx(fresh.spend.flops)
    assert 0 < recalled.spend.seconds < whole.spend.seconds


def test_an_engine_is_not_asked_for_what_is_known(reasoner):
    engine = Counting(reasoner.engine)
    engine.generate = lambda requests, generate=engine.generate: generate(requests) if requests else pytest.fail()
    recalling = RecallingEngine(engine)
    requests = [Request([5, 6, 7], 9)]
    assert recalling.generate(requests)[0].ids == recalling.generate(requests)[0].ids
