"""Does a shorter chain of thought still say what the long one said? Checked are its numbers, where slips show.

1. Numbers are read without their signs, and equations between numbers ("48/2=24") are worked out. A result counts as
   right when it is so to its last digit: 10/3=3.33, 20/3=6.66 or 6.67.
2. A number is *invented* that stands neither in the question nor in the long chain, and is no right result of numbers
   that do. Whole numbers up to 12 may stand anywhere, for texts say them in words and count their steps with them,
   and so may 100 and 0.01, which a percent sign says.
3. A number is *lost* that the answer comes from: the answer itself, where the long chain states it, and going back
   from it the results that the right equations of the long chain made it of.
4. Whoever states an answer ("The answer is 73", boxed, behind ####) states the right one, also its sign, a fraction as
   such, and a letter or a formula as it is written.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

from efficient_reasoning.answers.matching import UNSIGNED, last_number

_NUMBER = re.compile(UNSIGNED, re.ASCII)
# Numbers, operators and signs; whatever else stands in an equation, it is not worked out.
_ARITHMETIC = re.compile(r"[\d.,+\-*/×÷·()$%€£ \t=]+", re.ASCII)
_PUNCTUATION = re.compile(r"[.,](?=\s|\Z)")
_PERCENT = re.compile(rf"({UNSIGNED})\s*%", re.ASCII)
_ITEM = re.compile(r"^[ \t*#-]*\d+[.):]\s", re.MULTILINE | re.ASCII)
_STATED = re.compile(r"(?:\banswer\b|####|\\boxed).*", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\{(.*)\}")
_SAID = re.compile(r"answer(?:\s+is)?:?\s+\(?([A-Za-z]|yes|no|true|false)\)?(?:[.,;!]|\s*\Z)", re.IGNORECASE)
_SPOKEN = frozenset(map(Fraction, [*range(13), 100])) | {Fraction(1, 100)}
_MAX_CHARACTERS = 200  # of an equation; digits without end come from models in loops
_OPERATIONS = {ast.Add: "__add__", ast.Sub: "__sub__", ast.Mult: "__mul__", ast.Div: "__truediv__"}


def unfaithful(short: str, long: str, question: str, answer: str) -> str | None:
    """What is wrong with a shorter chain, in the words that a report counts; None where it may stand for the long one.

    Args:
        short, long: the two chains.
        question: of the problem.
        answer: the text after the long chain, which will stand behind the short one too.
    """
    gold = last_number(answer)
    if _states_another(_STATED.findall(short), answer, gold):
        return "another answer"
    given = _numbers(question)
    known = given | _numbers(long) | _SPOKEN
    right = dict(_equations(short))
    invented = _numbers(short) - known
    while made := {result for result in invented if result in right and right[result] <= known}:
        known |= made
        invented -= made
    if invented:
        return "a number invented"
    if gold is None:
        sought = re.compile(rf"(?<!\w){re.escape(answer.strip(' $.').casefold())}(?!\w)")
        is_said = [sought.search(text.casefold()) for text in (long, short)]
        return "the answer lost" if is_said[0] and not is_said[1] else None
    return "a number lost" if _needed(abs(gold), long, given) - _numbers(short) else None


def _states_another(stated: Sequence[str], answer: str, gold: Fraction | None) -> bool:
    """Whether the last answer that is stated is not the one that was given."""
    boxed = [_BOXED.match(text) for text in stated]
    if boxed and boxed[-1] and _is_formula(answer):
        return _plain(boxed[-1][1]) != _plain(answer)
    if gold is None:
        said = [match[1] for text in stated if (match := _SAID.search(text))]
        return bool(said) and _plain(said[-1]) != _plain(answer)
    numbers = [text for text in stated if _NUMBER.search(text)]
    if not numbers or last_number(numbers[-1]) == gold:
        return False
    return gold < 0 or (gold.denominator > 1 and "/" in answer) or gold not in _numbers(numbers[-1])


def _is_formula(answer: str) -> bool:
    """Whether there is more to it than a number: a variable, a command of LaTeX."""
    return bool(re.search(r"[A-Za-z^\\]", answer)) and len(answer) <= _MAX_CHARACTERS and " " not in answer.strip()


def _plain(text: str) -> str:
    """Without what writers of the same answer differ in."""
    return re.sub(r"[\s$]|\.\Z", "", text).casefold()


def _needed(gold: Fraction, long: str, given: set[Fraction]) -> set[Fraction]:
    """The answer and the results it is made of, as far as the long chain says."""
    made_of: dict[Fraction, set[Fraction]] = {}
    for result, operands in _equations(long):
        made_of.setdefault(result, operands)  # the first time: a check of it comes later
    needed: set[Fraction] = set()
    left = [gold] if gold in _numbers(long) else []
    while left:
        number = left.pop()
        needed.add(number)
        left += made_of.get(number, set()) & made_of.keys() - given - needed
    return needed


def _numbers(text: str) -> set[Fraction]:
    text = _ITEM.sub("", text)
    return {_value(word) for word in _NUMBER.findall(text) if len(word) <= _MAX_CHARACTERS}


def _value(word: str) -> Fraction:
    return Fraction(word.replace(",", ""))


def _equations(text: str) -> Iterator[tuple[Fraction, set[Fraction]]]:
    """The right equations of a text that work something out: (result, numbers on the other side)."""
    arithmetic = (part for run in _ARITHMETIC.findall(_ITEM.sub("", text)) for part in _PUNCTUATION.split(run))
    for sides in (part.split("=") for part in arithmetic if "=" in part and len(part) <= _MAX_CHARACTERS):
        for left, right in itertools.pairwise(sides):
            written, value = right.strip(" \t$€£%"), _work_out(left)
            if value is None or not _NUMBER.fullmatch(written):
                continue
            excess = (abs(value) - _value(written)) * 10 ** len(written.partition(".")[2])
            if Fraction(-1, 2) <= excess < 1:  # rounded, or cut off
                yield _value(written), _numbers(left)


def _work_out(expression: str) -> Fraction | None:
    """The value of "12/60 * 50"; None of what is no arithmetic."""
    for signs, sign in (("×·", "*"), ("÷", "/"), ("$€£,", "")):
        expression = re.sub(f"[{signs}]", sign, expression)
    try:
        return _evaluate(ast.parse(_PERCENT.sub(r"(\1/100)", expression).strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def _evaluate(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float()):
            return Fraction(repr(node.value))  # as it is written: 0.1 is a tenth
        case ast.UnaryOp(op=ast.USub()):
            return -_evaluate(node.operand)
        case ast.BinOp() if type(node.op) in _OPERATIONS:
            return getattr(_evaluate(node.left), _OPERATIONS[type(node.op)])(_evaluate(node.right))
    raise ValueError
