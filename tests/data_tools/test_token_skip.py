"""Chains down to a ratio: what stays, what is met, what is refused."""

from __future__ import annotations

import random
import re
import time
from collections import Counter

import pytest

from data_tools.token_skip import RATIOS, _Chain, main, token_skip
from efficient_reasoning.checkpoint import load_tokenizer, resolve_model, thinking_format
from efficient_reasoning.compression.importance import Rating
from efficient_reasoning.config import find_config
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl, write_jsonl
from efficient_reasoning.thinking import ThinkingFormat
from tests.data_tools.written import written

CHAIN = (
    "First, 12+30=42. Wait, check: 42-30=12. Yes. Once more: 42-30=12. Yes.\n"
    "Then 42*2=84. Wait, check: 84/2=42. Yes.\n"
    "Finally, 84-7=77. Wait, check: 77+7=84. Yes.\n"
    "Let me redo it: 12+30=42, 42*2=84, 84-7=77. The same."
)
CONCISE = "First, 12+30=42.\nThen 42*2=84.\nFinally, 84-7=77."


class Late:
    """Rates whatever comes later in a line as less important."""

    weights = "late"

    def rate(self, texts):
        return [[Rating(i, i + 1, 1 / (1 + i - text.rfind("\n", 0, i))) for i in range(len(text))] for text in texts]


@pytest.fixture(scope="module")
def thinking() -> ThinkingFormat:
    folder = resolve_model("overthinker")
    return thinking_format(folder, load_tokenizer(folder))


def trace(thinking: ThinkingFormat, problem: str, chain: str = CHAIN, seed: int = 0, **changes) -> dict:
    return written(thinking, problem, "Compute (12 + 30) * 2 - 7.", chain, "77", seed, **changes)


def chain_of(row: dict) -> str:
    return re.fullmatch(r"<think>(.*)</think>77", row["completion"], re.DOTALL)[1]


def test_every_ratio_is_met_and_said_in_the_prompt(thinking):
    source = trace(thinking, "a")
    rows = list(token_skip([source], Late(), thinking=thinking, all_ratios=True))
    assert [row["requested_ratio"] for row in rows] == list(RATIOS)
    for row in rows:
        assert abs(row["keep_ratio"] - row["requested_ratio"]) <= 0.02
        assert row["total_tokens"] == len(thinking.tokenizer.encode(row["completion"]))
        assert row["keep_ratio"] == row["total_tokens"] / source["total_tokens"]
        assert row["control"] == f"<|keep {row['requested_ratio']:g}|>"
        assert row["prompt"] == f"Compute (12 + 30) * 2 - 7.{row['control']}\n"
        assert (row["method"], row["source_id"]) == ("token_skip", "a")
    assert chain_of(rows[0]) == CHAIN
    lengths = [row["total_tokens"] for row in rows]
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("level", ["token", "chunk"])
def test_what_stays_is_in_order_and_no_number_is_broken(thinking, level):
    rng = random.Random(0)

    class Lot:
        def rate(self, texts):
            return [[Rating(i, i + 1, rng.random()) for i in range(len(text))] for text in texts]

    expressions = re.compile(r"[\d+*/=-]*\d")
    for _ in range(20):
        for row in token_skip([trace(thinking, "a")], Lot(), thinking=thinking, level=level, all_ratios=True):
            words = iter(re.findall(r"\w+|[^\w\s]", CHAIN))
            assert all(word in words for word in re.findall(r"\w+|[^\w\s]", chain_of(row)))
            whole = iter(expressions.findall(CHAIN))
            assert all(expression in whole for expression in expressions.findall(chain_of(row)))
            if level == "token":
                assert expressions.findall(chain_of(row)) == expressions.findall(CHAIN)


def test_chunks_go_as_a_whole_the_least_important_first(thinking):
    [row] = token_skip([trace(thinking, "a")], Late(), thinking=thinking, ratios=[0.6], tolerance=1)
    assert "Once more" not in row["completion"]
    assert "First, 12+30=42" in row["completion"]


def test_a_number_that_is_taken_up_later_is_not_left_out(thinking):
    class Backwards:
        """Steps matter least, checks most."""

        def rate(self, texts):
            return [
                [Rating(i, i + 1, float("Wait" in text[max(0, i - 25) : i + 5])) for i in range(len(text))]
                for text in texts
            ]

    for row in token_skip([trace(thinking, "a")], Backwards(), thinking=thinking, all_ratios=True):
        said = {"12", "30", "2", "7"}  # by the question
        for step in re.split(r"(?<=[.,]) |\n", chain_of(row)):
            numbers = re.findall(r"\d+", step)
            assert said.issuperset(numbers[:-1]), chain_of(row)
            said.update(numbers)
        assert "77" in said


def test_a_result_that_happens_to_be_a_given_number_is_not_left_out(thinking):
    rng = random.Random(0)

    class Lot:
        def rate(self, texts):
            return [[Rating(i, i + 1, rng.random()) for i in range(len(text))] for text in texts]

    chain = "First, 20-15=5. Wait, check: 5+15=20. Yes.\nThen 15*4=60.\nThen 60/20=3.\nFinally, 5+3=8."
    question = "Of 20 coins 15 are old. A box takes 3 or 4 coins, or 60. How many boxes?"
    source = written(thinking, "a", question, chain, "8", 0)
    for _ in range(10):
        rows = list(token_skip([source], Lot(), thinking=thinking, all_ratios=True, tolerance=1))
        assert len(rows) == len(RATIOS)
        for row in rows:
            assert all(step in row["completion"] for step in ("20-15=5", "15*4=60", "60/20=3", "5+3=8"))
        assert "5+15=20" not in rows[-1]["completion"]


@pytest.mark.parametrize(
    ("question", "chain", "answer", "needed"),
    [
        ("Take 8, 5 and 2.", "First 5-8=-3. No, wrong. So 8-5=3. Then 3*2=6.", "6", "8-5=3"),  # no repetition: a sign
        ("Of 20 coins 15 are old, a box has 5.", "So 20 with 15 and 5. First 20-15=5. Then 5+3=8.", "8", "20-15=5"),
        ("Take 2 and 4.", "Now 2*4=8. Then 8/2=4.", "4", "8/2=4"),  # done backwards, and the answer
        ("It costs 4.75.", "Two are 4.75*2=9.50. With tax 9.5+1=10.5.", "10.5", "4.75*2=9.50"),
    ],
)
def test_what_only_looks_like_a_repetition_stays(thinking, question, chain, answer, needed):
    source = written(thinking, "a", question, chain, answer, 0)
    rows = list(token_skip([source], Late(), thinking=thinking, all_ratios=True, tolerance=1))
    assert len(rows) == len(RATIOS)
    assert all(needed in row["completion"] for row in rows)


def test_a_long_chain_does_not_take_long(thinking):
    chain = " ".join(f"Then {n}+1={n + 1}. Check: {n + 1}-1={n}." for n in range(1500))
    began = time.perf_counter()
    source = written(thinking, "a", "Count from 0 to 1500 by 1.", chain, "1500", 0)
    [row] = token_skip([source], Late(), thinking=thinking, ratios=[0.6], tolerance=1)
    assert "Then 700+1=701" in row["completion"] and "701-1=700" not in row["completion"]
    assert time.perf_counter() - began < 20


def test_a_ratio_is_drawn_from_those_in_reach(thinking):
    traces = [trace(thinking, f"p{i}", chain) for i in range(300) for chain in (CHAIN, CONCISE)]
    rejected = Counter()
    rows = list(token_skip(traces, Late(), thinking=thinking, rejected=rejected))
    assert len(rows) == 600 and not +rejected
    assert all(abs(row["keep_ratio"] - row["requested_ratio"]) <= 0.05 for row in rows)
    drawn = {chain: Counter() for chain in (True, False)}
    for row in rows:
        drawn[row["source_tokens"] == traces[0]["total_tokens"]][row["requested_ratio"]] += 1
    assert set(drawn[True]) == set(RATIOS) and min(drawn[True].values()) > 25  # 50 expected
    assert 0.5 not in drawn[False] and min(drawn[False].values()) > 25


def test_ratios_out_of_reach_are_counted(thinking):
    rejected = Counter()
    concise, idle = trace(thinking, "a", CONCISE), trace(thinking, "a", "so be it")
    rows = token_skip([concise], Late(), thinking=thinking, rejected=rejected, ratios=[0.5])
    assert (list(rows), rejected) == ([], {"cannot reach the ratio": 1})
    made = token_skip([concise], Late(), thinking=thinking, rejected=rejected, all_ratios=True)
    assert [row["requested_ratio"] for row in made] == [1.0, 0.9, 0.8, 0.7]
    assert rejected == {"cannot reach the ratio": 3}
    assert list(token_skip([idle], Late(), thinking=thinking, ratios=[0.01], tolerance=0.99)) == []


def test_the_draw_does_not_depend_on_the_order(thinking):
    traces = [trace(thinking, f"p{i}", seed=seed) for i in range(20) for seed in range(3)]

    def drawn(rows, **settings):
        made = token_skip(rows, Late(), thinking=thinking, **settings)
        return sorted((row["source_id"], row["requested_ratio"]) for row in made)

    assert drawn(traces) == drawn(random.Random(0).sample(traces, 60)) != drawn(traces, seed=1)


def test_what_cannot_be_compressed_is_counted(thinking):
    traces = [
        trace(thinking, "a", correct=False),
        trace(thinking, "b", truncated=True),
        trace(thinking, "c", ""),
        trace(thinking, "d"),
        trace(thinking, "e", CONCISE),
    ]
    rejected = Counter()
    rows = token_skip(traces, Late(), thinking=thinking, rejected=rejected, max_tokens=100)
    assert [row["source_id"] for row in rows] == ["e"]
    assert +rejected == {"wrong": 1, "truncated": 1, "no thinking": 1, "too long": 1}


def test_prose_reads_like_the_paper_s_examples(thinking):
    class Known:
        """Function words matter less."""

        def rate(self, texts):
            return [
                [Rating(*m.span(), float(m[0] not in ("in", "the", "of", "her", "then", "she"))) for m in words]
                for words in (re.finditer(r"\w+", text) for text in texts)
            ]

    chain = "Then she sold 48/2 = 24 of the clips in May.\nIn the end she sold 48+24 = 72 clips."
    [row] = token_skip([trace(thinking, "a", chain)], Known(), thinking=thinking, level="token", ratios=[0.8])
    assert abs(row["keep_ratio"] - 0.8) <= 0.05
    assert {"48/2 = 24", "48+24 = 72"} <= set(re.findall(r"[\d/+]+ = \d+", chain_of(row)))
    assert not re.search(r"  | \.|\n ", chain_of(row))


@pytest.mark.parametrize("importance", ["self_information", "classifier"])
def test_the_program_goes_from_traces_to_rows(thinking, importance, tmp_path, capsys, monkeypatch):
    from efficient_reasoning.compression import token_classifier

    monkeypatch.setattr(token_classifier, "_STEPS", 3)
    source, out = tmp_path / "traces.jsonl", tmp_path / "rows.jsonl"
    chains = (CHAIN, CONCISE)
    write_jsonl(source, [trace(thinking, f"p{i}", chain, i) for i in range(4) for chain in chains])
    command = ["--model", "overthinker", "--traces", str(source), "--out", str(out), "--importance", importance]
    main([*command, "--backend", "transformers"])
    rows = list(read_jsonl(out))
    assert len(rows) == 8
    said = capsys.readouterr().out
    assert "8 rows from 4 problems" in said
    assert re.search(r"^0\.9: \d rows, 0\.\d{3} on average, at most 0\.0\d\d off\.$", said, re.MULTILINE)
    trained = list(tmp_path.glob("rows.jsonl.classifier-*"))
    assert len(trained) == (importance == "classifier")
    if importance == "classifier":
        assert "learnt from 4 long and short chains" in said
        monkeypatch.setattr("data_tools.token_skip.train_token_classifier", None)  # it is there already
        main([*command, "--backend", "transformers"])
    with pytest.raises(BadInput, match=r"holds rows that differ in ratios"):
        main([*command, "--backend", "transformers", "--ratios", "[0.5]"])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["--ratios", "[0.5, 0]"], r"ratios are \[0.5, 0\]; give at least one, each above 0 and at most 1"),
        (["--ratios", "[1.5]"], "each above 0 and at most 1"),
        (["--ratios", "[]"], "give at least one"),
        (["--ratios", "[0.5, 0.5]"], "give each of them once"),
        (["--tolerance", "-1"], "tolerance is -1; give a share between 0 and 1"),
        (["--traces", "missing.jsonl"], r"missing\.jsonl: no such file"),
        (["--importance", "classifier", "--importance_model", "./missing"], "no such folder of a token classifier"),
        (["--model", "./missing"], "no such checkpoint folder"),
    ],
)
def test_bad_settings_are_named(thinking, tmp_path, settings, sentence):
    source, out = tmp_path / "traces.jsonl", tmp_path / "rows.jsonl"
    write_jsonl(source, [trace(thinking, "a")])
    given = {"--model": "overthinker", "--traces": str(source), "--out": str(out)}
    given |= dict(zip(settings[::2], settings[1::2], strict=True))
    with pytest.raises(BadInput, match=sentence):
        main([word for pair in given.items() for word in pair])
    assert [path.name for path in tmp_path.iterdir()] == ["traces.jsonl"]


@pytest.mark.parametrize("kind", ["data", "sft_compress"])
def test_a_config_begins_with_its_command(kind):
    program = "data token_skip" if kind == "data" else "train sft_compress"
    first_line = find_config(f"{kind}/token_skip_overthinker").read_text().splitlines()[0]
    command = f"# efficient-reasoning {program} --config configs/{kind}/token_skip_overthinker.yaml"
    assert first_line.startswith(command)


def test_numbers_of_a_question_in_another_script_are_known(thinking):
    """A year behind a Chinese character is the number that it is, and the character's code is none."""
    source = trace(thinking, "a", prompt=[{"role": "user", "content": "年2024中 7?"}])
    assert _Chain(source, thinking, [], "chunk")._given == {"2024", "7"}


def test_another_tokenizer_is_refused_and_what_cannot_be_rated_counted(thinking):
    class Short(Late):
        def rate(self, texts):
            return [None for _ in texts]

    rejected = Counter()
    assert list(token_skip([trace(thinking, "a")], Short(), thinking=thinking, rejected=rejected)) == []
    assert rejected == {"too long to be rated": 1}
    with pytest.raises(BadInput, match="problem 'a': its ids are of another tokenizer"):
        list(token_skip([trace(thinking, "a", tokenizer_hash="another")], Late(), thinking=thinking))
