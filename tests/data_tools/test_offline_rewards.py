"""Traces that are paid for offline RL."""

from __future__ import annotations

from collections import Counter

import pytest

from data_tools.offline_rewards import main, offline_rewards
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl, write_jsonl
from tests.data_tools.written import counted as trace

TRACES = [
    trace("a", 1, 20),
    trace("a", 2, 40),
    trace("a", 3, 60, correct=False),
    trace("a", 4, 80, truncated=True, correct=False),
    trace("b", 1, 30, truncated=True, correct=False),
]


def test_a_row_is_paid_by_its_problem_mean(tmp_path):
    rejected = Counter()
    rows = list(offline_rewards(TRACES, rejected=rejected, rows_per_problem=3))
    # Mean length 50 and accuracy 1/2: those that were cut off count.
    expected = [(50 - 20) / 20 + 2 * 0.5, (50 - 40) / 40 + 2 * 0.5, (50 - 60) / 60 - 2 * 0.5]
    assert [row["reward"] for row in rows] == pytest.approx(expected)
    assert rows[0] == {
        "prompt": "a?\n",
        "completion": "<think>1</think>2",
        "method": "offline_rewards",
        "keep_ratio": 20 / 50,
        "source_id": "a",
        "source_tokens": 50.0,
        "total_tokens": 20,
        "reward": pytest.approx(2.5),
        "paid_by": "o1_pruner",
    }
    assert rejected == {"truncated": 1}


def test_rows_are_drawn_by_lot_which_other_problems_do_not_move():
    alone = [row["completion"] for row in offline_rewards(TRACES[:4])]
    assert len(alone) == 2
    others = [trace("c", seed, 9) for seed in range(5)]
    assert [row["completion"] for row in offline_rewards([*others, *TRACES])][2:] == alone
    drawn = {tuple(row["completion"] for row in offline_rewards(TRACES, seed=seed)) for seed in range(20)}
    assert len(drawn) == 3  # two of three


def test_any_reward_pays_that_needs_no_memory():
    [shortest, *_] = offline_rewards(TRACES, reward="kimi", reward_parameters={"weight": 0.5}, rows_per_problem=3)
    assert (shortest["reward"], shortest["paid_by"]) == (pytest.approx(1.25), "kimi")
    assert len([*offline_rewards(TRACES, reward="cosine", reward_parameters={"max_tokens": 100})]) == 2
    with pytest.raises(BadInput, match="needs column 'budget_tokens'"):
        list(offline_rewards(TRACES, reward="lcpo_exact"))
    with pytest.raises(BadInput, match="'hapo' remembers earlier batches, and only pays in training"):
        list(offline_rewards(TRACES, reward="hapo"))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["--reward", "o1pruner"], "Unknown length reward 'o1pruner', did you mean o1_pruner"),
        (
            ["--reward_parameters", "{accuracy_wight: 1}"],
            "no parameter 'accuracy_wight', did you mean accuracy_weight",
        ),
        (["--rows_per_problem", "0"], "rows_per_problem is 0; give at least 1"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(tmp_path, settings, sentence):
    write_jsonl(tmp_path / "traces.jsonl", TRACES)
    with pytest.raises(BadInput, match=sentence):
        main(["--traces", str(tmp_path / "traces.jsonl"), "--out", str(tmp_path / "rows.jsonl"), *settings])
    assert not list(tmp_path.glob("rows*"))


def test_the_program_writes_rows(tmp_path):
    write_jsonl(tmp_path / "traces.jsonl", TRACES)
    main(["--traces", str(tmp_path / "traces.jsonl"), "--out", str(tmp_path / "rows.jsonl")])
    assert [row["paid_by"] for row in read_jsonl(tmp_path / "rows.jsonl")] == ["o1_pruner"] * 2
