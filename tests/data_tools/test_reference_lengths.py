"""Rows for RL: what the model needs for each problem now."""

from __future__ import annotations

import pytest

from data_tools.reference_lengths import main, reference_lengths
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl, write_jsonl


def trace(problem: str, total_tokens: int, correct: bool, **changes) -> dict:
    return {
        "id": problem,
        "question": f"{problem}?",
        "answer": "2",
        "task": "numeric",
        "metadata": {"family": "sums"},
        "prompt": f"{problem}?\n",
        "completion": "<think></think>2",
        "prompt_ids": [1],
        "completion_ids": [2, 3],
        "thinking": "",
        "final_answer": "2",
        "correct": correct,
        "truncated": False,
        "thinking_tokens": 0,
        "total_tokens": total_tokens,
        "seed": total_tokens,
    } | changes


@pytest.fixture
def traces() -> list[dict]:
    return [
        trace("a", 40, True),
        trace("b", 9, False),
        trace("a", 20, False, truncated=True),
        trace("b", 10, False),
        trace("c", 5, True, task="unit_tests", metadata={"tests": "assert f(1) == 2"}),
    ]


def test_one_row_a_problem_with_its_means(traces):
    rows = list(reference_lengths(traces))
    assert [row["source_id"] for row in rows] == ["a", "b", "c"]
    assert rows[0] == {
        "prompt": "a?\n",
        "question": "a?",
        "answer": "2",
        "task": "numeric",
        "metadata": None,
        "reference_tokens": 30.0,
        "reference_accuracy": 0.5,
        "method": "reference_lengths",
        "source_id": "a",
    }


def test_a_trace_that_was_cut_off_is_wrong():
    [row] = reference_lengths([trace("a", 40, True), trace("a", 20, True, truncated=True)])
    assert (row["reference_tokens"], row["reference_accuracy"]) == (30.0, 0.5)


def test_metadata_goes_along_where_the_verifier_reads_it(traces):
    *_, row = reference_lengths(traces)
    assert row["metadata"] == {"tests": "assert f(1) == 2"}


def test_bounds_of_the_accuracy_are_included(traces):
    def kept(low, high):
        return [row["source_id"] for row in reference_lengths(traces, min_accuracy=low, max_accuracy=high)]

    assert kept(0.5, 1.0) == ["a", "c"]
    assert kept(0.0, 0.5) == ["a", "b"]
    assert kept(0.51, 0.99) == []


def test_the_program_writes_rows_and_says_what_became_of_them(traces, tmp_path, capsys):
    source, out = tmp_path / "traces.jsonl", tmp_path / "rows.jsonl"
    write_jsonl(source, traces)
    main(["--traces", str(source), "--out", str(out), "--min_accuracy", "0.25"])
    assert list(read_jsonl(out)) == list(reference_lengths(traces, min_accuracy=0.25))
    assert "2 rows from 3 problems.\nLeft out 33.3%: 1 too easy or too hard." in capsys.readouterr().out


def test_nothing_to_keep_leaves_no_file(traces, tmp_path):
    source, out = tmp_path / "traces.jsonl", tmp_path / "rows.jsonl"
    write_jsonl(source, traces)
    with pytest.raises(BadInput, match=r"none of 3 problems gives a row \(3 too easy or too hard\)"):
        main(["--traces", str(source), "--out", str(out), "--min_accuracy", "0.6", "--max_accuracy", "0.9"])
    with pytest.raises(BadInput, match=r"missing\.jsonl: no such file"):
        main(["--traces", str(tmp_path / "missing.jsonl"), "--out", str(out)])
    assert not out.exists()
