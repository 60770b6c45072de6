"""Strategies that reword the question: L1, Chain of Draft and TALE, on models that read and follow their prompt."""

from __future__ import annotations

import re

import pytest

from tests.inference.minds import (
    ASKED,
    CLOSE,
    EOS,
    LINES,
    OPEN,
    OTHER,
    PROMPT,
    TOKENIZER,
    WORD,
    adversaries,
    assignment,
    encode,
    render,
    said,
    solved,
)

QUESTION = "so so"


def obedient(natural: int, answers=lambda words: [OTHER], estimate: str = ""):
    """Thinks `natural` words, or as many as its prompt asks for; says an estimate where it is asked for one."""

    def rule(ids):
        prompt = TOKENIZER.decode(list(ids)[: len(ids) - len(said(ids))])
        response = said(ids)
        if "estimate the minimum" in prompt:
            after = response[response.index(CLOSE) + 1 :]
            return [[*encode(estimate), EOS][len(after)], WORD]
        told = re.search(r"(less than|Think for|maximum) (\d+)", prompt)
        words = int(told[2]) - 4 if told else natural
        if CLOSE not in response:
            return [[OPEN, *[WORD] * words, CLOSE][len(response)], WORD]
        return [[*answers(words), EOS][len(response) - response.index(CLOSE) - 1], WORD]

    return rule


# ---- L1, Chain of Draft ----


@pytest.mark.parametrize(
    ("strategy", "sentence"), [("l1-exact", "Think for {} tokens."), ("l1-max", "Think for maximum {} tokens.")]
)
@pytest.mark.parametrize(("budget", "tokens"), [(40, 34), (160, 140), (13, 7)])
def test_l1_names_the_budget_less_its_reserve(strategy, sentence, budget, tokens):
    result = solved(strategy, obedient(natural=500), assignment(budget))
    [request] = result.requests
    assert request.prompt_ids == render(f"{QUESTION} {sentence.format(tokens)}") == result.response.prompt_ids
    assert result.response.ids == [OPEN, *[WORD] * (tokens - 4), CLOSE, OTHER, EOS]
    assert not result.response.forced_close


@pytest.mark.parametrize("strategy", ["l1-exact", "l1-max", "chain-of-draft"])
def test_who_does_not_follow_the_prompt_is_closed(strategy):
    result = solved(strategy, adversaries(LINES)["endless"], assignment(60, LINES))
    assert result.response.forced_close and result.response.spend.tokens == 60
    assert result.requests[0].max_new_tokens == 50
    assert result.answer.strip()


@pytest.mark.parametrize("budget", [None, 60])
def test_chain_of_draft_puts_its_instruction_first(budget):
    result = solved("chain-of-draft", obedient(natural=20), assignment(budget))
    instruction = "Think step by step, but only keep a minimum draft for each thinking step, with 5 words at most."
    assert result.response.prompt_ids == render(f"{instruction}\n{QUESTION}")
    assert result.requests[0].prompt_ids == result.response.prompt_ids
    assert result.response.ids == [OPEN, *[WORD] * 20, CLOSE, OTHER, EOS]


# ---- TALE ----


@pytest.mark.parametrize("estimate", ["[[24]]", "24", "so 24 so"])
@pytest.mark.parametrize("budget", [None, 90])
def test_the_model_gets_the_tokens_that_it_asks_for(estimate, budget):
    result = solved("tale-estimate", obedient(natural=60, estimate=estimate), assignment(budget))
    asked, told = result.requests
    assert asked.max_new_tokens == 16 and asked.sampling.temperature == 0 and asked.prompt_ids[-2:] == [OPEN, CLOSE]
    assert "Question: so so" in TOKENIZER.decode(asked.prompt_ids)
    assert told.prompt_ids == render(f"{QUESTION}\nLet's think step by step and use less than 24 tokens:")
    assert result.response.prompt_ids == told.prompt_ids
    assert result.response.ids == [OPEN, *[WORD] * 20, CLOSE, OTHER, EOS]
    assert result.response.spend.forced_tokens == 2
    assert result.response.spend.decoded_tokens == len(encode(estimate)) + 1 + len(result.response.ids)
    assert not result.response.forced_close


def test_an_estimate_without_a_number_leaves_the_question_as_it_is():
    result = solved("tale-estimate", obedient(natural=20, estimate="so so"), assignment(90))
    assert result.response.prompt_ids == PROMPT
    assert result.response.ids == [OPEN, *[WORD] * 20, CLOSE, OTHER, EOS]
    assert result.response.spend.tokens == len(result.response.ids) + 2 + len(encode("so so")) + 1


def test_an_estimate_is_never_more_than_there_is():
    result = solved("tale-estimate", obedient(natural=20, estimate="5000"), assignment(90))
    left = 90 - 11 - 2 - 5  # the reserve, the empty block, four digits and EOS
    assert f"less than {left} tokens" in TOKENIZER.decode(result.response.prompt_ids)


def test_there_is_no_estimate_without_room_for_it():
    # A budget of 24 leaves 18 for thinking: no more than an empty block and an estimate.
    assert len(solved("tale-estimate", obedient(10, estimate="9"), assignment(24)).requests) == 1
    assert len(solved("tale-estimate", obedient(10, estimate="9"), assignment(25)).requests) == 2


@pytest.mark.parametrize("budget", [None, 400])
def test_the_search_halves_while_the_answer_stays_the_same(budget):
    # A chain of 60 words and 63 ids asks for 31, 15 and 7 tokens next; with 3 words the answer is another.
    rule = obedient(60, lambda words: [OTHER] if words > 5 else [OTHER, OTHER])
    result = solved("tale-search", rule, assignment(budget))
    assert result.response.ids == [OPEN, *[WORD] * 11, CLOSE, OTHER, EOS]
    assert "less than 15 tokens" in TOKENIZER.decode(result.response.prompt_ids)
    assert result.response.finished
    lengths = [words + 4 for words in (60, 27, 11, 3)]
    assert result.response.spend.decoded_tokens == sum(lengths) + 1  # its answer has one token more
    assert [request.max_new_tokens for request in result.requests[1:]] == [63, 30, 14]


def test_the_search_ends_where_it_gets_no_cheaper():
    rule = obedient(60)

    def stubborn(ids):
        return rule([*PROMPT, *said(ids)])  # whatever it is told

    result = solved("tale-search", stubborn, assignment(None))
    assert len(result.requests) == 2
    assert result.response.prompt_ids is None and len(result.response.ids) == 64
    assert result.response.spend.tokens == 64 + 63  # what is no cheaper is not decoded to its end


def test_a_budget_bounds_the_whole_search():
    rule, lengths = obedient(30), []
    for budget in range(13, 120):
        result = solved("tale-search", rule, assignment(budget))
        lengths.append(len(result.response.ids))
        assert result.response.spend.tokens <= budget
        assert result.answer == "7" or result.response.forced_close
    # The chain of 34 tokens alone, and in the end its halvings too.
    assert 34 in lengths and lengths[-1] == len([OPEN, CLOSE, OTHER, EOS])
    # What was cut off has no answer to agree with, and is returned.
    result = solved("tale-search", adversaries(LINES)["endless"], assignment(60, LINES))
    assert result.response.forced_close and result.response.prompt_ids is None


def test_equal_answers_need_not_be_equal_texts():
    rule = obedient(30, lambda words: [OTHER] if words > 25 else [WORD, *encode("7.0"), *encode(".")])
    result = solved("tale-search", rule, assignment(None))
    assert "less than" in TOKENIZER.decode(result.response.prompt_ids)


def test_the_prompt_is_what_rendering_the_question_gives():
    assert render(QUESTION) == PROMPT and PROMPT[-1] == ASKED
