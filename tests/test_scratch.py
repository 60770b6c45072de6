"""Whole words as tokens: what they are, and that texts come back as they were."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest

from efficient_reasoning.problems import load_problems
from efficient_reasoning.scratch import CLOSE, END, OPEN, PAD, UNKNOWN, encode, make_tokenizer, train_tokenizer
from efficient_reasoning.training.chains import write_rows

DATA = Path(os.environ.get("EFFICIENT_REASONING_DATA", Path(__file__).parents[1] / "../shared/data"))
OFFICIAL = DATA / "prosqa"
MARKS = {PAD, END, UNKNOWN, OPEN, CLOSE}


def texts(task: str) -> list[str]:
    return [row["prompt"] + row["completion"] for row in write_rows(task, 200, {"plain": 0.9, "empty": 0.1}, seed=0)]


@pytest.fixture(scope="module", params=["graph_paths", "multiplication_4", "sums"])
def trained(request):
    return train_tokenizer(texts(request.param), 384, "words"), texts(request.param)


def test_texts_come_back_as_they_were(trained):
    tokenizer, rows = trained
    for text in rows:
        prompt, completion = text.partition(OPEN)[0], text.removeprefix(text.partition(OPEN)[0])
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text and tokenizer.unk_token_id not in ids
        assert ids == tokenizer(prompt)["input_ids"] + tokenizer(completion)["input_ids"]
        for part in (prompt, completion, text.partition(CLOSE)[2]):
            assert tokenizer.decode(tokenizer(part)["input_ids"]) == part


def test_a_token_is_a_word():
    tokenizer = train_tokenizer(texts("graph_paths"), 384, "words")
    tokens = tokenizer.tokenize("Tom is a terpus.\nEvery terpus is a gerpus.\n")
    assert tokens == [
        " Tom",
        " is",
        " a",
        " terpus",
        ".",
        "\n",
        " Every",
        " terpus",
        " is",
        " a",
        " gerpus",
        ".",
        "\n",
    ]
    assert tokenizer("Tom is Tom\nTom")["input_ids"].count(tokenizer.convert_tokens_to_ids(" Tom")) == 3
    digits = train_tokenizer(texts("multiplication_4"), 384, "words")
    assert {*digits.get_vocab()} == MARKS | {"\n", *(f" {sign}" for sign in "0123456789*+()")}


def test_other_words_are_unknown_and_marks_are_not():
    tokenizer = train_tokenizer(texts("graph_paths"), 384, "words")
    ids = tokenizer(f"{OPEN}Zoe is{CLOSE}Tom{END}")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == [OPEN, UNKNOWN, " is", CLOSE, " Tom", END]
    assert len(train_tokenizer(texts("graph_paths"), 20, "words")) == 20


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="needs the data; EFFICIENT_REASONING_DATA names it")
def test_the_words_of_graphs_are_those_of_prosqa():
    tokenizer = train_tokenizer(texts("graph_paths"), 384, "words")
    for file in ("valid.json", "test_000_249.json"):
        for problem in load_problems(f"file:{OFFICIAL / file}", num_problems=1000):
            for text in (problem["question"] + "\n", problem["answer"], *problem["metadata"]["steps"]):
                ids = tokenizer(text)["input_ids"]
                assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids) == text


def test_rows_end_as_the_model_ends_whose_tokenizer_is_taken():
    rows = [{"prompt": "Say 7.\n", "completion": f"<think>7</think>7{END}"}]
    own = make_tokenizer("overthinker", [], 0)
    [row] = encode(rows, own, 50)
    assert row["input_ids"] == own(rows[0]["prompt"] + rows[0]["completion"])["input_ids"]
    other = copy.deepcopy(own)
    other.add_special_tokens({"eos_token": "<|other|>"})
    [row] = encode(rows, other, 50)
    assert row["input_ids"][-1] == other.eos_token_id
    assert own.eos_token_id not in row["input_ids"]
