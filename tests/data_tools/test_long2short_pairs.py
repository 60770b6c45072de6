"""Pairs of short correct traces with longer ones."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from data_tools.long2short_pairs import long2short_pairs, main
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl, write_jsonl
from tests.data_tools.written import counted as trace


@pytest.fixture
def traces() -> list[dict]:
    return [
        trace("a", 1, 20),
        trace("a", 2, 29),  # not 1.5 times as long
        trace("a", 3, 30),
        trace("a", 4, 21, correct=False),
        trace("a", 5, 19, correct=False),  # shorter
        trace("a", 6, 90, truncated=True),
        trace("a", 7, 4, thinking_tokens=0),  # a guess
        trace("b", 1, 30, correct=False),
        trace("c", 1, 30),
        trace("c", 2, 30, correct=False),  # no longer
    ]


def pairs(traces, **settings) -> list[tuple[int, int]]:
    return [(row["chosen_tokens"], row["rejected_tokens"]) for row in long2short_pairs(traces, **settings)]


def test_longer_wrong_ones_and_much_longer_correct_ones_are_rejected(traces):
    rejected = Counter()
    rows = list(long2short_pairs(traces, rejected=rejected))
    assert rows[0] == {
        "prompt": "a?\n",
        "chosen": "<think>1</think>2",
        "rejected": "<think>3</think>2",
        "method": "long2short_pairs",
        "keep_ratio": pytest.approx(20 / ((20 + 29 + 30) / 3)),
        "source_id": "a",
        "source_tokens": pytest.approx((20 + 29 + 30) / 3),
        "total_tokens": 20,
        "chosen_tokens": 20,
        "rejected_tokens": 30,
    }
    assert pairs(traces) == [(20, 30), (20, 21)]
    assert rejected == {"without a correct trace": 1, "without a longer trace": 1}


def test_constants_of_the_paper_are_settings(traces):
    assert pairs(traces, min_correct_ratio=1.0) == [(20, 30), (20, 29), (20, 21)]
    assert pairs(traces, min_wrong_ratio=1.1) == [(20, 30)]
    assert pairs(traces, max_pairs=1) == [(20, 30)]
    assert pairs(traces, min_thinking_tokens=0) == [(4, 30), (4, 29), (4, 21), (4, 20)]


def test_the_order_of_the_file_changes_nothing():
    traces = [trace("a", seed, 10 + 5 * (seed // 3)) for seed in range(12)]
    rows = [list(long2short_pairs(order)) for order in (traces, random.Random(0).sample(traces, len(traces)))]
    assert rows[0] == rows[1] and len(rows[0]) == 4


def test_the_program_writes_pairs(traces, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl("runs/quickstart/traces.jsonl", traces)
    main(["--config", "data/long2short_pairs_overthinker"])
    assert list(read_jsonl("runs/quickstart/long2short_pairs.jsonl")) == list(long2short_pairs(traces))
    said = capsys.readouterr().out
    assert "2 rows from 3 problems, mean tokens 26.3 -> 20.0 (ratio 0.76)" in said
    assert "1 without a correct trace" in said


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (["--min_correct_ratio", "0.9"], "min_correct_ratio and min_wrong_ratio must be at least 1"),
        (["--max_pairs", "0"], "max_pairs is 0; give at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(traces, tmp_path, setting, sentence):
    write_jsonl(tmp_path / "traces.jsonl", traces)
    with pytest.raises(BadInput, match=sentence):
        main(["--traces", str(tmp_path / "traces.jsonl"), "--out", str(tmp_path / "rows.jsonl"), *setting])
    assert not (tmp_path / "rows.jsonl").exists()
