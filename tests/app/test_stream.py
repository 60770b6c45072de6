from __future__ import annotations

import dataclasses
import threading

import pytest

from efficient_reasoning import load_reasoner, solve
from efficient_reasoning.app import stream as module
from efficient_reasoning.app.stream import Growing, stream
from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import Solution

QUESTIONS = ("Chickens and rabbits: 24 heads and 56 legs. How many chickens?", "Compute 34 + 27 - 15 + 88.")
STRATEGIES = ("budget-forcing", "no-thinking", "chain-of-draft", "close-scaling", "deer", "dynasor", "tale-estimate")
SAMPLING = {"temperature": 1.0, "max_new_tokens": 300}


@pytest.fixture(scope="module", params=["graph", "transformers"])
def reasoner(request):
    return load_reasoner("overthinker", request.param, device="cpu")


@pytest.fixture(scope="module")
def script():
    return load_reasoner("overthinker", "mock", script=("so " * 40, "20"))


def outcome(read, *words, **options):
    """The solution, or the sentence that refuses it."""
    try:
        last = read(*words, **options)
    except BadInput as error:
        return str(error)
    solution = last if isinstance(last, Solution) else list(last)[-1]
    fields = {name: value for name, value in vars(solution).items() if name != "spend"}
    return fields | {"tokens": solution.spend.tokens, "forced": solution.spend.forced_tokens}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_end_of_a_stream_is_the_solution(reasoner, strategy):
    for seed, (question, budget) in enumerate(zip(QUESTIONS, (64, None), strict=True)):
        options = {"strategy": strategy, "budget_tokens": budget, "seed": seed, **SAMPLING}
        assert outcome(stream, reasoner, question, **options) == outcome(solve, reasoner, question, **options)


def test_a_forced_close_is_put_in_whole_wherever_the_pieces_end(reasoner, monkeypatch):
    for piece_tokens in (1, 2, 5):
        monkeypatch.setattr(module, "PIECE_TOKENS", piece_tokens)
        for budget in (17, 33):
            options = {"budget_tokens": budget, "seed": piece_tokens, **SAMPLING}
            streamed = outcome(stream, reasoner, QUESTIONS[0], **options)
            assert streamed == outcome(solve, reasoner, QUESTIONS[0], **options)
            assert streamed["forced_close"]


def test_a_stream_grows(script):
    *states, solution = stream(script, "How many?", budget_tokens=None)
    assert len(states) >= solution.total_tokens // module.PIECE_TOKENS
    assert all(isinstance(state, Growing) for state in states)
    totals = [state.total_tokens for state in states]
    assert totals == sorted(totals)
    assert totals[0] == 0
    assert 0 < totals[1] <= module.PIECE_TOKENS
    for state in states:
        assert solution.thinking.startswith(state.thinking)
    assert states[1].is_thinking
    assert (solution.answer, solution.truncated) == ("20", False)


def test_two_streams_are_read_in_turns(script):
    other = dataclasses.replace(script)
    pairs = list(zip(stream(script, "One?"), stream(other, "Two?"), strict=True))
    assert all(type(one) is type(two) for one, two in pairs)
    assert isinstance(pairs[-1][0], Solution)


def test_a_stream_that_is_dropped_decodes_no_further(script):
    threads = threading.active_count()
    asked = len(script.engine.requests)
    reading = stream(script, "How many?")
    next(reading), next(reading)
    assert threading.active_count() == threads + 1
    reading.close()
    assert threading.active_count() == threads
    assert len(script.engine.requests) == asked + 1


def test_what_solve_refuses_a_stream_refuses(script):
    for question, options, sentence in (
        ("How many?", {"budget_tokens": 3}, "budget_tokens is 3"),
        ("  ", {}, "A question is empty"),
        ("How many?", {"strategy": "budget-focing"}, "did you mean budget-forcing"),
    ):
        with pytest.raises(BadInput, match=sentence):
            list(stream(script, question, **options))
