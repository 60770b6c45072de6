"""A bias on the close: it acts while the model thinks, and only then."""

from __future__ import annotations

import pytest

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import get_strategy
from efficient_reasoning.inference.strategy import run_all
from efficient_reasoning.inference.two_pass import TwoPassEngine
from tests.inference.minds import CLOSE, EOS, OPEN, PROMPT, SPELT, TOKENIZER, WORD, BiasedEngine, assignment, solved


def scaled(budget_tokens: int | None, close_bias: float, patience: int = 60):
    """A model that closes after `patience / (1 + bias)` words, and answers with as many closes as it is biased to."""

    def rule(ids):
        response = list(ids)[len(PROMPT) :]
        if not response:
            return [OPEN, WORD]
        if CLOSE not in response:
            return [WORD if len(response) <= patience / (1 + engine.bias) else CLOSE, WORD]
        if response[-1] == CLOSE and response.count(CLOSE) > 1 + engine.bias:
            return [WORD]
        return [CLOSE if engine.bias else EOS if response[-1] == WORD else WORD, WORD]

    engine = BiasedEngine(rule, frozenset({EOS}), TOKENIZER.decode)
    steps = get_strategy("close-scaling", close_bias=close_bias).solve(assignment(budget_tokens))
    [response] = run_all(TwoPassEngine(engine), [steps])
    return response, engine


@pytest.mark.parametrize(("close_bias", "words"), [(0.0, 60), (1.0, 30), (2.0, 20), (5.0, 10)])
def test_the_bias_shortens_the_thinking_and_leaves_the_answer_alone(close_bias, words):
    response, engine = scaled(None, close_bias)
    assert response.ids == [OPEN, *[WORD] * words, CLOSE, WORD, EOS]
    assert response.finished and not response.forced_close
    assert response.spend.tokens == len(response.ids)
    thinking, answering = engine.requests
    assert thinking.logit_bias == {CLOSE: close_bias} and thinking.stop_ids == {CLOSE}
    assert not answering.logit_bias and not answering.stop_ids


def test_a_budget_holds_all_the_same():
    response, _ = scaled(40, 0.5)
    assert response.ids == [OPEN, *[WORD] * 33, CLOSE, WORD, EOS]
    assert response.forced_close and response.spend.tokens == len(response.ids) <= 40
    response, _ = scaled(40, 2.0)
    assert response.ids == [OPEN, *[WORD] * 20, CLOSE, WORD, EOS]
    assert not response.forced_close


def test_a_delimiter_of_several_ids_is_refused():
    with pytest.raises(BadInput, match="needs a close delimiter of one token, and '</thought>' is 10; use budget-for"):
        solved("close-scaling", lambda ids: WORD, assignment(90, SPELT))
