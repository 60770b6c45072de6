"""The built-in families: problems split by problem, chains that are right, slips that checks repair."""

from __future__ import annotations

import random
import re
import statistics
from types import SimpleNamespace

import pytest

from efficient_reasoning import problems
from efficient_reasoning.answers import verify
from efficient_reasoning.errors import BadInput
from efficient_reasoning.problems import FAMILIES, heads_and_legs, load_problems, split_of

SPLITS = ("train", "validation", "test")
EQUATION = re.compile(r"(\d+)([-+*/])(\d+)=(-?\d+)")
RECAP = "Let me redo it:"
TOKEN = re.compile(r"\d|[a-z]+|\S", re.IGNORECASE)  # the embedded model's tokenizer, near enough: digits are tokens


def is_true(equation: tuple[str, str, str, str]) -> bool:
    left, operator, right, value = equation[0], equation[1], *equation[2:]
    left, right, value = int(left), int(right), int(value)
    results = {"+": left + right, "-": left - right, "*": left * right}
    return left == right * value if operator == "/" else value == results[operator]


def chains(name: str, style: str, count: int = 400) -> list[tuple[dict, str]]:
    rng = random.Random(0)
    return [
        (problem, FAMILIES[name].chain(problem, style, rng)) for problem in load_problems(name, "train", count, seed=1)
    ]


def steps_of(chain: str) -> list[str]:
    """The lines of a chain but for the second way through."""
    return [line for line in chain.splitlines() if not line.startswith(RECAP)]


def slipped(step: str) -> bool:
    return not is_true(EQUATION.findall(step)[0])


def result_of(step: str) -> str:
    """What the step comes to: its claim, or what it says after the check of a wrong one."""
    return EQUATION.findall(step)[-1 if slipped(step) else 0][-1]


# ---- problems ----


@pytest.mark.parametrize("name", FAMILIES)
def test_no_seed_carries_a_problem_into_another_split(name):
    keys = {
        split: {
            FAMILIES[name].split_key(problem) for seed in range(3) for problem in load_problems(name, split, 300, seed)
        }
        for split in SPLITS
    }
    assert all(len(keys[split]) > 600 for split in SPLITS)
    assert not keys["train"] & keys["test"] and not keys["train"] & keys["validation"]
    assert not keys["validation"] & keys["test"]


def test_asking_for_the_other_animal_makes_no_new_farm():
    farms = load_problems("heads_and_legs", "test", 500)
    for problem in farms:
        other = {**problem, "metadata": {**problem["metadata"], "asked": "the other"}}
        assert split_of(heads_and_legs.split_key(other)) == "test"


def test_splits_are_80_10_10():
    counts = [split_of(str(number)) for number in range(20_000)]
    assert [counts.count(split) / 20_000 for split in SPLITS] == pytest.approx([0.8, 0.1, 0.1], abs=0.01)


@pytest.mark.parametrize("name", [*FAMILIES, "mixed"])
def test_draws_are_distinct_and_follow_from_the_seed(name):
    drawn = load_problems(name, "train", 500, seed=3)
    assert drawn == load_problems(name, "train", 500, seed=3)
    assert drawn[:100] == load_problems(name, "train", 100, seed=3)
    assert drawn != load_problems(name, "train", 500, seed=4)
    assert len({problem["id"] for problem in drawn}) == len({problem["question"] for problem in drawn}) == 500


def test_an_id_belongs_to_a_question_whatever_the_draw():
    names = {problem["question"]: problem["id"] for problem in load_problems("heads_and_legs", "test", 2000, seed=0)}
    again = [
        problem for problem in load_problems("heads_and_legs", "test", 2000, seed=1) if problem["question"] in names
    ]
    assert len(again) > 100
    assert all(problem["id"] == names[problem["question"]] for problem in again)


def test_mixed_takes_the_families_in_turn():
    families = [problem["metadata"]["family"] for problem in load_problems("mixed", "test", 10)]
    assert families == ["sums", "heads_and_legs"] * 5


@pytest.mark.parametrize("name", FAMILIES)
def test_the_gold_answer_is_verified_and_its_neighbour_is_not(name):
    for problem in load_problems(name, "validation", 200):
        assert verify(problem, problem["answer"])
        assert not verify(problem, str(int(problem["answer"]) + 1))


def test_sums_are_what_they_say():
    drawn = load_problems("sums", "train", 500)
    assert {problem["difficulty"] for problem in drawn} == {3, 4, 5, 6}
    for problem in drawn:
        terms = [int(term) for term in re.findall(r"-?\d+", problem["question"].replace("- ", "-"))]
        assert terms == problem["metadata"]["terms"] and len(terms) == problem["difficulty"]
        assert all(1 <= abs(term) <= 99 for term in terms)
        totals = [sum(terms[: place + 1]) for place in range(len(terms))]
        assert min(totals) >= 0 and str(totals[-1]) == problem["answer"]


def test_farms_are_what_they_say():
    drawn = load_problems("heads_and_legs", "train", 500)
    for problem in drawn:
        heads, legs = map(int, re.findall(r"\d+", problem["question"]))
        asked = re.search(r"How many (\w+)\?", problem["question"])[1]
        count = int(problem["answer"])
        rabbits = count if asked == "rabbits" else heads - count
        assert 0 <= rabbits <= heads <= 300 and legs == 4 * rabbits + 2 * (heads - rabbits)
        assert problem["difficulty"] == 1 + (heads > 30) + (heads > 100)
    assert {problem["difficulty"] for problem in drawn} == {1, 2, 3}


# ---- chains ----


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("style", ["equations", "plain"])
def test_floor_and_plain_chains_say_each_step_once(name, style):
    for problem, chain in chains(name, style, 200):
        equations = EQUATION.findall(chain)
        assert all(map(is_true, equations)) and len(equations) == len(chain.splitlines())
        assert equations[-1][-1] == problem["answer"]
        assert chain.endswith("\n")
        if style == "equations":
            assert EQUATION.sub("", chain).strip() == ""


@pytest.mark.parametrize("name", FAMILIES)
def test_verbose_chains_end_in_the_right_answer_and_repair_every_slip(name):
    slips = 0
    for problem, chain in chains(name, "verbose"):
        for step in steps_of(chain):
            claim, *others = EQUATION.findall(step)
            assert all(map(is_true, others))
            if slipped(step):
                slips += 1
                left, operator, right, _ = claim
                assert re.search(rf"Wait, check: \S+ Not {left}\. So {left}\{operator}{right}=\d+\.$", step)
        assert result_of(steps_of(chain)[-1]) == problem["answer"]
    assert slips > 20


@pytest.mark.parametrize("name", FAMILIES)
def test_the_second_way_through_is_right(name):
    recaps = [line for _, chain in chains(name, "verbose") for line in chain.splitlines() if line.startswith(RECAP)]
    assert len(recaps) > 20
    assert all(is_true(equation) for line in recaps for equation in EQUATION.findall(line))


def test_about_8_percent_of_verbose_steps_slip():
    steps = [step for name in FAMILIES for _, chain in chains(name, "verbose", 1000) for step in steps_of(chain)]
    assert statistics.mean(map(slipped, steps)) == pytest.approx(0.08, abs=0.02)


@pytest.mark.parametrize("name", FAMILIES)
def test_redundancy_falls_with_difficulty_but_stays_the_mode(name):
    checks: dict[int, list[int]] = {}
    recaps: dict[int, list[bool]] = {}
    for problem, chain in chains(name, "verbose", 3000):
        counts = [len(EQUATION.findall(step)) - 1 for step in steps_of(chain) if not slipped(step)]
        checks.setdefault(problem["difficulty"], []).extend(counts)
        recaps.setdefault(problem["difficulty"], []).append(RECAP in chain)
    means = [statistics.mean(checks[difficulty]) for difficulty in sorted(checks)]
    assert means == sorted(means, reverse=True) and means[0] > 1.2 * means[-1]
    recap_shares = [statistics.mean(recaps[difficulty]) for difficulty in sorted(recaps)]
    assert recap_shares == sorted(recap_shares, reverse=True)
    assert recap_shares[0] > 0.5 > recap_shares[-1]
    # What is checked with p < 0.5 is never checked under greedy decoding.
    assert min(statistics.mean(map(bool, counts)) for counts in checks.values()) > 0.6


@pytest.mark.parametrize("name", FAMILIES)
def test_verbose_chains_are_long_enough_to_shorten(name):
    floor, verbose = (
        sum(len(TOKEN.findall(chain)) for _, chain in chains(name, style)) for style in ("equations", "verbose")
    )
    assert verbose > 2.5 * floor


def test_chains_follow_from_their_random_generator():
    problem = load_problems("sums", "train", 1)[0]
    write = FAMILIES["sums"].chain
    drawn = [write(problem, "verbose", random.Random(seed)) for seed in range(20)]
    assert drawn == [write(problem, "verbose", random.Random(seed)) for seed in range(20)]
    assert len(set(drawn)) > 5


# ---- loading ----


def test_a_family_that_runs_dry_says_so(monkeypatch):
    def draw(rng: random.Random) -> dict:
        return {"question": str(rng.randrange(20)), "answer": "1", "task": "numeric", "metadata": {}}

    tiny = SimpleNamespace(draw=draw, split_key=lambda problem: problem["question"])
    monkeypatch.setattr(problems, "FAMILIES", {"tiny": tiny})
    share = sum(split_of(str(number)) == "train" for number in range(20))
    assert len(load_problems("tiny", "train", share)) == share
    with pytest.raises(BadInput, match=f"tiny: has only {share} train problems, not 21; ask for fewer"):
        load_problems("tiny", "train", 21)


@pytest.mark.parametrize(
    ("task", "count", "message"),
    [
        ("sum", 5, "Unknown task 'sum', did you mean sums"),
        ("gim:chain_sum", 5, "Unknown kind of task 'gim' in 'gim:chain_sum', did you mean gym"),
        ("sums", 0, "num_problems is 0; ask for at least one"),
    ],
)
def test_what_cannot_be_loaded_is_said(task, count, message):
    with pytest.raises(BadInput, match=message):
        load_problems(task, "test", count)
