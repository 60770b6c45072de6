"""Functions of lists: solutions pass their own tests, wrong programs do not, and words do not cross the splits."""

from __future__ import annotations

import json
import random
import re

import pytest

from efficient_reasoning.answers import verify, verify_many
from efficient_reasoning.problems import family_of, list_functions, load_problems, split_of

SOLVED = re.compile(r"```python\ndef f\(xs\):\n(    xs = .+\n)*    return .+\n```")
TRIED = re.compile(r"(\[[-\d, ]*\]) -> (.+?)\.$")


@pytest.fixture(scope="module")
def problems() -> list[dict]:
    return load_problems("list_functions", "train", 300)


def function(code: str):
    names: dict = {}
    exec(code.removeprefix("```python\n").removesuffix("```"), names)
    return names["f"]


def passes(problem: dict, code: str) -> bool:
    """The verdict of `verify` without its process."""
    try:
        exec("\n".join(problem["metadata"]["tests"]), {"f": function(code)})
    except (AssertionError, TypeError):
        return False
    return True


def test_problems_are_what_they_say(problems):
    assert json.loads(json.dumps(problems)) == problems
    assert {family_of(problem) for problem in problems} == {"list_functions"}
    assert {problem["difficulty"] for problem in problems} == {2, 3, 4, 5}
    for problem in problems:
        assert problem["task"] == "unit_tests" and SOLVED.fullmatch(problem["answer"])
        asked = problem["question"].lower()
        places = [asked.index(words) for words, _ in problem["metadata"]["operations"]]
        assert places == sorted(places) and len(places) == problem["difficulty"] == problem["answer"].count("\n") - 2


def test_every_solution_passes_its_own_tests(problems):
    assert all(passes(problem, problem["answer"]) for problem in problems)


def test_the_sandbox_says_so_too(problems):
    some, answers = problems[:6], [problem["answer"] for problem in problems[:6]]
    assert all(verify_many(some, answers))
    assert not any(verify_many(some, answers[::-1]))
    assert verify(problems[0], f"I keep to the words.\n\n{answers[0]}\n")


def test_a_solution_without_one_of_its_operations_fails(problems):
    for problem in problems:
        head, *lines = problem["answer"].removesuffix("```").splitlines()[1:]
        for place in range(len(lines)):
            *rest, last = lines[:place] + lines[place + 1 :]
            code = "\n".join([head, *rest, last.replace("xs = ", "return ", 1)])
            assert not passes(problem, code)


def test_what_returns_the_same_for_every_list_fails(problems):
    for problem in problems:
        results = [test.partition(" == ")[2] for test in problem["metadata"]["tests"]]
        assert len(set(results)) >= len(results) / 2
        assert not passes(problem, f"def f(xs):\n    return {results[0]}")


def test_few_wrong_numbers_pass(problems):
    """A number that is off by one; where no list of a thousand shows a difference, there is none."""
    rng = random.Random(0)
    lists = [[rng.randint(-20, 25) for _ in range(rng.randint(0, 10))] for _ in range(1000)]
    wrong = passed = 0
    for problem in problems[:100]:
        right = function(problem["answer"])
        for number in re.finditer(r"(?<=[<>+*:-] )\d|(?<=xs\[)\d|(?<=:)\d", problem["answer"]):
            code = f"{problem['answer'][: number.start()]}{int(number[0]) + 1}{problem['answer'][number.end() :]}"
            if any(function(code)(xs) != right(xs) for xs in lists):
                wrong += 1
                passed += passes(problem, code)
    assert wrong > 150 and passed <= 0.02 * wrong


def test_the_same_function_in_other_words_is_in_the_same_split():
    def key(*expressions: str) -> str:
        operations = [["", expression] for expression in expressions]
        return list_functions.split_key({"metadata": {"operations": operations}})

    assert key("[x + 2 for x in xs]", "[x * 3 for x in xs]") == key("[x * 3 for x in xs]", "[x + 6 for x in xs]")
    assert key("sorted(xs)", "xs[::-1]") == key("sorted(xs, reverse=True)")
    assert key("sorted(xs)") != key("xs[::-1]")
    for problem in load_problems("list_functions", "test", 20):
        assert split_of(list_functions.split_key(problem)) == "test"


@pytest.mark.parametrize("style", ["equations", "plain", "verbose"])
def test_chains_take_the_steps_of_the_solution(problems, style):
    rng = random.Random(0)
    tried = 0
    for problem in problems[:100]:
        text = list_functions.chain(problem, style, rng)
        statements = [line.strip() for line in problem["answer"].splitlines()[2:-1]]
        operations = problem["metadata"]["operations"]
        lines = text.splitlines()
        assert text.endswith("\n") and len(lines) - len(statements) in ((0, 1) if style == "verbose" else (0,))
        for line, statement, (words, expression) in zip(lines, statements, operations, strict=False):
            said = statement if style == "equations" else f"{words.capitalize()}: {statement}"
            assert line == said or (style == "verbose" and line.startswith(f"{said}. Try it: "))
            if trial := TRIED.search(line):
                tried += 1
                assert eval(expression, {"xs": json.loads(trial[1])}) == json.loads(trial[2])
        if len(lines) > len(statements):
            first, *_, last = lines[-1].removeprefix("Let me run all of it: ").removesuffix(".").split(" -> ")
            assert function(problem["answer"])(json.loads(first)) == json.loads(last)
    assert (tried > 100) == (style == "verbose")


def test_verbose_chains_are_long_enough_to_shorten(problems):
    short, long = (
        sum(len(list_functions.chain(problem, style, random.Random(0))) for problem in problems)
        for style in ("equations", "verbose")
    )
    assert long > 2 * short
