"""math: is the boxed expression mathematically equal to the gold answer?

1. Only the last `\\boxed{}` of the text counts, so that a model cannot box several guesses; without one the answer is
   wrong. The gold answer may be boxed, in dollars, or bare LaTeX.
2. math-verify compares (`1/2` with `0.5`, `(x+1)^2` with `x^2+2x+1`, sets, intervals, matrices, units). Its own time
   limits are Python signals, which need the main thread and do not get through to a C call; they are switched off, and
   it runs in a process that can be killed (`killable.py`).
3. It reads words as products of letters: `cat` equals `tac`. Answers that are words want the task exact.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from efficient_reasoning.answers import fields, killable
from efficient_reasoning.errors import BadInput

TIMEOUT_SECONDS = 5.0

_BOXED = re.compile(r"\\boxed\s*\{")
_MAX_CHARACTERS = 20_000  # in the box; a model in a loop opens braces without end
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is a set's, and does not nest


def extract(answer_text: str) -> str | None:
    r"""The content of the last `\boxed{}`; None when there is none, or the last is empty, endless or never closed."""
    starts = [opening.end() for opening in _BOXED.finditer(answer_text)]
    if not starts:
        return None
    depth = 1
    for brace in _BRACE.finditer(answer_text, starts[-1], starts[-1] + _MAX_CHARACTERS):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return answer_text[starts[-1] : brace.start()].strip() or None
    return None


def check(problem: Mapping, answer: str) -> bool:
    """Whether the boxed expression equals the gold answer; False also when that takes too long to find out."""
    gold = fields.gold(problem)
    boxed_gold = extract(gold) or gold.strip().strip("$")
    return killable.ask("mathematics", [fields.place(problem), boxed_gold, answer], TIMEOUT_SECONDS)


def load() -> Callable[[str, str, str], bool]:
    """In the worker: import math-verify and return its comparison of two expressions."""
    try:
        import math_verify
    except ImportError as error:
        raise BadInput(f"Task math needs math-verify ({error}): pip install 'efficient-reasoning[math]'.") from None

    def parse(expression: str) -> list:
        return math_verify.parse(f"\\boxed{{{expression}}}", parsing_timeout=None)

    def equal(place: str, gold: str, answer: str) -> bool:
        parsed_gold = parse(gold)
        if not parsed_gold:
            raise BadInput(f"{place}: the answer {gold!r} cannot be read as mathematics; use another task.")
        return math_verify.verify(parsed_gold, parse(answer), timeout_seconds=None)

    return equal
