"""Shortest correct traces, and the control that keeps any."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from data_tools.shortest_correct import main, shortest_correct
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl, write_jsonl
from tests.data_tools.written import counted as trace


@pytest.fixture
def traces() -> list[dict]:
    return [
        trace("a", 1, 40),
        trace("b", 1, 9, correct=False),
        trace("a", 2, 20),
        trace("c", 1, 8, truncated=True),
        trace("a", 3, 10, correct=False),
        trace("b", 2, 30),
        trace("a", 4, 4, thinking_tokens=0),
        trace("c", 2, 50, correct=False),
        trace("a", 5, 15, truncated=True),
    ]


def test_the_shortest_correct_trace_of_each_problem(traces):
    rows = list(shortest_correct(traces))
    assert rows == [
        {
            "prompt": "a?\n",
            "completion": "<think>2</think>2",
            "method": "shortest_correct",
            "keep_ratio": pytest.approx(20 / 30),
            "source_id": "a",
            "source_tokens": 30.0,
            "total_tokens": 20,
        },
        {
            "prompt": "b?\n",
            "completion": "<think>2</think>2",
            "method": "shortest_correct",
            "keep_ratio": 1.0,
            "source_id": "b",
            "source_tokens": 30.0,
            "total_tokens": 30,
        },
    ]


def test_a_lucky_guess_counts_only_on_request(traces):
    [guess, _] = shortest_correct(traces, min_thinking_tokens=0)
    assert (guess["source_id"], guess["total_tokens"]) == ("a", 4)


def test_a_trace_without_an_answer_is_not_solved_whatever_its_label_says():
    rejected = Counter()
    assert list(shortest_correct([trace("a", 1, 40, final_answer=" ")], rejected=rejected)) == []
    assert rejected == {"without a trace to keep": 1}


def test_problems_with_too_few_correct_traces_are_left_out(traces):
    rejected = Counter()
    assert [row["source_id"] for row in shortest_correct(traces, rejected=rejected, min_correct=2)] == ["a"]
    assert rejected == {"without a trace to keep": 1, "with too few correct traces": 1}
    assert list(shortest_correct(traces, min_correct=3)) == []


def test_the_control_keeps_any_trace_that_ended_right_or_wrong():
    traces = [trace(f"p{i}", seed, 10 + seed, correct=seed < 2) for i in range(400) for seed in range(4)]
    traces += [trace(f"p{i}", 9, 99, truncated=True) for i in range(400)]
    rows = list(shortest_correct(traces, keep="random", min_correct=3))
    assert [row["source_id"] for row in rows] == [f"p{i}" for i in range(400)]
    assert {row["method"] for row in rows} == {"unfiltered"}
    drawn = [row["total_tokens"] - 10 for row in rows]
    assert all(60 < drawn.count(seed) < 140 for seed in range(4))  # 100 expected, 8.7 standard deviation
    assert sum(row["keep_ratio"] for row in rows) / 400 == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("keep", ["shortest", "random"])
def test_the_order_of_the_file_changes_nothing(keep):
    traces = [trace(f"p{i}", seed, 10 + seed // 2) for i in range(20) for seed in range(6)]
    shuffled = random.Random(0).sample(traces, len(traces))
    by_source = [
        sorted(shortest_correct(rows, keep=keep), key=lambda row: row["source_id"]) for rows in (traces, shuffled)
    ]
    assert by_source[0] == by_source[1]
    assert by_source[0] != sorted(shortest_correct(traces, keep=keep, seed=1), key=lambda row: row["source_id"])


def test_traces_are_streamed(traces):
    alive = []

    def stream():
        for row in traces * 50:
            alive.append(row)
            yield row
            assert len(alive) <= 1, "the tool reads ahead"
            alive.pop()

    assert [row["source_id"] for row in shortest_correct(stream())] == ["a", "b"]


def test_the_program_writes_rows_and_says_what_became_of_them(traces, tmp_path, capsys):
    source, out = tmp_path / "traces.jsonl", tmp_path / "new folder" / "rows.jsonl"
    write_jsonl(source, traces)
    main(["--traces", str(source), "--out", str(out)])
    assert list(read_jsonl(out)) == list(shortest_correct(traces))
    said = capsys.readouterr().out
    assert "2 rows from 3 problems, mean tokens 30.0 -> 25.0 (ratio 0.83)." in said
    assert "Left out 33.3%: 1 without a trace to keep." in said


def test_nothing_to_keep_leaves_no_file(traces, tmp_path):
    source, out = tmp_path / "traces.jsonl", tmp_path / "rows.jsonl"
    write_jsonl(source, traces)
    with pytest.raises(BadInput, match=r"rows\.jsonl: none of 3 problems gives a row \(2 with too few"):
        main(["--traces", str(source), "--out", str(out), "--min_correct", "9"])
    with pytest.raises(BadInput, match=r"missing\.jsonl: no such file"):
        main(["--traces", str(tmp_path / "missing.jsonl"), "--out", str(out)])
    source.write_text("{}\n")
    with pytest.raises(BadInput, match=r"traces\.jsonl, line 1: no 'id' in it"):
        main(["--traces", str(source), "--out", str(out)])
    assert not out.exists()


def test_samples_with_and_without_examples_compete(tmp_path):
    """Zero-shot and few-shot sampling of the same problems are two files; the shorter response wins."""
    plain = [trace("a", 1, 40), trace("b", 2, 9), trace("c", 3, 50)]
    shown = [trace("b", 4, 20), trace("a", 5, 12), trace("c", 6, 5, correct=False)]
    write_jsonl(tmp_path / "plain.jsonl", plain)
    write_jsonl(tmp_path / "shown.jsonl", shown)
    config = tmp_path / "both.yaml"
    config.write_text(f"traces: [{tmp_path}/plain.jsonl, {tmp_path}/shown.jsonl]\nout: {tmp_path}/rows.jsonl\n")
    main(["--config", str(config)])
    rows = [
        (row["source_id"], row["total_tokens"], row["source_tokens"]) for row in read_jsonl(tmp_path / "rows.jsonl")
    ]
    assert rows == [("a", 12, 26), ("b", 9, 14.5), ("c", 50, 50)]


def test_the_control_also_keeps_a_response_of_an_end_token_alone():
    [row] = shortest_correct([trace("a", 1, 0, correct=False, thinking_tokens=0)], keep="random", min_correct=0)
    assert (row["keep_ratio"], row["total_tokens"]) == (0, 0)
