"""Chains of thought: refusals, steps, rows."""

from __future__ import annotations

import pytest

from efficient_reasoning.checkpoint import load_tokenizer, resolve_model, thinking_format
from efficient_reasoning.compression import by_problem, refusal, split_steps, training_row
from efficient_reasoning.thinking import ThinkingFormat


@pytest.fixture(scope="module")
def thinking() -> ThinkingFormat:
    folder = resolve_model("overthinker")
    return thinking_format(folder, load_tokenizer(folder))


def trace(thinking: ThinkingFormat, completion: str, **changes) -> dict:
    ids = thinking.tokenizer.encode(completion, add_special_tokens=False)
    split = thinking.split(ids)
    return {
        "id": "a",
        "prompt": "Compute 1 + 1.\n",
        "prompt_ids": thinking.tokenizer.encode("Compute 1 + 1.\n"),
        "completion_ids": [*ids, *thinking.eos_ids],
        "thinking": thinking.tokenizer.decode(split.thinking_ids),
        "final_answer": thinking.tokenizer.decode(split.answer_ids),
        "total_tokens": len(ids),
        "correct": True,
        "truncated": False,
    } | changes


@pytest.mark.parametrize(
    ("completion", "changes", "reason"),
    [
        ("<think>1+1=2.</think>2", {}, None),
        ("<think>1+1=2.</think>2", {"truncated": True}, "truncated"),
        ("<think>1+1=2.</think>3", {"correct": False}, "wrong"),
        ("<think></think>2", {}, "no thinking"),
        ("<think>\n</think>2", {}, "no thinking"),
        ("2", {}, "no thinking"),
        ("<think>1+1=2.", {}, "unclosed"),
        ("<think>1+1=2.</think>2<think>Wait.</think>2", {}, "several blocks"),
        ("<think>1+1=2.</think>", {}, "no answer"),
    ],
)
def test_what_cannot_be_compressed(thinking, completion, changes, reason):
    assert refusal(trace(thinking, completion, **changes), thinking) == reason


def test_a_length_cap_counts_all_tokens(thinking):
    row = trace(thinking, "<think>1+1=2.</think>2")
    assert refusal(row, thinking, row["total_tokens"]) is None
    assert refusal(row, thinking, row["total_tokens"] - 1) == "too long"


@pytest.mark.parametrize(
    ("text", "unit", "steps"),
    [
        ("First, 1+1=2. Wait, check: 2-1=1. Yes.\nThen 2*3.5=7.", None,
         ["First, 1+1=2.", " Wait, check: 2-1=1.", " Yes.\n", "Then 2*3.5=7."]),
        ("1. Add them. 2. Halve it.", "sentence", ["1. Add them.", " 2. Halve it."]),
        ("Add. \n", "sentence", ["Add. \n"]),
        ("One.\nTwo. Three.\n\nFour.", "line", ["One.\n", "Two. Three.\n\n", "Four."]),
        ("One.\nTwo.\n\nFour.\n\n", None, ["One.\nTwo.\n\n", "Four.\n\n"]),
        ("", None, []),
    ],
)  # fmt: skip
def test_steps_joined_are_the_chain(text, unit, steps):
    assert split_steps(text, unit) == steps
    assert "".join(steps) == text


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("So Mr. Lee has 2. Mrs. Lee has 3.", ["So Mr. Lee has 2.", " Mrs. Lee has 3."]),
        ("From 8 a.m. to 5 p.m. Then he left.", ["From 8 a.m. to 5 p.m.", " Then he left."]),
        ("It is 20 ft. of wire. so 2.", ["It is 20 ft. of wire.", " so 2."]),
    ],
)
def test_an_abbreviation_ends_no_sentence(text, steps):
    assert split_steps(text) == steps


def test_a_row_counts_what_a_model_generates(thinking):
    source = trace(thinking, "<think>First, 1+1=2. Wait, check: 2-1=1. Yes.</think>2")
    row = training_row(source, thinking, "1+1=2", method="m", control="<|short|>", step=3)
    assert row["prompt"] == "Compute 1 + 1.<|short|>\n"
    assert row["completion"] == "<think>1+1=2</think>2"
    assert row["total_tokens"] == len(thinking.tokenizer.encode(row["completion"]))
    assert (
        row["keep_ratio"] == row["total_tokens"] / source["total_tokens"] == row["total_tokens"] / row["source_tokens"]
    )
    assert (row["source_id"], row["method"], row["control"], row["step"]) == ("a", "m", "<|short|>", 3)
    # A prompt that opens the block leaves one token less to generate.
    opened = {**source, "prompt_ids": [*source["prompt_ids"], *thinking.open_ids]}
    assert training_row(opened, thinking, "1+1=2", method="m")["total_tokens"] == row["total_tokens"] - 1


def test_an_unchanged_chain_keeps_all_of_its_tokens(thinking):
    source = trace(thinking, "<think>First, 1+1=2. Wait, check: 2-1=1. Yes.</think>2")
    row = training_row(source, thinking, source["thinking"], method="m")
    assert row["keep_ratio"] == 1 and "control" not in row


def test_rows_are_grouped_as_they_stand():
    assert [len(group) for group in by_problem([{"id": "a"}, {"id": "a"}, {"id": "b"}])] == [2, 1]
