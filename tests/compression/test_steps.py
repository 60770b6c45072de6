"""Steps as token ids."""

from __future__ import annotations

import time

import pytest

from efficient_reasoning.checkpoint import load_tokenizer, resolve_model, thinking_format
from efficient_reasoning.compression.steps import count_calculating, steps_of, without
from efficient_reasoning.overthinking import Reader

CHAIN = "First, 3+4=7. Wait, check: 7-4=3. Yes.\nSo 7+5=12. Fine."


@pytest.fixture(scope="module")
def reader() -> Reader:
    folder = resolve_model("overthinker")
    return Reader(thinking_format(folder, load_tokenizer(folder)))


def test_steps_are_the_ids_of_the_chain(reader):
    ids = reader.thinking.tokenizer.encode(CHAIN)
    steps = steps_of(ids, reader)
    assert [step.text for step in steps] == [
        "First, 3+4=7.",
        " Wait, check: 7-4=3.",
        " Yes.\n",
        "So 7+5=12.",
        " Fine.",
    ]
    assert [token for step in steps for token in step.ids] == ids
    assert [step.text for step in steps_of(ids, reader, "line")] == [
        "First, 3+4=7. Wait, check: 7-4=3. Yes.\n",
        "So 7+5=12. Fine.",
    ]
    assert steps_of([], reader) == []


def test_an_id_across_a_cut_stays_with_the_step_before():
    class Words:
        def texts(self, ids):
            return [["One. ", "Two. Th", "ree."][token] for token in ids]

    assert [(step.ids, step.text) for step in steps_of([0, 1, 2], Words())] == [
        ([0], "One. "), ([1], "Two. Th"), ([2], "ree.")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("place", "left"),
    [
        (0, " Wait, check: 7-4=3. Yes.\nSo 7+5=12. Fine."),
        (1, "First, 3+4=7. Yes.\nSo 7+5=12. Fine."),
        (2, "First, 3+4=7. Wait, check: 7-4=3.\nSo 7+5=12. Fine."),  # the line stays a line
        (4, "First, 3+4=7. Wait, check: 7-4=3. Yes.\nSo 7+5=12."),
    ],
)
def test_a_chain_without_a_step(reader, place, left):
    steps = without(steps_of(reader.thinking.tokenizer.encode(CHAIN), reader), place, reader)
    assert "".join(step.text for step in steps) == left
    assert reader.thinking.tokenizer.decode([token for step in steps for token in step.ids]) == left


def test_steps_that_calculate():
    assert count_calculating(["Hm.", "3+4=7.", "So x = 12.", "2 = two", "= 2", "Then $5 \\times 3 = 15$."]) == 2


def test_steps_without_end_are_read_at_once():
    start = time.process_time()
    assert count_calculating(["1" * 300_000, "1=" * 150_000, "1=a" + "b" * 300_000, "=" * 300_000]) == 1
    assert time.process_time() - start < 1
