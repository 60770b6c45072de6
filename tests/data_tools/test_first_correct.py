"""Traces cut behind their first correct solution."""

from __future__ import annotations

from collections import Counter

import pytest

from data_tools.first_correct import first_correct, main
from efficient_reasoning.checkpoint import load_tokenizer, resolve_model, thinking_format
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl, write_jsonl
from efficient_reasoning.thinking import ThinkingFormat
from tests.data_tools.written import written

TWICE = "First, 3+4=7.\nFinally, 7+5=12. Wait, check: 12-5=7. Yes.\nLet me redo it: 3+4=7, 7+5=12. The same."
CHECKED = "First, 3+4=7. Wait, check: 7-4=3. Yes.\nFinally, 7+5=12."


@pytest.fixture(scope="module")
def thinking() -> ThinkingFormat:
    folder = resolve_model("overthinker")
    return thinking_format(folder, load_tokenizer(folder))


def trace(thinking: ThinkingFormat, problem: str, chain: str, seed: int = 1, **changes) -> dict:
    return written(thinking, problem, "Compute 3 + 4 + 5.", chain, "12", seed, **changes)


@pytest.fixture
def traces(thinking) -> list[dict]:
    return [
        trace(thinking, "a", CHECKED),
        trace(thinking, "a", TWICE, 2),
        trace(thinking, "b", TWICE, correct=False),
        trace(thinking, "b", TWICE, 2, truncated=True),
        trace(thinking, "b", TWICE, 3, correct=False),
        trace(thinking, "c", "Easy."),
        trace(thinking, "d", "So 3+4+5=12."),
        trace(thinking, "e", TWICE + "\n" + TWICE),
    ]


def test_the_trace_that_is_shortest_when_it_is_cut(thinking, traces):
    rejected = Counter()
    rows = list(first_correct(traces, thinking=thinking, rejected=rejected))
    cut = "<think>First, 3+4=7.\nFinally, 7+5=12.</think>12"
    assert [row["completion"] for row in rows] == [cut, "<think>So 3+4+5=12.</think>12", cut]
    tokens = len(thinking.tokenizer.encode(cut))
    assert rows[0] == {
        "prompt": "Compute 3 + 4 + 5.\n",
        "completion": cut,
        "method": "first_correct",
        "keep_ratio": tokens / traces[1]["total_tokens"],
        "source_id": "a",
        "source_tokens": traces[1]["total_tokens"],
        "total_tokens": tokens,
        "solutions": 1,
    }
    assert rows[1]["keep_ratio"] == 1
    assert rejected == {"wrong": 1, "no solution in the thinking": 1}


def test_one_more_solution_is_a_reflection(thinking, traces):
    rows = list(first_correct(traces[1:], thinking=thinking, keep="fcs_reflection"))
    assert rows[0]["completion"] == f"<think>{TWICE.removesuffix(' The same.')}</think>12"
    assert [(row["method"], row["solutions"]) for row in rows] == [
        ("first_correct_reflection", solutions) for solutions in (2, 1, 2)
    ]


def test_hits_by_accident_are_taken_on_request(thinking):
    row = trace(thinking, "a", "First, 5+7=12.\nThen 12-9=3.\nFinally, 3+9=12.")
    [careful], [careless] = (
        list(first_correct([row], thinking=thinking, complete=complete)) for complete in (True, False)
    )
    assert careful["keep_ratio"] == 1
    assert careless["completion"] == "<think>First, 5+7=12.</think>12"


def test_pairs_prefer_the_cut_to_the_longest(thinking, traces):
    rejected = Counter()
    rows = list(first_correct(traces, thinking=thinking, rejected=rejected, pairs=True))
    assert [row["source_id"] for row in rows] == ["a", "e"]
    assert rows[0]["chosen"] == "<think>First, 3+4=7.\nFinally, 7+5=12.</think>12"
    assert rows[0]["rejected"] == traces[1]["completion"]
    assert (rows[0]["chosen_tokens"], rows[0]["rejected_tokens"]) == (
        rows[0]["total_tokens"],
        traces[1]["total_tokens"],
    )
    assert "completion" not in rows[0]
    assert rejected == {"wrong": 1, "no solution in the thinking": 1, "no longer trace": 1}


@pytest.mark.parametrize("pairs", [False, True])
def test_the_order_of_the_file_changes_nothing(thinking, pairs):
    traces = [trace(thinking, "a", f"{TWICE} {word}", seed) for seed, word in enumerate(("Yes.", "Good.", "Fine."))]
    rows = [list(first_correct(order, thinking=thinking, pairs=pairs)) for order in (traces, traces[::-1])]
    assert rows[0] == rows[1] != []


def test_long_traces_are_left_alone(thinking, traces):
    rejected = Counter()
    longest = traces[0]["total_tokens"]
    rows = list(first_correct(traces, thinking=thinking, rejected=rejected, max_tokens=longest))
    assert [row["source_tokens"] for row in rows] == [longest, traces[6]["total_tokens"]]
    assert rejected["too long"] == 1


def test_the_program_writes_rows(thinking, traces, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_jsonl("runs/quickstart/traces.jsonl", traces)
    main(["--config", "data/first_correct_overthinker"])
    rows = list(read_jsonl("runs/quickstart/first_correct.jsonl"))
    assert rows == list(first_correct(traces, thinking=thinking))
    said = capsys.readouterr().out
    assert "3 rows from 5 problems" in said and "1 no solution in the thinking" in said


def test_traces_of_another_tokenizer_are_refused(thinking, traces):
    traces[3]["tokenizer_hash"] = "0123"
    with pytest.raises(BadInput, match="problem 'b': its ids are of another tokenizer"):
        list(first_correct(traces, thinking=thinking))
