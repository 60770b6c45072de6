"""Revision, by a model that changes its mind when it is asked to."""

from __future__ import annotations

import dataclasses

import pytest

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import get_strategy
from efficient_reasoning.inference.mock_engine import MockEngine
from efficient_reasoning.inference.strategy import charge_latents, run_all
from efficient_reasoning.inference.two_pass import TwoPassEngine
from tests.inference.minds import EOS, PLAIN, TOKENIZER, assignment, encode

REVISED = {"": "7", "7": "8", "8": "8"}


def revise(answers: dict[str, str], budget_tokens: int | None = None, latents: int = 0, **parameters):
    """The answer, the response, and the earlier answers that the model was shown."""
    shown = []

    def render(question):
        return encode(f"{question}:")

    def rule(ids):
        text = TOKENIZER.decode(ids)
        asked, _, response = text.partition("wrong.:" if "was: " in text else "so:")
        earlier = asked.partition("was: ")[2][:1]
        if not response:
            shown.append(earlier)
        thought = [*encode("<think> so"), EOS]
        whole = [*encode(PLAIN.write(" so", answers[earlier])), EOS] if answers[earlier] else thought
        return whole[len(encode(response))]

    given = assignment(budget_tokens, prompt_ids=render("so"), max_new_tokens=60)
    given = dataclasses.replace(given, question="so", render=render, latents=latents)
    steps = charge_latents(get_strategy("sequential-revision", **parameters).solve(given), latents)
    engine = MockEngine(rule, frozenset({EOS}), TOKENIZER.decode)
    [response] = run_all(TwoPassEngine(engine), [steps])
    prompt_ids = response.prompt_ids or given.prompt_ids
    return TOKENIZER.decode(PLAIN.split(response.ids, prompt_ids).answer_ids), response, shown


def test_each_round_is_shown_the_answer_of_the_last_and_all_answers_vote():
    answer, response, shown = revise(REVISED)
    assert shown == ["", "7", "8"]
    assert answer == "8"
    assert response.spend.requests == 3
    assert TOKENIZER.decode(response.prompt_ids).startswith("so\nAn earlier answer was: ")


def test_one_round_is_no_revision():
    answer, response, shown = revise(REVISED, rounds=1)
    assert (answer, shown, response.prompt_ids) == ("7", [""], None)


def test_what_has_no_answer_is_not_revised():
    answer, _, shown = revise({"": "7", "7": ""})
    assert (answer, shown) == ("7", ["", "7"])


@pytest.mark.parametrize(("budget_tokens", "latents", "rounds"), [(20, 0, 1), (25, 0, 2), (25, 2, 2), (25, 3, 1)])
def test_as_many_rounds_as_the_budget_holds(budget_tokens, latents, rounds):
    # A round may take 20 tokens, and takes 5; another prompt has latents of its own.
    _, response, shown = revise(REVISED, budget_tokens, latents, sample_tokens=20 - (latents == 2) * 2, rounds=2)
    assert len(shown) == rounds
    assert response.spend.tokens <= budget_tokens + latents


def test_parameters_without_meaning_are_refused():
    with pytest.raises(BadInput, match="rounds is 0"):
        get_strategy("sequential-revision", rounds=0)
