"""A forced close inside the step, against the plain description that two-pass decoding is held to."""

from __future__ import annotations

import pytest
import torch

from efficient_reasoning.inference.closing import CloseTable
from efficient_reasoning.inference.engine import Request
from tests.inference.minds import EOS, FORMATS, OPEN, PROMPT, TOKENIZER, WORD, adversaries
from tests.inference.test_two_pass import in_loop, request

NOT_DONE = torch.tensor([False])


def stepped(rule, asked: Request) -> tuple[list[int], CloseTable]:
    """Decode greedily, one step of the table a token."""
    table = CloseTable(1, asked.forced_close.thinking, len(TOKENIZER), "cpu")
    table.set(torch.tensor([0]), [asked])
    ids, new = list(asked.prompt_ids), 0
    while new < asked.max_new_tokens and ids[-1] != EOS:
        logits = torch.full((1, len(TOKENIZER)), -100.0)
        for rank, token in reversed([*enumerate(rule(ids))]):
            logits[0, token] = -rank
        count = torch.tensor([new])
        drawn = table.forbid(logits, count, NOT_DONE).argmax(-1)
        ids.append(int(table.follow(drawn, count, NOT_DONE)))
        new += 1
    return ids[len(asked.prompt_ids) :], table


@pytest.mark.parametrize("form", ["plain", "lines"])
def test_the_tokens_are_those_of_the_description(form):
    thinking = FORMATS[form]
    for name, rule in adversaries(thinking).items():
        for after_tokens in (0, 1, 2, 3, 7, 12, 25):
            asked = request(after_tokens, after_tokens + len(thinking.empty()) + 5, thinking)
            expected, _ = in_loop(rule, asked)
            ids, _ = stepped(rule, asked)
            assert ids == expected, (name, after_tokens)
            answer = TOKENIZER.decode(thinking.split(ids, PROMPT).answer_ids, skip_special_tokens=True)
            assert answer.strip(), (name, after_tokens)


def test_a_response_that_is_continued_and_what_was_forced():
    thinking = FORMATS["lines"]
    asked = request(4, 14, thinking, before=[OPEN, WORD, WORD])
    ids, table = stepped(lambda ids: [WORD], asked)
    assert ids == [*[WORD] * 4, *thinking.closing(), *[WORD] * (10 - len(thinking.closing()))]
    assert (int(table.forced), int(table.masked)) == (len(thinking.closing()), 0)
