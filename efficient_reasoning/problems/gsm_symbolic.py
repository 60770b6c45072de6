"""Grade-school word problems: reasoning-gym's `gsm_symbolic`, its worked solutions read into steps.

1. A problem is an item of reasoning-gym under a seed of its own, so a draw follows from the random generator alone.
   Its question stays as it is; its answer is verified as a number, where reasoning-gym's scorer takes several guesses.
2. The solution that comes with it is prose around equations (`60 questions x 50/100 = 30`). Each is read into binary
   operations on whole numbers: a decimal or percentage becomes a product and a quotient, divided where that is exact.
3. A problem is kept when all its equations are true, each of their numbers is in the question, is named by a word of
   it (`week`, `dozen`) or was computed before, and the last one gives the answer. Of its steps, those that lead to the
   answer are told.
4. The difficulty is the number of steps, 2 to 10. Redundancy falls with it: easy problems are checked over and over
   and worked through again, hard ones are mostly told once.
5. Problems are the same for the split when template and numbers are. `gym:gsm_symbolic` splits by question, and its
   test problems may have been trained on here.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

from efficient_reasoning.errors import BadInput
from efficient_reasoning.problems.chains import Operator, Step, Style, write_chain

_STEPS = range(2, 11)  # of a problem that is kept
_MANY = 6  # steps, from which redundancy falls no further
_REDUNDANCY = {2: 0.95, 3: 0.9, 4: 0.85, 5: 0.65, _MANY: 0.1}
_RECAP_PROBABILITY = {2: 0.95, 3: 0.9, 4: 0.7, 5: 0.3, _MANY: 0.05}

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
# The numbers that a word names, by its singular; 1 and 2 may go unnamed.
_NUMERALS = {"three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_UNITS = {"week": 7, "month": 30, "year": 12, "hour": 60, "minute": 60, "yard": 3, "dozen": 12, "quarter": 4}
_NAMED_NUMBERS = _NUMERALS | _UNITS | {"alphabet": 26, "percent": 100, "percentage": 100, "%": 100}

# What prose puts between the numbers of an equation, in order: thousands, currencies, other signs for an operation,
# "half" as a factor, units ("3 batches/hour", "5-day", "time(s)"), an unknown on both sides, a product without a sign.
_PROSE = [
    (re.compile(r"(?<=\d),(?=\d{3})|[£€$]"), ""),
    (re.compile(r"×|(?<=[\d%\s])x(?=\s*\d)"), "*"),
    (re.compile(r"÷"), "/"),
    (re.compile(r"\bhalf (?=\*)"), "1/2 "),
    (re.compile(r"/ ?[A-Za-z]+|(?<=\d)-(?=[a-z])|\([^\d()]*\)|\+ [A-Z]\b"), " "),
    (re.compile(r"(?<=\d)\("), "*("),
]
_TOKEN = re.compile(r"\d+(?:\.\d+)?%?|[-+*/()]|[,:;?!]|\.(?!\d)")
_CLAIM = re.compile(r"\D*?(\d+(?:\.\d+)?)(%?)")


class _Unreadable(Exception):
    """An equation that is false, or cannot be told in operations on whole numbers that the reader knows."""


def draw(rng: random.Random) -> dict:
    """One problem (the Problem contract without its id)."""
    while True:
        number, item = _item(rng.getrandbits(32))
        steps = read_solution(item["question"], item["metadata"]["answer_cot"], item["answer"])
        if steps is not None and len(steps) in _STEPS:
            return {
                "question": item["question"],
                "answer": str(steps[-1].value),
                "task": "numeric",
                "difficulty": len(steps),
                "metadata": {
                    "family": "gsm_symbolic",
                    "template": number,
                    "steps": [[step.left, step.operator, step.right] for step in steps],
                },
            }


def split_key(problem: dict) -> str:
    """The template and its numbers: other names and fruits do not make it a new problem."""
    return f"{problem['metadata']['template']} {' '.join(_NUMBER.findall(problem['question']))}"


def chain(problem: dict, style: Style, rng: random.Random) -> str:
    """A worked solution of the problem in the given style, ending in a line break."""
    operations = problem["metadata"]["steps"]
    lead_ins = ["First,", *["Then"] * (len(operations) - 2), "Finally,"]
    steps = [Step(*operation, lead_in) for operation, lead_in in zip(operations, lead_ins, strict=True)]
    difficulty = min(len(steps), _MANY)
    return write_chain(steps, style, rng, _REDUNDANCY[difficulty], steps, _RECAP_PROBABILITY[difficulty])


def _item(seed: int) -> tuple[int, dict]:
    """An item of reasoning-gym, after the number of the template that it fills."""
    try:
        from reasoning_gym.arithmetic import GSMSymbolicDataset, GSMSymbolicDatasetConfig
    except ImportError as error:
        raise BadInput(
            f"gsm_symbolic needs reasoning-gym ({error}): pip install 'efficient-reasoning[gym]'."
        ) from None
    dataset = GSMSymbolicDataset(GSMSymbolicDatasetConfig(seed=seed, size=1))
    return dataset.task_indices[0], dataset[0]


def read_solution(question: str, solution: str, answer: str) -> list[Step] | None:
    """The steps that a solution in prose takes to the answer; None when it cannot be followed (3. above)."""
    reader = _Reader(question)
    value = None
    try:
        for expression, claim in _equations(solution):
            value = reader.read(expression)
            if value != claim:
                return None
    except _Unreadable:
        return None
    if value is None or value != Fraction(answer):
        return None
    needed, operands = [], {value}
    for step in reversed(reader.steps):
        if step.value in operands:
            needed.append(step)
            operands |= {step.left, step.right}
    return needed[::-1] or None


def _equations(solution: str) -> Iterator[tuple[str, Fraction]]:
    """Every `expression = number` of a text, with an operation in the expression.

    A percent sign is a unit when the result has one too (`100% - 20% = 80%`), else hundredths (`270 * 20% = 54`).
    """
    for pattern, replacement in _PROSE:
        solution = pattern.sub(replacement, solution)
    for line in solution.partition("####")[0].splitlines():
        sides = line.split("=")
        for left, right in pairwise(sides):
            expression, claim = _expression_at_end(left), _CLAIM.match(right)
            if claim and not _NUMBER.fullmatch(expression.rstrip("%") or "0"):
                yield expression.replace("%", "" if claim[2] else "/100"), Fraction(claim[1])


def _expression_at_end(text: str) -> str:
    """The longest expression that a text ends in, its words left out."""
    taken: list[str] = []
    length = depth = 0
    needs_operand = True
    for token in reversed(_TOKEN.findall(text)):
        if needs_operand and token == ")":
            depth += 1
        elif needs_operand and token[0].isdigit():
            needs_operand = False
        elif not needs_operand and token == "(" and depth:
            depth -= 1
        elif not needs_operand and token in "+-*/":
            needs_operand = True
        else:
            break
        taken.append(token)
        if not needs_operand and not depth:
            length = len(taken)
    return "".join(reversed(taken[:length]))


def _exact(number: str) -> int | Fraction:
    """A number as it is written; reasoning-gym writes two thirds as 0.6666666666666666."""
    return int(number) if number.isdigit() else Fraction(number).limit_denominator(1000)


class _Reader:
    """Follows equations with what a question says and what it has computed before."""

    def __init__(self, question: str) -> None:
        plain = question.lower().replace(",", "")
        words = {word.removesuffix("s") for word in re.findall(r"[a-z]+|%", plain)}
        self.numbers = {_exact(number) for number in _NUMBER.findall(plain)}
        self.percentages = {int(number) for number in re.findall(r"(\d+)%", plain)}
        self.named = {1, 2, *(number for word, number in _NAMED_NUMBERS.items() if word in words)}
        self.steps: list[Step] = []

    def read(self, expression: str) -> int:
        """The value of an expression; its operations are added to the steps."""
        return self._value(ast.parse(expression, mode="eval").body)

    def _value(self, node: ast.expr) -> int:
        if isinstance(node, ast.Constant):
            number = _exact(str(node.value))
            computed = (step.value for step in self.steps)
            if number.denominator != 1 or not (number in self.numbers or number in self.named or number in computed):
                raise _Unreadable
            return int(number)
        if isinstance(node.op, ast.Mult | ast.Div):
            return self._product(self._factors(node))
        left, right = self._value(node.left), self._value(node.right)
        return self._do(left, "+" if isinstance(node.op, ast.Add) else "-", right)

    def _factors(self, node: ast.expr, divides: bool = False) -> list[tuple[int, bool]]:
        """The factors of a product, each with whether it divides. A decimal is two of them, the number 1 none."""
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div):
            right_divides = divides != isinstance(node.op, ast.Div)
            return [*self._factors(node.left, divides), *self._factors(node.right, right_divides)]
        number = _exact(str(node.value)) if isinstance(node, ast.Constant) else 0
        if number.denominator == 1:
            return [(self._value(node), divides)] if number != 1 else []
        above, below = self._ratio(number)
        return [(below, not divides), *([(above, divides)] if above != 1 else [])]

    def _ratio(self, decimal: Fraction) -> tuple[int, int]:
        """Hundredths where the question has it in percent, else in lowest terms."""
        if 100 * decimal in self.percentages:
            return int(100 * decimal), 100
        if decimal not in self.numbers and not self.named.issuperset(decimal.as_integer_ratio()):
            raise _Unreadable
        return decimal.as_integer_ratio()

    def _product(self, factors: list[tuple[int, bool]]) -> int:
        """Multiply in order, and divide as soon as it is exact."""
        value, divisors = None, []
        for factor, divides in factors:
            if divides:
                divisors.append(factor)
            else:
                value = factor if value is None else self._do(value, "*", factor)
            for divisor in [*divisors]:
                if value is not None and divisor and value % divisor == 0:
                    value = self._do(value, "/", divisor)
                    divisors.remove(divisor)
        if value is None or divisors:
            raise _Unreadable
        return value

    def _do(self, left: int, operator: Operator, right: int) -> int:
        step = Step(left, operator, right)
        if 0 in (left, right) or step.value < 0:
            raise _Unreadable
        self.steps.append(step)
        return step.value
