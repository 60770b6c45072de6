"""A checkpoint remembers what it was trained on: the same question is found however it is spelled, no other one is."""

from __future__ import annotations

import json

import numpy as np
import pytest

from efficient_reasoning.contamination import (
    RECORD_NAME,
    TrainingProblems,
    contamination,
    question_hash,
    training_problems,
)
from efficient_reasoning.errors import BadInput
from efficient_reasoning.problems import load_problems

QUESTION = "How many of Ann's 12 apples, at 1.50 each, are left?"


def rows(*questions: str) -> list[dict]:
    return [{"question": question} for question in questions]


@pytest.mark.parametrize(
    "spelling",
    [
        QUESTION.upper(),
        f"\n {QUESTION} ",
        QUESTION.replace(" ", "\n\t "),
        QUESTION.replace("'", "\N{RIGHT SINGLE QUOTATION MARK}"),
        QUESTION.rstrip("?"),
        QUESTION.replace(",", ""),
        QUESTION.replace("12", "１２"),  # full-width digits
    ],
)
def test_a_question_is_found_however_it_is_spelled(spelling):
    assert question_hash(spelling) == question_hash(QUESTION)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Compute 3 + 4 - 5.", "Compute 3 - 4 + 5."),
        ("Add 1.5 and 2.", "Add 15 and 2."),
        ("Add 1 2 and 3.", "Add 12 and 3."),
        ("Add -3 and 2.", "Add 3 and 2."),
        ("Compute 3 * 4.", "Compute 3 / 4."),
        ("Is x < 3?", "Is x > 3?"),
        ("A ratio of 2:1.", "A ratio of 21."),
    ],
)
def test_other_questions_are_other_questions(one, other):
    assert question_hash(one) != question_hash(other)


def test_what_was_trained_on_is_counted_and_named(tmp_path):
    training_problems(rows(QUESTION, "Another one?", QUESTION)).save(tmp_path)
    problems = [{"id": f"p-{n}", "question": question} for n, question in enumerate(["New.", QUESTION, "another one"])]
    assert contamination(tmp_path, problems) == {
        "checked": True,
        "problems": 3,
        "trained_on": 2,
        "examples": ["p-1", "p-2"],
        "unknown": [],
    }
    assert len(contamination(tmp_path, problems[1:2] * 9)["examples"]) == 5
    assert contamination(tmp_path, [])["trained_on"] == 0


def test_families_keep_their_splits_apart(tmp_path):
    training_problems(load_problems("mixed", "train", 2000)).save(tmp_path)
    assert contamination(tmp_path, load_problems("mixed", "test", 500))["trained_on"] == 0
    assert contamination(tmp_path, load_problems("mixed", "train", 500))["trained_on"] == 500


def test_nothing_is_known_of_models_from_elsewhere(tmp_path):
    (tmp_path / "theirs").mkdir()
    problem = {"id": "p", "question": QUESTION}
    for name, called in ((tmp_path / "theirs", "theirs"), ("Qwen/Qwen3-4B", "Qwen/Qwen3-4B")):
        expected = {"checked": False, "problems": 1, "trained_on": None, "examples": [], "unknown": [called]}
        assert contamination(name, [problem]) == expected


def test_stages_add_up(tmp_path):
    for name in ("base", "sft", "rl", "theirs"):
        (tmp_path / name).mkdir()
    training_problems(rows("A?", "B?")).save(tmp_path / "base")
    training_problems(rows("B?", "C?"), tmp_path / "base", "base").save(tmp_path / "sft")
    training_problems(rows("D?"), tmp_path / "sft").save(tmp_path / "rl")
    tested = [{"id": letter, "question": f"{letter}?"} for letter in "ABCDE"]
    assert contamination(tmp_path / "rl", tested)["examples"] == ["A", "B", "C", "D"]
    assert contamination(tmp_path / "rl", tested)["unknown"] == []

    training_problems(rows("A?"), tmp_path / "theirs", "ORG/theirs").save(tmp_path / "sft")
    training_problems(rows("B?"), tmp_path / "sft").save(tmp_path / "rl")
    found = contamination(tmp_path / "rl", tested)
    assert (found["checked"], found["trained_on"], found["unknown"]) == (True, 2, ["ORG/theirs"])


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": f"{QUESTION}\n"},
        {"prompt": f"{QUESTION}\n", "question": None},
        {"question": QUESTION, "prompt": f"Think little. {QUESTION}\n"},
        {"question": {"text": "as others write it"}, "prompt": f"{QUESTION}\n"},
        {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]},
        {
            "prompt": [
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": "Hello!"},
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]},
            ]
        },
    ],
)
def test_rows_of_every_kind_have_a_question(row):
    assert training_problems([row]).hashes.tolist() == [question_hash(QUESTION)]


@pytest.mark.parametrize("row", [{}, {"question": {"text": QUESTION}}, {"prompt": []}, {"prompt": [QUESTION]}])
def test_rows_without_a_question_are_refused(row):
    with pytest.raises(BadInput, match="neither a question nor a prompt"):
        training_problems([row])


def test_the_record_is_small_sorted_and_survives_the_disk(tmp_path):
    record = training_problems(rows(*map(str, range(10_000))))
    record.save(tmp_path)
    assert (tmp_path / RECORD_NAME).stat().st_size < 110_000
    loaded = TrainingProblems.load(tmp_path)
    np.testing.assert_array_equal(loaded.hashes, record.hashes)
    assert (np.diff(loaded.hashes.astype(object)) > 0).all()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"problems": 1, "unknown": [], "hashes": "AAAA"}',
        '{"problems": 2, "unknown": [], "hashes": ""}',
        '{"problems": 0, "unknown": [], "hashes": "?"}',
        '{"problems": 0, "unknown": null, "hashes": ""}',
    ],
)
def test_a_broken_record_is_named(tmp_path, text):
    (tmp_path / RECORD_NAME).write_text(text)
    with pytest.raises(BadInput, match=rf"{RECORD_NAME}: not a valid .*restore the file or delete it"):
        contamination(tmp_path, [])


def test_no_question_can_be_read_back(tmp_path):
    training_problems(rows(QUESTION)).save(tmp_path)
    assert set(json.loads((tmp_path / RECORD_NAME).read_text())) == {"problems", "unknown", "hashes"}
