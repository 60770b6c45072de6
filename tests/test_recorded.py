"""Rows as people publish them. Logs of servers are read in tests/audit/test_logs.py, by the same code."""

from __future__ import annotations

import pytest

from efficient_reasoning.errors import BadInput
from efficient_reasoning.recorded import Said, parse_source, read_row

QUESTION = "Compute 3 + 4."
USER, SYSTEM = {"role": "user", "content": QUESTION}, {"role": "system", "content": "Be brief."}


def said(row: dict, **mapping) -> list[Said]:
    return read_row("rows.jsonl, line 1", row, mapping)[0]


def columns(row: dict, **mapping) -> dict:
    return read_row("rows.jsonl, line 1", row, mapping)[1]


def test_openr1():
    row = {
        "problem": QUESTION,
        "solution": "It is 7.",
        "answer": "7",
        "generations": ["<think>3+4</think>7", "<think>3+", None],
        "correctness_math_verify": [True, False, False],
        "finish_reasons": ["stop", "length", None],
        "messages": [USER, {"role": "assistant", "content": "<think>3+4</think>7"}],
        "uuid": "u",
    }
    assert said(row) == [
        Said("<think>3+4</think>7", truncated=False, correct=True),
        Said("<think>3+", truncated=True, correct=False),
        Said("", correct=False),
    ]
    rest = {"problem": QUESTION, "solution": "It is 7.", "answer": "7", "uuid": "u", "question": QUESTION}
    assert columns(row) == rest


@pytest.mark.parametrize("thoughts", ["3+4=7", ["3+4=7"]])
def test_s1k(thoughts):
    row = {"question": QUESTION, "solution": "7", "thinking_trajectories": thoughts, "attempt": "It is 7."}
    assert said(row) == [Said("It is 7.", "3+4=7")]
    assert columns(row) == {"question": QUESTION, "solution": "7"}
    newer = {**row, "deepseek_thinking_trajectory": "4+3=7", "deepseek_attempt": "7"}
    assert said(newer) == [Said("7", "4+3=7")]
    assert said(newer, completion="attempt", thinking="thinking_trajectories") == [Said("It is 7.", "3+4=7")]
    assert said({**newer, "deepseek_thinking_trajectory": None}) == [Said("It is 7.", "3+4=7")]


def test_limo_has_its_solution_beside_the_answer():
    row = {"question": QUESTION, "solution": "3+4 is 7.", "answer": "7"}
    assert said(row) == [Said("3+4 is 7.")]
    assert columns(row) == {"question": QUESTION, "answer": "7"}
    with pytest.raises(
        BadInput, match="line 1: neither choices nor a completion among its columns question, solution"
    ):
        said({"question": QUESTION, "solution": "7"})


def test_sharegpt_and_what_stood_before_the_question():
    turns = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "1?"},
        {"from": "gpt", "value": "1."},
    ]
    row = {
        "conversations": [*turns, {"from": "human", "value": QUESTION}, {"from": "gpt", "value": "<think>a</think>7"}]
    }
    assert said(row) == [Said("<think>a</think>7")]
    before = [SYSTEM, {"role": "user", "content": "1?"}, {"role": "assistant", "content": "1."}]
    assert columns(row) == {"question": QUESTION, "earlier_turns": before}
    assert "earlier_turns" not in columns({"messages": [USER, {"role": "assistant", "content": "7"}]})


def test_thinking_of_a_message_and_the_model_that_wrote_it():
    message = {"role": "assistant", "content": "7", "reasoning_content": "3+4"}
    assert said({"messages": [SYSTEM, USER, message], "model": "m"}) == [Said("7", "3+4", model="m")]


def test_thinking_is_mapped_beside_several_responses():
    row = {"a": {"said": "7", "thought": "3+4"}, "b": {"said": "8", "thought": None}}
    mapping = {"completion": "a.said,b.said", "thinking": "a.thought,b.thought"}
    assert said(row, **mapping) == [Said("7", "3+4"), Said("8")]
    with pytest.raises(BadInput, match="line 1: 1 texts of thinking for 2 responses"):
        said(row, completion="a.said,b.said", thinking="a.thought")


def test_columns_of_the_same_name_that_tell_something_else_are_left_alone():
    row = {"question": QUESTION, "completions": ["7", "8"], "correct": 1, "finish_reason": "stop"}
    assert said(row) == [Said("7"), Said("8")]
    assert columns(row) == {"question": QUESTION, "correct": 1, "finish_reason": "stop"}
    assert said({"completion": "7", "correct": "B"}) == [Said("7")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [USER]}, "its last message is the user's, no response"),
        ({"completion": {"content": 3}}, "a response is int, not a text"),
        ({"conversations": [{"from": "gpt", "value": 3}]}, "a response is int, not a text"),
    ],
)
def test_what_is_no_response(row, message):
    with pytest.raises(BadInput, match=f"line 1: {message}"):
        said(row)


def test_a_source_and_its_columns():
    assert parse_source("a?b.jsonl") == ("a?b.jsonl", {})
    assert parse_source("a.jsonl?thinking=x.y&task=math") == ("a.jsonl", {"thinking": "x.y", "task": "math"})
    with pytest.raises(BadInput, match="unknown key 'thoughts'"):
        parse_source("a.jsonl?thoughts=x")
