"""Small Python functions of a list, to be written from words and verified by running them.

    Write a Python function f(xs) of a list of whole numbers. Keep the even numbers, add 3 to each and return the sum.

1. A function is two to five operations on a list; the last one may make a number of it. Each is one Python expression,
   from which words, solution, chain and tests are all made: they cannot disagree.
2. The tests are calls with their results, drawn from the question alone. Leaving any one operation out fails a test,
   and there are at least half as many different results as tests: else the function is drawn again, because an
   operation without effect, or a list that is always empty, would let wrong programs pass.
3. The answer is a Python block with a line an operation; any program that passes the tests is right. The chain of
   `equations` is these lines, `plain` says each in words before, and a verbose one tries operations on an example
   (probability 0.9 to 0.6, by difficulty) and may run all of them on another.
4. The difficulty is the number of operations. Problems are the same for the split when their functions are, however
   written: when they return the same for each of 40 fixed lists.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate, combinations

from efficient_reasoning.problems.chains import Style

# Words, and the expression that does as they say; {n} is a number from 2 to 9, in a slice from 2 to 4.
_CHANGES = (
    ("keep the even numbers", "[x for x in xs if x % 2 == 0]"),
    ("keep the odd numbers", "[x for x in xs if x % 2 == 1]"),
    ("keep the numbers above {n}", "[x for x in xs if x > {n}]"),
    ("keep the numbers below {n}", "[x for x in xs if x < {n}]"),
    ("add {n} to each", "[x + {n} for x in xs]"),
    ("subtract {n} from each", "[x - {n} for x in xs]"),
    ("multiply each by {n}", "[x * {n} for x in xs]"),
    ("square each", "[x * x for x in xs]"),
    ("change the sign of each", "[-x for x in xs]"),
    ("sort from low to high", "sorted(xs)"),
    ("sort from high to low", "sorted(xs, reverse=True)"),
    ("reverse the order", "xs[::-1]"),
    ("take the first {n}", "xs[:{n}]"),
    ("leave out the first {n}", "xs[{n}:]"),
    ("take every second one", "xs[::2]"),
    ("leave out repetitions", "list(dict.fromkeys(xs))"),
)
_RESULTS = (
    ("return the sum", "sum(xs)"),
    ("return how many there are", "len(xs)"),
    ("return the largest, or 0 of none", "max(xs, default=0)"),
    ("return the smallest, or 0 of none", "min(xs, default=0)"),
)
_RESULT_SHARE = 0.5
_NUM_TESTS = 20  # the first of them with an empty list
_REDUNDANCY = {2: 0.9, 3: 0.8, 4: 0.7, 5: 0.6}
_RECAP_PROBABILITY = {2: 0.7, 3: 0.5, 4: 0.3, 5: 0.2}

Operation = tuple[str, str]  # its words and its expression


def draw(rng: random.Random) -> dict:
    """One problem (the Problem contract without its id)."""
    while True:
        operations = _operations(rng)
        question = _question(operations)
        lists = [[], *_lists(random.Random(question), _NUM_TESTS - 1)]
        results = _results(operations, lists)
        shorter = combinations(operations, len(operations) - 1)
        if len({*map(str, results)}) >= _NUM_TESTS / 2 and all(_results(one, lists) != results for one in shorter):
            break
    body = "".join(f"    {line}\n" for line in _statements(operations))
    return {
        "question": question,
        "answer": f"```python\ndef f(xs):\n{body}```",
        "task": "unit_tests",
        "difficulty": len(operations),
        "metadata": {
            "family": "list_functions",
            "operations": [[*operation] for operation in operations],
            "tests": [f"assert f({xs}) == {result}" for xs, result in zip(lists, results, strict=True)],
        },
    }


def split_key(problem: dict) -> str:
    """What the function returns: other words or another order to the same effect do not make it a new problem."""
    return str(_results(problem["metadata"]["operations"], _PROBES))


def chain(problem: dict, style: Style, rng: random.Random) -> str:
    """A worked solution of the problem in the given style, ending in a line break; a line an operation."""
    operations, difficulty = problem["metadata"]["operations"], problem["difficulty"]
    lines = _statements(operations)
    if style == "equations":
        return "".join(f"{line}\n" for line in lines)
    lines = [f"{words.capitalize()}: {line}" for (words, _), line in zip(operations, lines, strict=True)]
    if style == "verbose":
        trials = [_trial(operation, rng, _REDUNDANCY[difficulty]) for operation in operations]
        lines = [f"{line}{trial}" for line, trial in zip(lines, trials, strict=True)]
        if rng.random() < _RECAP_PROBABILITY[difficulty]:
            [xs] = _lists(rng, 1)
            stages = accumulate(operations, lambda value, operation: _results([operation], [value])[0], initial=xs)
            lines.append(f"Let me run all of it: {' -> '.join(map(str, stages))}.")
    return "".join(f"{line}\n" for line in lines)


def _statements(operations: Sequence[Operation]) -> list[str]:
    *changes, last = [expression for _, expression in operations]
    return [*(f"xs = {change}" for change in changes), f"return {last}"]


def _operations(rng: random.Random) -> list[Operation]:
    """Distinct ones: two additions would be one."""
    number = rng.randint(2, 5)
    result = [rng.choice(_RESULTS)] if rng.random() < _RESULT_SHARE else []
    operations = [*rng.sample(_CHANGES, number - len(result)), *result]
    return [_with_number(operation, rng) for operation in operations]


def _with_number(operation: Operation, rng: random.Random) -> Operation:
    words, expression = operation
    number = rng.randint(2, 4 if expression.startswith("xs[") else 9)
    return words.replace("{n}", str(number)), expression.replace("{n}", str(number))


def _question(operations: Sequence[Operation]) -> str:
    steps = [words for words, _ in operations]
    if not steps[-1].startswith("return"):
        steps.append("return the list")
    *steps, last = steps
    steps = ", ".join(steps)
    return f"Write a Python function f(xs) of a list of whole numbers. {steps.capitalize()} and {last}."


def _trial(operation: Operation, rng: random.Random, redundancy: float) -> str:
    if rng.random() >= redundancy:
        return ""
    [xs] = _lists(rng, 1)
    return f". Try it: {xs} -> {_results([operation], [xs])[0]}."


def _lists(rng: random.Random, count: int) -> list[list[int]]:
    """Of three to eight numbers, drawn so that signs, both parities and repetitions occur."""
    return [rng.choices(range(-9, 16), k=rng.randint(3, 8)) for _ in range(count)]


def _results(operations: Sequence[Operation], lists: Sequence[list[int]]) -> list:
    """What the function returns for each: lists or numbers."""
    results = lists
    for _, expression in operations:
        results = map(_compiled(expression), results)
    return [*results]


@lru_cache
def _compiled(expression: str) -> Callable[[list[int]], list[int] | int]:
    return eval(f"lambda xs: {expression}")


_PROBES = _lists(random.Random(0), 40)
