"""Steps as an order, and chains with fewer of them."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from transformers import AddedToken

from data_tools.step_skip import main, step_skip
from efficient_reasoning import load_reasoner
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl, write_jsonl
from tests.data_tools.written import written

SCRIPT = "First, 3+4=7.\nFinally, 7+5=12."
FULL = "First, 3+4=7. Wait, check: 7-4=3. Yes.\nFinally, 7+5=12."


@pytest.fixture
def reasoner():
    """It thinks the script and answers 12, whatever it is asked; it knows orders of one to three steps."""
    reasoner = load_reasoner("overthinker", backend="mock", script=(SCRIPT, "12"))
    reasoner.tokenizer.add_tokens([AddedToken(f"<|steps {steps}|>", special=False) for steps in (1, 2, 3)])
    return reasoner


def trace(reasoner, problem: str, chain: str, seed: int = 1, **changes) -> dict:
    return written(reasoner.thinking, problem, "Compute 3 + 4 + 5.", chain, "12", seed, **changes)


def of(row: dict) -> tuple:
    return row["source_id"], row["control"], row["steps"], row["skipped_steps"]


def test_traces_are_written_behind_the_number_of_their_steps(reasoner):
    traces = [trace(reasoner, "a", FULL), trace(reasoner, "a", SCRIPT, 2), trace(reasoner, "b", "Easy.")]
    rejected = Counter()
    rows = list(step_skip(traces, thinking=reasoner.thinking, rejected=rejected))
    assert list(map(of, rows)) == [
        ("a", "<|steps 3|>", 3, 0),
        ("a", "<|steps 2|>", 2, 0),
        ("a", None, 3, 0),
        ("a", None, 2, 0),
    ]
    assert [row["prompt"] for row in rows[1:3]] == ["Compute 3 + 4 + 5.<|steps 2|>\n", "Compute 3 + 4 + 5.\n"]
    assert [row["completion"] for row in rows[:2]] == [trace["completion"] for trace in traces[:2]]
    assert +rejected == {"without an equation": 1}


@pytest.mark.parametrize(("plain", "steps"), [("all", [3, 2]), ("fewest", [2]), ("none", [])])
def test_rows_without_an_order(reasoner, plain, steps):
    traces = [trace(reasoner, "a", FULL), trace(reasoner, "a", SCRIPT, 2)]
    rows = list(step_skip(traces, thinking=reasoner.thinking, plain=plain))
    assert [row["steps"] for row in rows if row["control"] is None] == steps


def test_what_the_model_can_skip_is_kept(reasoner):
    traces = [
        trace(reasoner, "a", FULL),  # asked for 2: right; for 1: has 2
        trace(reasoner, "b", FULL, answer="13"),  # wrong, twice
        trace(reasoner, "c", SCRIPT),  # asked for 1; there is no chain of 0 steps
        trace(reasoner, "d", f"{FULL} Once more: 7+5=12. So 12=12."),  # of 5 steps: 4 is no order that it knows
    ]
    rejected = Counter()
    rows = list(step_skip(traces, reasoner, thinking=reasoner.thinking, rejected=rejected, plain="fewest"))
    assert [of(row) for row in rows if row["source_id"] == "a"] == [
        ("a", "<|steps 3|>", 3, 0),
        ("a", "<|steps 2|>", 2, 1),
        ("a", None, 2, 1),
    ]
    skipped = [row for row in rows if row["skipped_steps"] and row["control"]]
    assert [row["source_id"] for row in skipped] == ["a"]
    assert skipped[0]["completion"] == f"<think>{SCRIPT}</think>12"
    assert skipped[0]["keep_ratio"] == skipped[0]["total_tokens"] / traces[0]["total_tokens"] < 1
    assert +rejected == {
        "asked, and wrong": 2,
        "asked, and not as many steps": 3,
        "asked for an unknown number of steps": 1,
    }
    asked = [reasoner.tokenizer.decode(request.prompt_ids) for request in reasoner.engine.requests]
    assert asked[0] == "Compute 3 + 4 + 5.<|steps 2|>\n" and len(asked) == 6


def test_a_chain_is_kept_once_however_often_it_comes(reasoner):
    rejected = Counter()
    settings = {"thinking": reasoner.thinking, "samples_per_question": 3, "max_skip": 1, "plain": "none"}
    rows = list(step_skip([trace(reasoner, "a", FULL)], reasoner, rejected=rejected, **settings))
    assert len(reasoner.engine.requests) == 3 == len({request.seed for request in reasoner.engine.requests})
    assert [row["steps"] for row in rows] == [3, 2] and not +rejected


def test_an_answer_that_was_cut_off_is_not_kept(reasoner):
    rejected = Counter()
    settings = {"thinking": reasoner.thinking, "max_new_tokens": 8, "max_skip": 1}
    rows = list(step_skip([trace(reasoner, "a", FULL)], reasoner, rejected=rejected, **settings))
    assert {row["steps"] for row in rows} == {3} and +rejected == {"asked, and cut off": 1}


def test_the_program_leads_to_the_first_model_and_refuses_one_that_was_not_trained(reasoner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl("runs/quickstart/traces.jsonl", [trace(reasoner, "a", FULL), trace(reasoner, "b", SCRIPT)])
    main(["--config", "data/step_skip_initial_overthinker"])
    rows = list(read_jsonl("runs/quickstart/step_skip_0.jsonl"))
    assert [row["control"] for row in rows] == ["<|steps 3|>", None, "<|steps 2|>", None]
    with pytest.raises(
        BadInput, match=r"overthinker knows no '<\|steps 7\|>'; first train it on rows of stage initial"
    ):
        main(["--config", "data/step_skip_overthinker", "--model", "overthinker", "--backend", "mock"])
    with pytest.raises(BadInput, match="max_skip is 0; give at least 1"):
        main(["--config", "data/step_skip_overthinker", "--max_skip", "0"])
    assert not list((tmp_path / "runs/quickstart").glob("step_skip_1.jsonl*"))


def test_a_trace_without_its_question_cannot_be_asked(reasoner):
    row = trace(reasoner, "a", FULL)
    del row["question"]
    with pytest.raises(BadInput, match="problem 'a': no question in it"):
        list(step_skip([row], reasoner, thinking=reasoner.thinking))


def test_a_question_that_leaves_no_room_is_counted_and_its_own_chains_stay(reasoner):
    rejected = Counter()
    narrow = dataclasses.replace(reasoner, context_tokens=5)
    rows = list(step_skip([trace(reasoner, "a", FULL)], narrow, thinking=reasoner.thinking, rejected=rejected))
    assert [row["skipped_steps"] for row in rows] == [0, 0]
    assert +rejected == {"too long to be asked": 2}
