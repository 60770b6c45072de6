"""exact and numeric: answers that can be compared as they stand.

1. exact ignores case, runs of white space and a final full stop, nothing else.
2. numeric takes the *last* number of the text and compares it exactly, as a fraction: 0.1 + 0.2 is 0.3, and 0.333 is
   not 1/3. It reads -7, 1,234.50, .5 and 3/4. A percent or currency sign is no part of the number (50% is 50), a
   hyphen after a word, digit or bracket is no minus (in "3-4" the last number is 4), and LaTeX wants the task math.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from fractions import Fraction

from efficient_reasoning.answers import fields
from efficient_reasoning.errors import BadInput

UNSIGNED = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
NUMBER = re.compile(rf"((?<![\w)\]])-)?({UNSIGNED})(?:\s*/\s*({UNSIGNED}))?", re.ASCII)
# A model in a loop writes digits without end; Python refuses to convert more than 4,300 of them.
_MAX_CHARACTERS = 1000
# What may stand between the first and the last digit of a number, and how much of it is looked at for the last one.
_INSIDE = string.digits + ",./ \t\n\r\f\v"
_MAX_RUN_CHARACTERS = 20_000


def extract_text(answer_text: str) -> str | None:
    """The text in lower case with single spaces and without a final full stop; None when nothing is left."""
    return " ".join(answer_text.split()).casefold().removesuffix(".") or None


def same_text(problem: Mapping, answer: str) -> bool:
    """Whether the text is the gold text."""
    return answer == extract_text(fields.gold(problem))


def last_number(text: str) -> Fraction | None:
    """The last number of the text; None when there is none, or none that is one (1/0)."""
    text = text.replace("\N{MINUS SIGN}", "-")
    end = 1 + max(map(text.rfind, string.digits))
    # No number reaches over other characters; before it stand its minus, and what tells whether that is a hyphen.
    start = len(text[:end].rstrip(_INSIDE)) - 2
    numbers = list(NUMBER.finditer(text[max(0, start, end - _MAX_RUN_CHARACTERS) : end]))
    if not numbers or len(numbers[-1].group()) > _MAX_CHARACTERS:
        return None
    minus, numerator, denominator = numbers[-1].groups()
    value, divisor = (Fraction((part or "1").replace(",", "")) for part in (numerator, denominator))
    if divisor == 0:
        return None
    return (-value if minus else value) / divisor


def extract_number(answer_text: str) -> str | None:
    """The last number in lowest terms: "1,000.0" gives "1000", "0.50" gives "1/2"."""
    number = last_number(answer_text)
    return None if number is None else str(number)


def same_number(problem: Mapping, answer: str) -> bool:
    """Whether the number is the (last) number of the gold answer."""
    gold = last_number(fields.gold(problem))
    if gold is None:
        raise BadInput(f"{fields.place(problem)}: no number in the answer {problem['answer']!r}; use another task.")
    return Fraction(answer) == gold
