"""The search for the smallest budget, and the rows it leaves."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from data_tools.tale import main, tale
from efficient_reasoning.contamination import question_hash
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl, write_jsonl
from efficient_reasoning.inference import Reasoner, load_reasoner
from efficient_reasoning.inference.mock_engine import MockEngine
from efficient_reasoning.thinking import ThinkingFormat


@pytest.fixture(scope="module")
def mock() -> Reasoner:
    return load_reasoner("overthinker", backend="mock")


@pytest.fixture(scope="module")
def thinking(mock) -> ThinkingFormat:
    return mock.thinking


@pytest.fixture
def trace(thinking):
    def trace(problem: str = "a", total_tokens: int = 80, seed: int = 0, answer: str = "7", **changes) -> dict:
        """One that thinks in as many sevens as it takes."""
        text = thinking.write("7" * (total_tokens - 3), answer)
        ids = thinking.tokenizer.encode(text, add_special_tokens=False)
        assert len(ids) == total_tokens
        return {
            "id": problem,
            "task": "numeric",
            "answer": "7",
            "prompt": f"{problem}?\n",
            "completion": text,
            "prompt_ids": thinking.tokenizer.encode(f"{problem}?\n"),
            "completion_ids": [*ids, *thinking.eos_ids],
            "thinking": "7" * (total_tokens - 3),
            "final_answer": answer,
            "correct": answer == "7",
            "truncated": False,
            "thinking_tokens": total_tokens - 3,
            "total_tokens": total_tokens,
            "seed": seed,
        } | changes

    return trace


@pytest.fixture
def mind(mock) -> Callable[..., Reasoner]:
    """A model that takes as many tokens as it is told (times `excess`), and is right down to a budget of `needs`."""

    def mind(needs: int, excess: float = 1.0) -> Reasoner:
        encode, eos_id = mock.tokenizer.encode, min(mock.thinking.eos_ids)

        def rule(ids: Sequence[int]) -> int:
            text = mock.tokenizer.decode(ids, skip_special_tokens=False)
            asked, _, said = text.partition("tokens:\n")
            budget = int(re.search(r"use less than (\d+)", asked)[1])
            whole = mock.thinking.write("7" * (int(budget * excess) - 4), "7" if budget >= needs else "8")
            rest = encode(whole.removeprefix(said), add_special_tokens=False)
            return rest[0] if rest else eos_id

        return dataclasses.replace(mock, engine=MockEngine(rule, mock.thinking.eos_ids, mock.tokenizer.decode))

    return mind


@pytest.mark.parametrize(
    ("needs", "budget"), [(41, None), (40, 40), (21, 40), (20, 20), (11, 20), (10, 10), (6, 10)]
)  # from 80
def test_the_budget_is_halved_while_the_answer_is_right(mind, trace, thinking, needs, budget):
    rejected = Counter()
    rows = list(tale([trace()], mind(needs), thinking=thinking, rejected=rejected))
    if budget is None:
        assert rows == [] and rejected == {"no smaller budget works": 1}
        return
    assert rows == [
        {
            "prompt": "a?\n",
            "completion": thinking.write("7" * (budget - 4), "7"),
            "method": "tale",
            "keep_ratio": (budget - 1) / 80,
            "source_id": "a",
            "source_tokens": 80,
            "total_tokens": budget - 1,
            "searched_tokens": budget,
        }
    ]


def test_a_right_response_that_is_no_cheaper_ends_the_search(mind, trace, thinking):
    [row] = tale([trace()], mind(0, excess=1.9), thinking=thinking)
    assert row["searched_tokens"] == 5  # 75, 37, 18 and 8 tokens; under 2 it does not think
    assert list(tale([trace()], mind(0, excess=2.1), thinking=thinking)) == []


def test_pairs_prefer_what_was_found_to_where_the_search_began(mind, trace, thinking):
    [pair] = tale([trace()], mind(40), thinking=thinking, objective="dpo")
    assert (pair["chosen"], pair["rejected"]) == (thinking.write("7" * 36, "7"), thinking.write("7" * 77, "7"))
    assert (pair["chosen_tokens"], pair["rejected_tokens"], pair["searched_tokens"]) == (39, 80, 40)


def test_the_search_begins_at_a_correct_trace_by_lot(mind, trace, thinking):
    lengths = (60, 64, 68, 72)
    traces = [trace(f"p{n}", tokens, seed) for n in range(40) for seed, tokens in enumerate(lengths)]
    traces += [trace(f"p{n}", 99, 9, answer="8") for n in range(40)]
    rows = list(tale(traces, mind(8), thinking=thinking, max_tokens=70))
    assert {row["source_tokens"] for row in rows} == {60, 64, 68}
    shuffled = [one for n in range(40) for one in reversed([trace for trace in traces if trace["id"] == f"p{n}"])]
    assert list(tale(shuffled, mind(8), thinking=thinking, max_tokens=70)) == rows
    assert list(tale(traces, mind(8), thinking=thinking, max_tokens=70, seed=1)) != rows


def test_problems_without_a_correct_trace_are_counted(mind, trace, thinking):
    rejected = Counter()
    traces = [trace("a", answer="8"), trace("b", truncated=True), trace("c")]
    assert [row["source_id"] for row in tale(traces, mind(8), thinking=thinking, rejected=rejected)] == ["c"]
    assert rejected == {"wrong": 1, "truncated": 1}


def test_a_model_learns_the_sentence_from_its_own_traces(trace, thinking):
    traces = [trace("a", 20), trace("a", 30, 1), trace("a", 9, 2, answer="8")]
    rows = list(tale(traces, thinking=thinking, stage="initial"))
    assert [row["prompt"] for row in rows] == [
        f"a?\nLet's think step by step and use less than {tokens} tokens:\n" for tokens in (21, 31)
    ]
    assert [row["completion"] for row in rows] == [traces[0]["completion"], traces[1]["completion"]]
    assert {(row["method"], row["keep_ratio"]) for row in rows} == {("tale_initial", 1)}
    # What was trained on is the question, whatever stands behind it.
    assert question_hash(rows[0]["question"]) == question_hash("a?")


def test_a_question_that_leaves_no_room_is_counted(mind, trace, thinking):
    rejected = Counter()
    narrow = dataclasses.replace(mind(10), context_tokens=5)
    assert list(tale([trace()], narrow, thinking=thinking, rejected=rejected)) == []
    assert rejected == {"too long to be asked": 1}


def test_the_program_searches_with_the_model_itself(trace, tmp_path, capsys):
    write_jsonl(tmp_path / "traces.jsonl", [trace("a"), trace("b", answer="8")])
    command = ["--config", "data/tale_overthinker", "--model", "overthinker"]
    command += ["--traces", str(tmp_path / "traces.jsonl")]
    with pytest.raises(BadInput, match=r"none of 2 problems gives a row \(.*1 no smaller budget works"):
        main([*command, "--out", str(tmp_path / "rows.jsonl"), "--temperature", "0"])
    main([*command, "--out", str(tmp_path / "initial.jsonl"), "--stage", "initial"])
    assert [row["budget_tokens"] for row in read_jsonl(tmp_path / "initial.jsonl")] == [81]
    assert "1 rows from 2 problems" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--stage", "initial", "--objective", "dpo"], "objective dpo needs a search"),
        (["--objective", "rl"], "objective must be one of sft, dpo"),
        (["--temperature", "-1"], r"temperature is -1; it must be 0"),
    ],
)
def test_bad_arguments_are_named(trace, tmp_path, arguments, sentence):
    write_jsonl(tmp_path / "traces.jsonl", [trace()])
    command = ["--model", "overthinker", "--backend", "mock", "--traces", str(tmp_path / "traces.jsonl")]
    with pytest.raises(BadInput, match=sentence):
        main([*command, "--out", str(tmp_path / "rows.jsonl"), *arguments])
    assert not (tmp_path / "rows.jsonl").exists()
