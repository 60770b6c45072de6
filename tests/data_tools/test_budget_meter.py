"""Rows that keep count of a budget."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from data_tools.budget_meter import budget_meter, main, metered
from efficient_reasoning.compression.tokenizer import load_thinking
from efficient_reasoning.config import find_config
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl, write_jsonl
from efficient_reasoning.thinking import ThinkingFormat
from tests.data_tools.written import written

CHAIN = "First, 12+30=42. Wait, check: 42-30=12. Yes.\n\nThen 42-7=35.\nFinally, 35+1=36."


@pytest.fixture(scope="module")
def thinking() -> ThinkingFormat:
    return load_thinking("overthinker")


def traces(thinking: ThinkingFormat, problems: int, **changes) -> list[dict]:
    return [
        written(thinking, f"p{number}", "Compute 12 + 30 - 7 + 1.", CHAIN, "36", seed, **changes)
        for number in range(problems)
        for seed in range(2)
    ]


def test_a_mark_says_how_many_tokens_are_left(thinking):
    def count(text: str) -> int:
        return len(thinking.tokenizer(text, add_special_tokens=False)["input_ids"])

    text = metered(CHAIN, 40, thinking.tokenizer)
    marks = [(int(mark[1]), mark.start()) for mark in re.finditer(r"\[(\d+)\]", text)]
    assert [left for left, _ in marks] == [max(0, 40 - count(text[:begin])) for _, begin in marks]
    assert [left > 0 for left, _ in marks] == [True, True, False] and marks[0] == (40, 0)
    assert re.sub(r"\[\d+\]", "", text) == CHAIN


def test_marks_keep_their_distance(thinking):
    text = metered(CHAIN, 90, thinking.tokenizer, every_tokens=24)
    ends = [mark.start() for mark in re.finditer(r"\[\d+\]", text)] + [len(text)]
    tokens = [len(thinking.tokenizer(text[:end], add_special_tokens=False)["input_ids"]) for end in ends]
    marks = [int(left) for left in re.findall(r"\[(\d+)\]", text)]
    assert marks == [90 - count for count in tokens[:-1]] and len(marks) > 0
    assert all(before - after >= 24 for before, after in zip([90, *marks], marks, strict=False))
    assert len(marks) < len(re.findall(r"\[\d+\]", metered(CHAIN, 90, thinking.tokenizer)))
    assert re.sub(r"\[\d+\]", "", text) == CHAIN


def test_the_budget_is_told_by_lot_and_the_delimiter_counts(thinking):
    rows = list(budget_meter(traces(thinking, 300), thinking=thinking, min_budget_tokens=20, max_budget_tokens=99))
    told = [
        int(re.fullmatch(r"Compute 12 \+ 30 - 7 \+ 1\. Think for (\d+) tokens\.\n", row["prompt"])[1]) for row in rows
    ]
    assert len(told) == 600 and (min(told), max(told)) == (20, 99)
    opened = len(thinking.open([]))
    assert all(
        row["completion"].startswith(f"<think>[{budget - opened}]First")
        for budget, row in zip(told, rows, strict=True)
    )
    assert {re.sub(r"\[\d+\]", "", row["completion"]) for row in rows} == {f"<think>{CHAIN}</think>36"}
    [row] = budget_meter(traces(thinking, 1)[:1], thinking=thinking, form="max")
    assert re.search(r"Think for maximum \d+ tokens\.\n$", row["prompt"])


def test_wrong_traces_give_no_row_and_bad_ranges_are_refused(thinking, tmp_path):
    rejected = Counter()
    assert list(budget_meter(traces(thinking, 1, correct=False), thinking=thinking, rejected=rejected)) == []
    assert rejected == {"wrong": 1}
    with pytest.raises(BadInput, match="its ids are of another tokenizer"):
        list(budget_meter(traces(thinking, 1, tokenizer_hash="another"), thinking=thinking))
    write_jsonl(tmp_path / "traces.jsonl", traces(thinking, 2))
    config, out = str(find_config("data/budget_meter_overthinker")), tmp_path / "rows.jsonl"
    argv = ["--config", config, "--traces", str(tmp_path / "traces.jsonl"), "--out", str(out)]
    main(argv)
    assert [row["method"] for row in read_jsonl(out)] == ["budget_meter exact"] * 4
    with pytest.raises(BadInput, match="min_budget_tokens is 500 and max_budget_tokens 128"):
        main([*argv, "--min_budget_tokens", "500"])
