"""Ends of steps, in every think format."""

from __future__ import annotations

import itertools
import random

import pytest

from efficient_reasoning.inference.search.steps import line_ends, step_ends
from tests.inference.minds import EOS, FORMATS, LINES, OTHER, PLAIN, PROMPT, SPACE, TOKENIZER, WORD, encode


def steps(thinking, ids) -> list[str]:
    stops = [0, *[end + 1 for end in step_ends(thinking, ids, PROMPT)]]
    return [TOKENIZER.decode(ids[start:stop]) for start, stop in itertools.pairwise(stops)]


@pytest.mark.parametrize("form", FORMATS)
def test_a_step_is_a_line_of_the_thinking_and_the_rest_is_one_more(form):
    thinking = FORMATS[form]
    ids = [*encode(thinking.write("7 so\n\n 7\n \nso", "7\n7")), EOS]
    opening, closing = TOKENIZER.decode(thinking.open([])), TOKENIZER.decode(thinking.closing())
    last = [" \nso\n", f"{closing.lstrip()}7\n7<|end|>"]  # where the close stands on a line of its own
    last = last if thinking.newline else ["".join(last).replace("so\n", "so")]
    assert steps(thinking, ids) == [f"{opening}7 so\n", "\n 7\n", *last]


def test_a_break_right_before_the_close_ends_a_step():
    assert steps(PLAIN, encode("<think>7\n</think>7")) == ["<think>7\n", "</think>7"]


def test_what_has_no_lines_is_one_step():
    for text in ("<think>7</think>7", "7\n7", "<think>\n</think>7"):
        assert steps(PLAIN, encode(text)) == [text]


def test_a_prompt_may_open_the_block():
    prompt = [*PROMPT, *LINES.open([])]
    assert line_ends(LINES, encode("7\n7"), prompt) == [1]
    assert line_ends(LINES, encode("7\n7"), PROMPT) == []


@pytest.mark.parametrize("form", FORMATS)
def test_what_follows_changes_nothing(form):
    thinking, rng = FORMATS[form], random.Random(0)
    pieces = [list(thinking.open_ids), list(thinking.close_ids), encode("\n"), [SPACE], [WORD], [OTHER]]
    for _ in range(40):
        ids = [token for _ in range(12) for token in rng.choice(pieces)]
        whole = line_ends(thinking, ids, PROMPT)
        for count in range(1, len(ids)):
            assert line_ends(thinking, ids[:count], PROMPT) == [end for end in whole if end < count]
