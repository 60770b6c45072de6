"""Pairs by DAST's reward."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from data_tools.dast_pairs import dast_pairs, least_margin, main
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl, write_jsonl
from tests.data_tools.written import counted as trace

WRONG = {"correct": False}


@pytest.fixture
def traces() -> list[dict]:
    """Of problem a half are right, with 40 tokens: of 100 tokens at most, the budget is 20 + 50 = 70."""
    return [
        trace("a", 1, 20),
        trace("a", 2, 40),
        trace("a", 3, 60),
        trace("a", 4, 30, **WRONG),
        trace("a", 5, 50, **WRONG),
        trace("a", 6, 100, truncated=True, **WRONG),  # no part of a pair, and one of six all the same
        trace("b", 1, 50),
        trace("b", 2, 54),  # the budget is 52
        trace("c", 1, 30),
        trace("c", 2, 40, **WRONG),  # one of each kind
    ]


def pairs(traces, max_tokens=100, **settings) -> list[tuple[str, int, int]]:
    rows = dast_pairs(traces, max_tokens=max_tokens, **settings)
    return [(row["kind"], row["chosen_tokens"], row["rejected_tokens"]) for row in rows]


def test_right_ones_are_to_be_brief_and_wrong_ones_longer(traces):
    rejected, noted = Counter(), Counter()
    rows = list(dast_pairs(traces, max_tokens=100, rejected=rejected, noted=noted))
    assert rows[0] == {
        "prompt": "a?\n",
        "chosen": "<think>1</think>2",
        "rejected": "<think>3</think>2",
        "method": "dast_pairs",
        "keep_ratio": 20 / 40,
        "source_id": "a",
        "source_tokens": 40,
        "total_tokens": 20,
        "kind": "correct",
        "margin": pytest.approx(0.5 * (60 - 20) / 70),
        "chosen_tokens": 20,
        "rejected_tokens": 60,
    }
    assert rows[1]["margin"] == pytest.approx(0.9 * (50 - 30) / 70)
    assert rows[2]["margin"] == pytest.approx(0.5 * 4 / 52)
    assert pairs(traces) == [("correct", 20, 60), ("incorrect", 50, 30), ("correct", 50, 54)]
    assert rejected == {"without two traces to compare": 1}
    assert noted == {"dual-correct": 2, "dual-incorrect": 1}


def test_beyond_the_budget_a_wrong_trace_gains_nothing():
    """Three of four are right, with 20 tokens: the budget is 40 of 100 tokens."""
    right = [trace("a", seed, 20) for seed in range(9)]
    wrong = [trace("a", 9 + place, tokens, **WRONG) for place, tokens in enumerate((60, 50, 30))]
    assert pairs(right + wrong) == [("incorrect", 50, 30)]
    assert pairs(right + wrong[:2]) == []


def test_a_right_trace_far_beyond_the_budget_loses_no_more():
    """The budget is the mean, 35; from 63 tokens on the reward is 0.1."""
    lengths = [10, 11, 12, 13, 14, 15, 16, 17, 80, 162]
    traces = [trace("a", seed, tokens) for seed, tokens in enumerate(lengths)]
    [row] = dast_pairs(traces, max_tokens=200)
    assert (row["chosen_tokens"], row["rejected_tokens"]) == (10, 162)
    assert row["margin"] == pytest.approx(0.5 + 0.5 * 25 / 35 - 0.1)


def test_what_has_no_answer_is_wrong_and_what_thinks_nothing_is_never_chosen():
    guess, silent = trace("a", 1, 4, thinking_tokens=0), trace("a", 2, 90, final_answer=" ")
    assert pairs([guess, trace("a", 3, 20), trace("a", 4, 30)]) == [("correct", 20, 30)]
    assert pairs([guess, trace("a", 3, 20)], min_thinking_tokens=0) == [("correct", 4, 20)]
    assert pairs([silent, trace("a", 3, 20)]) == []
    assert pairs([silent, trace("a", 3, 20, **WRONG)]) == [("incorrect", 90, 20)]


def test_one_kind_can_be_had_alone(traces):
    assert pairs(traces, pairs="correct") == [("correct", 20, 60), ("correct", 50, 54)]
    assert pairs(traces, pairs="incorrect") == [("incorrect", 50, 30)]


def test_the_smallest_margins_are_dropped(traces):
    rejected = Counter()
    first, second, third = (row["margin"] for row in dast_pairs(traces, max_tokens=100))
    assert least_margin(traces, 0.0, max_tokens=100) == least_margin(traces, 0.33, max_tokens=100) == third
    assert least_margin(traces, 0.34, max_tokens=100) == second
    assert least_margin(traces, 0.99, max_tokens=100) == first
    assert least_margin([], 0.5) == 0
    assert pairs(traces, min_margin=second, rejected=rejected) == [("correct", 20, 60), ("incorrect", 50, 30)]
    assert rejected == {"with too small a margin": 1, "without two traces to compare": 1}


def test_the_order_of_the_file_changes_nothing():
    traces = [trace("a", seed, 10 + 5 * (seed // 3), correct=seed % 2 > 0) for seed in range(12)]
    rows = [list(dast_pairs(order)) for order in (traces, random.Random(0).sample(traces, len(traces)))]
    assert rows[0] == rows[1] and len(rows[0]) == 2


def test_the_program_drops_a_share_of_all_pairs(traces, tmp_path, capsys, monkeypatch):
    """Over all problems, also where it works through them a few at a time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("efficient_reasoning.compression.tool.CHUNK_PROBLEMS", 1)
    write_jsonl("runs/quickstart/traces.jsonl", traces)
    main(["--config", "data/dast_pairs_overthinker", "--max_tokens", "100", "--drop_share", "0.4"])
    rows = list(dast_pairs(traces, max_tokens=100, min_margin=0.2))
    assert list(read_jsonl("runs/quickstart/dast_pairs.jsonl")) == rows and len(rows) == 2
    said = capsys.readouterr().out
    assert "2 rows from 3 problems, mean tokens 40.0 -> 35.0 (ratio 0.88)" in said
    assert "1 with too small a margin" in said
    assert "1 dual-correct, 1 dual-incorrect" in said


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (["--max_tokens", "0"], "max_tokens is 0; give at least 1"),
        (
            ["--max_tokens", "99"],
            "Problem 'a' has a trace of 100 tokens, and max_tokens is 99; give the max_new_tokens",
        ),
        (["--drop_share", "1"], "drop_share is 1; give at least 0 and less than 1"),
        (["--drop_share", "-0.1"], "drop_share is -0.1; give at least 0"),
        (["--pairs", "all"], "pairs must be one of both, correct, incorrect"),
    ],
)
def test_settings_that_make_no_sense_are_refused(traces, tmp_path, setting, sentence):
    write_jsonl(tmp_path / "traces.jsonl", traces)
    with pytest.raises(BadInput, match=sentence):
        main(["--traces", str(tmp_path / "traces.jsonl"), "--out", str(tmp_path / "rows.jsonl"), *setting])
    assert not (tmp_path / "rows.jsonl").exists()
