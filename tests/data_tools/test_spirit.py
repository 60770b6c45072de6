"""Steps that the model does not miss, and the control that drops steps by lot."""

from __future__ import annotations

import math
import random
from collections import Counter
from types import SimpleNamespace

import pytest

from data_tools.spirit import main, spirit
from efficient_reasoning.checkpoint import load_tokenizer, resolve_model, thinking_format
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl, write_jsonl
from efficient_reasoning.inference import load_reasoner
from efficient_reasoning.inference.mock_engine import MockEngine
from efficient_reasoning.problems import FAMILIES, load_problems
from efficient_reasoning.thinking import ThinkingFormat
from tests.data_tools.written import written

CHAIN = "First, 3+4=7. Wait, check: 7-4=3. Yes.\nSo 7+5=12. Fine."
NEEDED = ("3+4=7", "7+5=12")


@pytest.fixture(scope="module")
def thinking() -> ThinkingFormat:
    folder = resolve_model("overthinker")
    return thinking_format(folder, load_tokenizer(folder))


@pytest.fixture
def engine(thinking) -> SimpleNamespace:
    """Sure of everything but an answer to which a needed step is missing."""

    def confidence(ids, token) -> float:
        text = thinking.tokenizer.decode(ids)
        missing = sum(step not in text for step in NEEDED) if "</think>" in text else 0
        return 0.9 * 0.05**missing

    mind = MockEngine(lambda ids: 0, thinking.eos_ids, confidence=confidence)
    return SimpleNamespace(engine=mind, context_tokens=None)


def trace(thinking: ThinkingFormat, problem: str = "a", chain: str = CHAIN, seed: int = 1, **changes) -> dict:
    return written(thinking, problem, "Compute 3 + 4 + 5.", chain, "12", seed, **changes)


def chains(rows) -> list[str]:
    return [row["completion"].partition("<think>")[2].partition("</think>")[0] for row in rows]


def test_steps_go_that_nothing_depends_on(thinking, engine):
    rejected = Counter()
    rows = [trace(thinking), trace(thinking, "b", correct=False)]
    [row] = spirit(rows, engine, thinking=thinking, rejected=rejected, max_perplexity_ratio=1.05)
    assert row["completion"] == "<think>First, 3+4=7.\nSo 7+5=12.</think>12"
    assert (row["method"], row["steps"], row["source_steps"]) == ("spirit", 2, 5)
    tokens = len(thinking.tokenizer.encode(row["completion"]))
    assert row["keep_ratio"] == tokens / len(thinking.tokenizer.encode(rows[0]["completion"]))
    assert rejected == {"wrong": 1}


def test_perplexity_is_that_of_the_whole_response(thinking, engine):
    # 3 + 4 stands twice: neither is missed as long as the other is there.
    row = trace(thinking, chain="First, 3+4=7. Again 3+4=7.\nSo 7+5=12. Fine.")
    assert chains(spirit([row], engine, thinking=thinking, max_perplexity_ratio=1.05)) == ["Again 3+4=7.\nSo 7+5=12."]
    everything = chains(spirit([row], engine, thinking=thinking, max_perplexity_ratio=100.0))
    assert everything == ["So 7+5=12."] or everything == ["Again 3+4=7."]  # one step always stays


def test_a_length_to_come_down_to(thinking, engine):
    row = trace(thinking)
    for keep_ratio in (1.0, 0.8, 0.65):
        settings = {"thinking": thinking, "max_perplexity_ratio": None, "keep_ratio": keep_ratio}
        ratios = [next(iter(spirit([row], engine, order=order, **settings)))["keep_ratio"] for order in ORDERS]
        assert ratios == pytest.approx([keep_ratio] * 2, abs=0.08)


ORDERS = ("perplexity", "random")


def test_the_control_drops_as_many_tokens_by_lot(thinking, engine):
    rows = [trace(thinking, problem, seed=seed) for problem in "abcdefgh" for seed in range(3)]
    ours, lots, again, other = (
        list(spirit(rows, engine, thinking=thinking, max_perplexity_ratio=1.05, order=order, seed=seed))
        for order, seed in (("perplexity", 0), ("random", 0), ("random", 0), ("random", 1))
    )
    assert lots == again != other
    assert {row["method"] for row in lots} == {"random_steps"}
    assert len(set(chains(lots))) > 3 > len(set(chains(ours)))
    mean = [sum(row["total_tokens"] for row in part) / len(part) for part in (ours, lots)]
    assert mean[1] == pytest.approx(mean[0], rel=0.1)
    reversed_file = list(spirit(rows[::-1], engine, thinking=thinking, max_perplexity_ratio=1.05, order="random"))
    assert Counter(map(str, reversed_file)) == Counter(map(str, lots))


def test_several_steps_a_round_ask_less(thinking, engine):
    asked = []
    score = engine.engine.score
    engine.engine.score = lambda pairs: asked.append(len(pairs)) or score(pairs)
    results = []
    for count in (1, 3):
        results.append(
            list(
                spirit([trace(thinking)], engine, thinking=thinking, max_perplexity_ratio=1.05, steps_per_round=count)
            )
        )
    assert results[0] == results[1]
    assert sum(asked) < 2 * sum(asked[: len(asked) // 2 + 1]) and len(asked) == 6


def test_steps_that_go_together_do_not_go_beyond_the_limit():
    """Each of several steps may be spare, and not all of them: what is left is scored again."""
    overthinker = load_reasoner("overthinker")
    thinking, lot = overthinker.thinking, random.Random(0)
    rows = []
    for problem in load_problems("sums", "test", 8, 0):
        chain = FAMILIES["sums"].chain(problem, "verbose", lot).rstrip()
        rows.append(written(thinking, problem["id"], problem["question"], chain, problem["answer"]))

    def perplexity(row: dict, completion: str) -> float:
        ids = thinking.tokenizer.encode(completion, add_special_tokens=False)
        head = len(thinking.open([]))
        [score] = overthinker.engine.score([([*row["prompt_ids"], *ids[:head]], ids[head:])])
        return math.exp(-sum(score.logprobs) / len(score.logprobs))

    settings = {"thinking": thinking, "max_perplexity_ratio": 1.25}
    for count in (1, 6):
        made = list(spirit(rows, overthinker, steps_per_round=count, **settings))
        assert sum(row["source_steps"] - row["steps"] for row in made) > 8
        for row, short in zip(rows, made, strict=True):
            assert perplexity(row, short["completion"]) <= 1.25 * perplexity(row, row["completion"]) * 1.001


def test_the_first_usable_traces_of_a_problem(thinking, engine):
    rows = [trace(thinking, seed=seed, correct=seed > 0) for seed in range(4)]
    rejected = Counter()
    settings = {"thinking": thinking, "keep_ratio": 0.7, "max_perplexity_ratio": None}
    assert len(list(spirit(rows, engine, rejected=rejected, max_traces=2, **settings))) == 2
    assert rejected == {"wrong": 1}


def test_what_the_model_cannot_read_is_left_out(thinking, engine):
    rows = [trace(thinking, "a"), trace(thinking, "b", chain=CHAIN * 3)]
    engine.context_tokens = len(rows[0]["prompt_ids"]) + rows[0]["total_tokens"]
    rejected = Counter()
    settings = {"thinking": thinking, "keep_ratio": 0.7, "max_perplexity_ratio": None}
    assert [row["source_id"] for row in spirit(rows, engine, rejected=rejected, **settings)] == ["a"]
    assert rejected == {"too long to be scored": 1}


def test_the_program_needs_no_model_for_a_lot_to_a_length(thinking, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_jsonl("runs/quickstart/traces.jsonl", [trace(thinking, problem) for problem in "abc"])
    monkeypatch.setattr("efficient_reasoning.inference.load_reasoner", None)
    lot = ["--order", "random", "--keep_ratio", "0.7", "--max_perplexity_ratio", "null", "--out", "lot.jsonl"]
    main(["--config", "data/spirit_overthinker", *lot])
    assert [row["method"] for row in read_jsonl("lot.jsonl")] == ["random_steps"] * 3
    assert "3 rows from 3 problems" in capsys.readouterr().out


def test_the_embedded_model_keeps_what_it_needs(thinking, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verbose = "First, 68+95=163. Wait, check: 163-95=68. Yes.\nFinally, 163+46=209. Wait, check: 209-46=163. Yes."
    prompt_ids = thinking.tokenizer.encode("Compute 68 + 95 + 46.\n")
    ids = thinking.tokenizer.encode(thinking.write(verbose, "209"))
    row = trace(thinking, prompt_ids=prompt_ids, completion_ids=ids, final_answer="209", total_tokens=len(ids))
    write_jsonl("runs/quickstart/traces.jsonl", [row])
    # In so short a chain every step counts for more: 1.25, as in the config, lets none go.
    main(["--config", "data/spirit_overthinker", "--max_perplexity_ratio", "1.5"])
    [row] = read_jsonl("runs/quickstart/spirit.jsonl")
    assert "68+95=163" in row["completion"] and "163+46=209" in row["completion"]
    assert row["keep_ratio"] < 0.8


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["--keep_ratio", "0"], r"keep_ratio is 0; it must lie in \(0, 1\]"),
        (["--keep_ratio", "1.5"], r"keep_ratio is 1\.5"),
        ([], "Nothing says when to stop"),
        (["--max_perplexity_ratio", "-1"], r"max_perplexity_ratio is -1"),
        (["--keep_ratio", "0.5", "--steps_per_round", "0"], "steps_per_round is 0; give at least 1"),
        (["--keep_ratio", "0.5", "--max_traces", "0"], "max_traces is 0; give at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(thinking, tmp_path, settings, sentence):
    write_jsonl(tmp_path / "traces.jsonl", [trace(thinking)])
    files = ["--traces", str(tmp_path / "traces.jsonl"), "--out", str(tmp_path / "rows.jsonl")]
    with pytest.raises(BadInput, match=sentence):
        main([*files, "--model", "overthinker", *settings])


def test_traces_of_another_tokenizer_are_refused(thinking, engine):
    row = trace(thinking, tokenizer_hash="0123", model="another")
    with pytest.raises(BadInput, match=r"problem 'a': its ids are of another tokenizer .* \(another\)"):
        list(spirit([row], engine, thinking=thinking))
