"""Chains from long to short, and the scale that belongs to each."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from data_tools.cot_valve import cot_valve, main
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl, write_jsonl


def trace(problem: str, total_tokens: int, seed: int = 0, **changes) -> dict:
    return {
        "id": problem,
        "task": "numeric",
        "answer": "7",
        "prompt": f"{problem}?\n",
        "completion": f"<think>{total_tokens}</think>7",
        "prompt_ids": [1],
        "completion_ids": [2, 3],
        "thinking": str(total_tokens),
        "final_answer": "7",
        "correct": True,
        "truncated": False,
        "thinking_tokens": max(0, total_tokens - 3),
        "total_tokens": total_tokens,
        "seed": seed,
    } | changes


def test_levels_go_from_the_longest_to_the_shortest():
    traces = [trace("a", tokens, seed) for seed, tokens in enumerate((40, 10, 25, 20, 25, 12, 30))]
    traces += [trace("a", 90, correct=False), trace("a", 4, truncated=True), trace("a", 3)]
    for _ in range(3):
        rows = list(cot_valve(traces, levels=3))
        assert [row["total_tokens"] for row in rows] == [40, 25, 10]  # of 40, 30, 25, 20, 12, 10
        assert [row["adapter_scale"] for row in rows] == [0, 0.5, 1]
        assert [row["level"] for row in rows] == [0, 1, 2]
        assert {row["source_tokens"] for row in rows} == {40}
        assert [row["keep_ratio"] for row in rows] == [1, 0.625, 0.25]
        assert rows[0]["completion"] == "<think>40</think>7" and rows[0]["prompt"] == "a?\n"
        random.Random(0).shuffle(traces)


def test_of_equal_lengths_one_is_taken_whatever_the_order():
    traces = [trace("a", 10), trace("a", 9, 0, prompt="first"), trace("a", 9, 1, prompt="second")]
    for order in (traces, traces[::-1]):
        assert [row["prompt"] for row in cot_valve(order, levels=2)] == ["a?\n", "first"]


def test_problems_without_so_many_lengths_are_counted():
    rejected = Counter()
    traces = [trace("a", 9), trace("a", 9, 1), trace("b", 9), trace("b", 8), trace("c", 9, correct=False)]
    rows = list(cot_valve(traces, levels=2, rejected=rejected))
    assert [row["source_id"] for row in rows] == ["b", "b"]
    assert rejected == {"without enough lengths": 1, "without a correct chain": 1}


def test_one_level_after_the_other_is_all_of_them():
    traces = [trace(problem, tokens) for problem in "abc" for tokens in (40, 30, 20, 10)]
    every = list(cot_valve(traces))
    apart = [list(cot_valve(traces, level=level)) for level in range(4)]
    assert [[row["total_tokens"] for row in rows] for rows in apart] == [[tokens] * 3 for tokens in (40, 30, 20, 10)]
    assert sorted(str(row) for rows in apart for row in rows) == sorted(map(str, every))
    assert "adapter_scale" not in next(cot_valve(traces, scaled=False))


def test_files_of_several_scales_are_one_problem_each(tmp_path):
    for scale, tokens in enumerate((40, 25, 10)):
        write_jsonl(tmp_path / f"{scale}.jsonl", [trace(problem, tokens + n) for n, problem in enumerate("ab")])
    files = [str(tmp_path / f"{scale}.jsonl") for scale in range(3)]
    command = ["--config", "data/cot_valve_overthinker", "--out", str(tmp_path / "rows.jsonl"), "--levels", "3"]
    main([*command, "--traces", *files])
    rows = list(read_jsonl(tmp_path / "rows.jsonl"))
    assert [(row["source_id"], row["total_tokens"]) for row in rows] == [
        ("a", 40), ("a", 25), ("a", 10), ("b", 41), ("b", 26), ("b", 11),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--levels", "1"], "levels is 1; give at least 2"),
        (["--level", "4"], "level is 4; with 4 levels it is one of 0 to 3"),
        (["--level", "-1"], "level is -1; with 4 levels it is one of 0 to 3"),
        ([], r"rows\.jsonl: none of 1 problems gives a row \(1 without enough lengths\)"),
    ],
)
def test_bad_arguments_are_named(tmp_path, arguments, sentence):
    write_jsonl(tmp_path / "traces.jsonl", [trace("a", 9), trace("a", 8)])
    command = ["--config", "data/cot_valve_overthinker", "--traces", str(tmp_path / "traces.jsonl")]
    with pytest.raises(BadInput, match=sentence):
        main([*command, "--out", str(tmp_path / "rows.jsonl"), *arguments])
    assert not (tmp_path / "rows.jsonl").exists()
