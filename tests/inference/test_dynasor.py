"""Answer probes against a model whose mind is known: what ends the thinking, and what it costs."""

from __future__ import annotations

import pytest

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import get_strategy
from tests.inference import minds
from tests.inference.minds import CLOSE, EOS, OPEN, OTHER, PLAIN, PROMPT, WORD, assignment


def mind(settled_after: int, thoughts: int):
    """Thinks `thoughts` words; made to answer, it says WORD once `settled_after` are thought, else their number."""

    def rule(ids) -> list[int]:
        response = list(ids)[len(PROMPT) :]
        if not response:
            return [OPEN, WORD]
        if CLOSE not in response:
            return [WORD if len(response) <= thoughts else CLOSE, WORD]
        thought = response.index(CLOSE) - 1
        said = len(response) - response.index(CLOSE) - 1
        if thought >= settled_after:
            return [WORD if said == 0 else EOS, WORD]
        return [OTHER if said < thought else EOS, WORD]

    return rule


def solved(rule, budget_tokens=None, **parameters):
    result = minds.solved("dynasor", rule, assignment(budget_tokens), **parameters)
    return result.response, result.requests


def test_thinking_ends_with_the_second_equal_answer():
    response, requests = solved(mind(settled_after=15, thoughts=200), interval_tokens=10)
    # Probes after 9, 19 and 29 words: an answer of nine tokens, WORD, WORD again.
    assert response.ids == [OPEN, *[WORD] * 29, CLOSE, WORD, EOS]
    assert response.finished and response.forced_close
    assert [len(request.prompt_ids) - len(PROMPT) for request in requests] == [0, 11, 10, 21, 20, 31]
    assert [request.max_new_tokens for request in requests] == [10, 16] * 3
    assert all(request.sampling.temperature == 0 for request in requests[1::2])
    # 30 of thinking; probes of 9 + EOS, 1 + EOS and 1 + EOS behind one forced token each.
    assert response.spend.decoded_tokens == 30 + 10 + 2 + 2
    assert response.spend.forced_tokens == 3
    assert response.spend.requests == 6


@pytest.mark.parametrize(("equal_probes", "words"), [(1, 9), (3, 29)])
def test_more_probes_ask_for_more_certainty(equal_probes, words):
    response, _ = solved(mind(settled_after=0, thoughts=200), interval_tokens=10, equal_probes=equal_probes)
    assert response.ids == [OPEN, *[WORD] * words, CLOSE, WORD, EOS]


def test_an_unfinished_probe_agrees_with_none():
    response, requests = solved(mind(settled_after=100, thoughts=60), interval_tokens=20, probe_tokens=5)
    # The model ends its thinking itself, and answers at length.
    assert response.ids == [OPEN, *[WORD] * 60, CLOSE, *[OTHER] * 60, EOS]
    assert response.finished and not response.forced_close
    assert len(requests) == 3 * 2 + 1 + 1


def test_a_model_that_is_done_before_the_first_probe_is_left_alone():
    response, requests = solved(mind(settled_after=0, thoughts=3))
    assert response.ids == [OPEN, *[WORD] * 3, CLOSE, WORD, EOS]
    assert len(requests) == 1
    assert response.spend.tokens == len(response.ids)


@pytest.mark.parametrize("settled_after", [0, 30, 500])
@pytest.mark.parametrize("interval_tokens", [1, 7, 32])
def test_probes_are_part_of_the_budget(settled_after, interval_tokens):
    for budget in range(13, 120):
        response, _ = solved(mind(settled_after, thoughts=300), budget, interval_tokens=interval_tokens)
        assert response.spend.tokens <= budget
        assert PLAIN.split(response.ids, PROMPT).answer_ids  # one has been begun


@pytest.mark.parametrize("name", ["interval_tokens", "equal_probes", "probe_tokens"])
def test_parameters_below_one_are_refused(name):
    with pytest.raises(BadInput, match=f"{name} is 0; give at least 1"):
        get_strategy("dynasor", **{name: 0})


def test_a_budget_that_holds_no_answer_is_refused():
    with pytest.raises(BadInput, match="budget_tokens is 4, of which 6 are reserved"):
        solved(mind(0, 10), 4)
