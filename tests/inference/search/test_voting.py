"""Votes among samples, on a model that says something else for every seed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import Response, get_strategy
from efficient_reasoning.inference.search.samples import choose
from efficient_reasoning.inference.search.voting import leads
from tests.inference.minds import CLOSE, EOS, OPEN, WORD, assignment, encode, said, solved
from tests.inference.search.crowd import vote


def test_probability_of_leading_is_that_of_the_beta_rule():
    share = np.linspace(0, 1, 200_001)
    for first in range(6):
        for second in range(6):
            density = share**first * (1 - share) ** second
            numeric = density[share > 0.5].sum() / density.sum()
            assert leads(first, second) == pytest.approx(numeric, abs=1e-4)


def test_the_majority_wins_and_all_samples_are_charged():
    answer, response, engine = vote("self-consistency", ["7", "8", "8", "9", "8"], samples=5)
    assert answer == "8"
    assert response.ids == [OPEN, WORD, WORD, CLOSE, *encode("8"), EOS]  # the shortest that says so
    assert response.spend == engine.spent
    assert engine.drawn == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("answers", "samples"),
    [
        (["7"], 4),  # 31/32 after one round
        (["7", "7", "7", "8"], 12),  # 26/32 after one round, 466/512 after two, 7814/8192 after three
        (["7", "8"], 40),
        ([""], 40),
    ],
)
def test_adaptive_consistency_stops_when_it_is_certain(answers, samples):
    assert len(vote("adaptive-consistency", answers)[2].drawn) == samples


def test_confidence_of_one_draws_all():
    assert len(vote("adaptive-consistency", ["7"], confidence=1.0, samples=10)[2].drawn) == 10


def test_a_tie_is_broken_by_the_seed():
    winners = {seed: vote("self-consistency", ["7", "8"], seed=seed, samples=2)[0] for seed in range(20)}
    assert set(winners.values()) == {"7", "8"}
    reversed_order = {seed: vote("self-consistency", ["8", "7"], seed=seed, samples=2)[0] for seed in winners}
    assert reversed_order == winners


def test_of_samples_as_long_that_agree_the_seed_takes_one():
    given = assignment(None)
    texts = [[OPEN, word, CLOSE, *encode("7"), EOS] for word in encode("3456")]
    taken = set()
    for seed in range(20):
        for_seed = dataclasses.replace(given, seed=seed)
        one, other = (choose(for_seed, [Response(ids) for ids in order]).ids for order in (texts, texts[::-1]))
        assert one == other
        taken.add(tuple(one))
    assert len(taken) == len(texts)


@pytest.mark.parametrize("strategy", ["self-consistency", "adaptive-consistency"])
def test_without_an_answer_the_first_sample_is_returned(strategy):
    answer, response, engine = vote(strategy, ["", ""], samples=2)
    assert answer == ""
    assert len(response.ids) == len(vote("budget-forcing", [""])[1].ids)
    assert not response.finished
    assert response.spend == engine.spent


@pytest.mark.parametrize("strategy", ["self-consistency", "adaptive-consistency"])
def test_a_budget_that_holds_one_sample_is_that_sample(strategy):
    one = vote(strategy, ["7", "8"], budget_tokens=20)[1]
    plain = vote("budget-forcing", ["7", "8"], budget_tokens=20)[1]
    assert one == plain


def test_a_budget_is_spent_on_as_many_samples_as_it_holds():
    _, response, engine = vote("self-consistency", ["7"], budget_tokens=100, samples=50, sample_tokens=20)
    assert response.spend.tokens <= 100
    assert len(engine.drawn) > 100 // 20  # short samples leave room for more


def test_a_sample_without_room_for_an_answer_is_refused():
    with pytest.raises(BadInput, match=r"A sample may take 6 tokens, and 6 are reserved .*; raise sample_tokens"):
        vote("self-consistency", ["7"], 100, sample_tokens=6)


def test_a_budget_without_room_for_an_answer_is_refused():
    with pytest.raises(BadInput, match="budget_tokens is 3"):
        vote("self-consistency", ["7"], budget_tokens=3)


@pytest.mark.parametrize(
    ("strategy", "parameters", "named"),
    [
        ("self-consistency", {"samples": 0}, "samples is 0"),
        ("self-consistency", {"sample_tokens": 0}, "sample_tokens is 0"),
        ("adaptive-consistency", {"round_samples": 0}, "round_samples is 0"),
        ("adaptive-consistency", {"confidence": 1.5}, "confidence is 1.5"),
    ],
)
def test_parameters_without_meaning_are_refused(strategy, parameters, named):
    with pytest.raises(BadInput, match=named):
        get_strategy(strategy, **parameters)


def test_an_endless_thinker_gives_nothing_to_vote_on():
    found = solved("self-consistency", lambda so_far: [OPEN, WORD][bool(said(so_far))], assignment(None), samples=2)
    assert found.answer == ""
