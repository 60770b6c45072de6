"""Early exit by confidence: where a trial is made, what it costs, and when it is believed."""

from __future__ import annotations

import pytest

from tests.inference.minds import CLOSE, EOS, LINES, OPEN, OTHER, PROMPT, SPELT, WAIT, WORD, assignment, encode, solved


def thinker(pause: int, pauses: int, thinking=None, wait=(WAIT,), answer: int = 2):
    """Thinks `pause` words before each of so many transitions, then closes; answers with so many words."""
    opening = [OPEN] if thinking is None else list(thinking.open_ids)
    thoughts = [*opening, *[*[WORD] * pause, *wait] * pauses]
    closing = [CLOSE] if thinking is None else thinking.closing()

    def rule(ids):
        response = list(ids)[len(PROMPT) :]
        starts = [i for i in range(len(response)) if response[i : i + len(closing)] == closing]
        if not starts:
            return [[*thoughts, *closing][len(response)], WORD]
        said = len(response) - starts[-1] - len(closing)
        return [OTHER if said < answer else EOS, WORD]

    return rule


def certain_from(transition: int, sure: float, unsure: float = 0.5):
    """The probability of an answer's tokens, by how many transitions have been thought before it."""

    def confidence(ids, token):
        return sure if list(ids).count(WAIT) >= transition - 1 else unsure

    return confidence


@pytest.mark.parametrize("last", [1, 2, 4])
def test_the_first_certain_trial_is_the_response(last):
    result = solved("deer", thinker(10, 9), assignment(None), confidence=certain_from(last, 0.96))
    thought = [OPEN, *[*[WORD] * 10, WAIT] * (last - 1), *[WORD] * 10]
    response = result.response
    assert response.ids == [*thought, CLOSE, OTHER, OTHER, EOS]  # the transition itself is no thought
    assert response.finished and response.forced_close
    # Thinking, transitions included; trials of two words and EOS, behind one forced token each.
    assert response.spend.decoded_tokens == 1 + 11 * last + 3 * last
    assert response.spend.forced_tokens == last
    assert len(result.requests) == 2 * last
    for trial in result.requests[1::2]:
        assert trial.logprobs and trial.sampling.temperature == 0 and trial.prompt_ids[-1] == CLOSE
        assert trial.prompt_ids[-2] == WORD


@pytest.mark.parametrize(("sure", "exits"), [(0.96, True), (0.95, False), (0.94, False)])
def test_confidence_must_lie_above_the_threshold(sure, exits):
    result = solved("deer", thinker(10, 3), assignment(None), confidence=lambda ids, token: sure)
    assert result.response.forced_close == exits
    if not exits:  # nothing of the trials is left
        assert result.response.ids == [OPEN, *[*[WORD] * 10, WAIT] * 3, CLOSE, OTHER, OTHER, EOS]
        assert result.response.spend.tokens == len(result.response.ids) + 3 * (1 + 3)


def test_confidence_is_the_geometric_mean_of_the_answers_tokens():
    # 0.9 and 0.4: geometric mean 0.6, arithmetic 0.65; EOS, at 0.01, is no part of the answer.
    def confidence(ids, token):
        return 0.01 if token == EOS else 0.9 if ids[-1] == CLOSE else 0.4

    for threshold, exits in [(0.59, True), (0.61, False)]:
        result = solved("deer", thinker(10, 1), assignment(None), confidence=confidence, threshold=threshold)
        assert result.response.forced_close == exits


def test_a_certain_trial_that_is_cut_off_goes_on():
    result = solved("deer", thinker(10, 3, answer=30), assignment(None), trial_tokens=5)
    assert result.response.ids == [OPEN, *[WORD] * 10, CLOSE, *[OTHER] * 30, EOS]
    assert result.response.finished and result.response.forced_close
    assert result.response.spend.tokens == len(result.response.ids) + 1  # the transition
    assert result.requests[-1].sampling.temperature > 0


def test_a_transition_may_be_spelt_by_several_ids_and_be_any_text():
    wait = encode("Hmm")
    assert len(wait) > 1
    result = solved("deer", thinker(10, 3, wait=wait), assignment(None))
    assert result.response.ids == [OPEN, *[WORD] * 10, CLOSE, OTHER, OTHER, EOS]
    result = solved("deer", thinker(10, 3, wait=wait), assignment(None), transitions=("Wait",))
    assert len(result.requests) == 1 and not result.response.forced_close


@pytest.mark.parametrize("thinking", [LINES, SPELT], ids=["lines", "spelt"])
def test_trials_close_as_the_format_does(thinking):
    result = solved("deer", thinker(10, 3, thinking), assignment(None, thinking))
    assert result.response.ids == [*thinking.open_ids, *[WORD] * 10, *thinking.closing(), OTHER, OTHER, EOS]
    assert result.response.spend.forced_tokens == len(thinking.closing())


def test_a_transition_in_the_answer_is_none():
    def rule(ids):
        script = [OPEN, WORD, CLOSE, WORD, WAIT, WORD, EOS]
        return [script[len(ids) - len(PROMPT)], WORD]

    result = solved("deer", rule, assignment(None))
    assert result.response.ids == [OPEN, WORD, CLOSE, WORD, WAIT, WORD, EOS]
    assert not result.response.forced_close
    assert all(request.sampling.temperature > 0 for request in result.requests)


def test_there_is_no_trial_without_room_for_it():
    # 40 less a reserve of 6: the third transition, at 34 tokens, comes too late.
    rule = thinker(10, 9)
    result = solved("deer", rule, assignment(40), threshold=1.0, trial_tokens=3)
    assert sum(request.logprobs for request in result.requests) == 2
    result = solved("deer", rule, assignment(40), threshold=1.0, trial_tokens=30)
    assert sum(request.logprobs for request in result.requests) == 0
    assert result.response.spend.tokens == 40 or result.response.finished
