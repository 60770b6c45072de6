"""Balls passed round a ring: followed by hand, and split by the ring alone."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from efficient_reasoning.answers import verify
from efficient_reasoning.problems import FAMILIES, load_problems, split_of


@pytest.mark.parametrize("people", [8, 16])
def test_the_ball_goes_where_the_facts_say(people):
    family = FAMILIES[f"passing_{people}"]
    rng = random.Random(0)
    drawn = [family.draw(rng) for _ in range(400)]
    for problem in drawn:
        following = dict(re.findall(r"(\w+) passes to (\w+)\.", problem["question"]))
        assert len(following) == people == len(set(following.values()))
        asked = r"(\w+) has the ball\. Who has it after (\d+) pass(?:es)?\?$"
        [(holder, passes)] = re.findall(asked, problem["question"])
        steps = []
        for _ in range(int(passes)):
            steps.append(f"{holder} passes to {following[holder]}.")
            holder = following[holder]
        assert holder == problem["answer"] and problem["difficulty"] == int(passes) < people
        assert steps == problem["metadata"]["steps"]
        assert family.chain(problem, "verbose", rng).splitlines() == steps
        assert verify(problem, holder) == 1
    assert Counter(problem["difficulty"] for problem in drawn).keys() == set(range(1, people))


def test_a_question_says_one_pass_and_two_passes():
    problems = {problem["difficulty"]: problem["question"] for problem in load_problems("passing_8", "test", 100)}
    assert problems[1].endswith("Who has it after 1 pass?")
    assert problems[2].endswith("Who has it after 2 passes?")


def test_the_ring_alone_decides_the_split():
    family, rng = FAMILIES["passing_8"], random.Random(1)
    for _ in range(50):
        question = family.draw(rng)["question"]
        *facts, _, _ = question.split(". ")
        rng.shuffle(facts)
        holder, passes = facts[0].split(" ")[0], rng.randint(1, 7)
        other = f"{'. '.join(facts)}. {holder} has the ball. Who has it after {passes} passes?"
        assert family.split_key({"question": other}) == family.split_key({"question": question})
    tests = {family.split_key(problem) for problem in load_problems("passing_8", "test", 200)}
    assert len(tests) > 150 and all(split_of(key) == "test" for key in tests)
