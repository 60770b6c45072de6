"""Long multiplication: the text of the paper's own files, and splits that know a product from either side."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from efficient_reasoning.answers import verify
from efficient_reasoning.contamination import contamination, training_problems
from efficient_reasoning.problems import load_problems, split_of
from efficient_reasoning.problems.multiplication import FAMILIES, Multiplication

DATA = Path(os.environ.get("EFFICIENT_REASONING_DATA", Path(__file__).parents[2] / "../shared/data"))
OFFICIAL = DATA / "multiplication"
needs_data = pytest.mark.skipif(not OFFICIAL.is_dir(), reason="needs the data; EFFICIENT_REASONING_DATA names it")


def number(digits: str) -> int:
    return int("".join(reversed(digits.split())))


def line(problem: dict) -> str:
    chain = Multiplication(problem["difficulty"]).chain(problem, "equations", random.Random(0))
    return f"{problem['question']}||{chain.rstrip()} #### {problem['answer']}"


def test_a_product_by_hand():
    problem = Multiplication(3).problem(123, 405)
    assert line(problem) == "3 2 1 * 5 0 4||5 1 6 0 + 0 0 0 0 0 ( 5 1 6 0 0 ) + 0 0 2 9 4 0 #### 5 1 8 9 4 0"


@needs_data
@pytest.mark.parametrize("digits", [4, 5, 7])
@pytest.mark.parametrize("split", ["valid", "test"])
def test_every_official_line_is_written_the_same(digits, split):
    lines = (OFFICIAL / f"{digits}_by_{digits}_{split}.txt").read_text().splitlines()
    assert len(lines) == 1000
    for official in lines:
        left, right = map(number, official.partition("||")[0].split(" * "))
        assert line(Multiplication(digits).problem(left, right)) == official


@needs_data
def test_an_official_file_gives_the_problems_that_would_have_been_drawn():
    for problem in load_problems(f"file:{OFFICIAL / '5_by_5_test.txt'}", num_problems=100):
        own = Multiplication(5).problem(*map(number, problem["question"].split(" * ")))
        assert {key: own[key] for key in ("question", "answer", "task")} == {
            key: problem[key] for key in ("question", "answer", "task")
        }
        assert problem["metadata"]["reasoning"] == " ".join(own["metadata"]["steps"])


@needs_data
def test_an_official_problem_among_the_training_problems_is_found(tmp_path):
    official = load_problems(f"file:{OFFICIAL / '4_by_4_test.txt'}", num_problems=1000)
    drawn = [Multiplication(4).problem(*map(number, row["question"].split(" * "))) for row in official[:3]]
    training_problems(drawn).save(tmp_path)
    assert contamination(tmp_path, official)["trained_on"] == 3


@pytest.mark.parametrize("name", FAMILIES)
def test_products_are_what_they_say(name):
    digits = int(name.rpartition("_")[2])
    for problem in load_problems(name, "train", 300):
        left, right = problem["question"].split(" * ")
        assert len(left.split()) == len(right.split()) == digits == problem["difficulty"]
        assert number(left) * number(right) == number(problem["answer"]) and left[-1] != "0" != right[-1]
        assert len(problem["answer"].split()) == 2 * digits and len(problem["metadata"]["steps"]) == digits


@pytest.mark.parametrize(("digits", "tokens"), [(4, 46), (5, 74), (7, 148), (9, 246)])
def test_the_length_of_a_chain_follows_from_the_digits(digits, tokens):
    lengths = {
        len(" ".join(problem["metadata"]["steps"]).split())
        for problem in load_problems(f"multiplication_{digits}", "train", 100)
    }
    assert lengths == {tokens}


def test_only_the_digits_count():
    for problem in load_problems("multiplication_4", "test", 50):
        answer = problem["answer"]
        assert verify(problem, f" {answer.replace(' ', '  ')}\n")
        assert not verify(problem, answer[:-1] + str(9 - int(answer[-1])))
        assert not verify(problem, answer[::-1]) or answer == answer[::-1]


def test_turned_round_it_stays_in_its_split():
    for problem in load_problems("multiplication_4", "test", 100):
        left, right = map(number, problem["question"].split(" * "))
        family = FAMILIES["multiplication_4"]
        assert split_of(family.split_key(family.problem(right, left))) == "test"
