"""What latents cost: a strategy that knows nothing of them, and a budget that holds them once a prompt."""

from __future__ import annotations

import dataclasses

import pytest

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.strategy import charge_latents, get_strategy, run_all
from efficient_reasoning.inference.two_pass import TwoPassEngine
from tests.inference.minds import EOS, OTHER, PLAIN, TOKENIZER, WORD, BiasedEngine, assignment, script, stubborn

LATENTS, BUDGET = 6, 120
STRATEGIES = [
    "budget-forcing",
    "budget-forcing?min_thinking_tokens=500&waits=3",
    "chain-of-draft",
    "close-scaling",
    "deer",
    "dynasor",
    "l1-exact",
    "no-thinking",
    "no-thinking?thought=so so",
    "tale-estimate",
    "tale-search",
]


def run(strategy: str, rule, latents: int = LATENTS, budget_tokens: int | None = BUDGET):
    engine = BiasedEngine(rule, frozenset({EOS}), TOKENIZER.decode, lambda ids, token: 0.5)
    left = None if budget_tokens is None else budget_tokens - latents
    given = dataclasses.replace(assignment(left), latents=latents)
    [response] = run_all(TwoPassEngine(engine), [charge_latents(get_strategy(strategy).solve(given), latents)])
    prompts = {tuple(one.prompt_ids[: len(one.prompt_ids) - one.offset]) for one in engine.requests}
    return response, prompts


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_budget_is_spent_to_its_end_and_holds_latents_once(strategy):
    response, prompts = run(strategy, stubborn(WORD, PLAIN))
    assert response.spend.tokens == BUDGET
    assert response.latent_tokens == LATENTS
    assert len(prompts) == (2 if strategy == "tale-estimate" else 1)
    without, _ = run(strategy, stubborn(WORD, PLAIN), 0, BUDGET - LATENTS * len(prompts))
    assert response.spend.decoded_tokens == without.spend.decoded_tokens + LATENTS * len(prompts)
    if len(prompts) == 1:  # else the budget decides where the second begins to be closed
        assert response.spend.prompt_tokens == without.spend.prompt_tokens - LATENTS


@pytest.mark.parametrize("strategy", [strategy for strategy in STRATEGIES if strategy != "l1-exact"])
def test_a_chain_without_a_budget_is_as_long_as_it_is_without_latents(strategy):
    response, _ = run(strategy, stubborn(WORD, PLAIN), budget_tokens=None)
    without, _ = run(strategy, stubborn(WORD, PLAIN), 0, None)
    assert response.ids == without.ids


def test_each_attempt_of_a_search_has_latents_of_its_own():
    answer = [*PLAIN.open_ids, *[WORD] * 30, *PLAIN.close_ids, OTHER, EOS]
    budget = 2 * (LATENTS + len(answer)) + LATENTS + 3
    response, prompts = run("tale-search", script(answer), budget_tokens=budget)
    # The second attempt is no cheaper than the first response, and is not decoded to its end.
    assert len(prompts) == 2
    assert response.spend.tokens == 2 * LATENTS + len(answer) + len(answer) - 1
    tight, prompts = run("tale-search", script(answer), budget_tokens=2 * LATENTS + len(answer) + 9)
    assert len(prompts) == 2 and tight.spend.tokens == 2 * LATENTS + len(answer) + 9


def test_a_budget_that_latents_leave_too_little_of_is_named_as_it_was_given():
    sentence = "budget_tokens is 10, of which 6 are reserved for the answer and 6 taken by latents; give at least 13"
    with pytest.raises(BadInput, match=sentence):
        run("budget-forcing", stubborn(WORD, PLAIN), budget_tokens=10)
    with pytest.raises(BadInput, match="budget_tokens is 1 without latents; an empty thinking block takes them all"):
        run("no-thinking", stubborn(WORD, PLAIN), budget_tokens=7)
