"""The steps of a chain as token ids: what is scored, dropped and counted is what the model wrote."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from efficient_reasoning.compression.chains import Unit, split_steps
from efficient_reasoning.overthinking import Reader

_DIGIT = re.compile(r"\d")


class Step(NamedTuple):
    """A step of a chain: its ids, and what they spell, with the white space behind it."""

    ids: list[int]
    text: str


def steps_of(ids: Sequence[int], reader: Reader, unit: Unit | None = None) -> list[Step]:
    """Cut a chain where `split_steps` cuts its text; an id across a cut stays with the step before.

    Args:
        ids: of the thinking, without delimiters.
        reader: of its tokenizer.
        unit: as for `split_steps`.
    """
    texts = reader.texts(ids)
    ends = list(accumulate(map(len, texts)))
    cuts = accumulate(map(len, split_steps("".join(texts), unit)))
    # Behind the first id that reaches the cut; two cuts within one id are one.
    stops = sorted({0, *(bisect_left(ends, cut) + 1 for cut in cuts)})
    return [Step(list(ids[start:stop]), "".join(texts[start:stop])) for start, stop in pairwise(stops)]


def without(steps: Sequence[Step], place: int, reader: Reader) -> list[Step]:
    """The chain without one of its steps; a line that this step ended is ended by the step before."""
    before, dropped, after = list(steps[:place]), steps[place], list(steps[place + 1 :])
    blank = dropped.text[len(dropped.text.rstrip()) :]
    if before and after and "\n" in blank and not before[-1].text.endswith("\n"):
        ids, text = before.pop()
        before.append(Step([*ids, *reader.thinking.tokenizer.encode(blank, add_special_tokens=False)], text + blank))
    return before + after


def count_calculating(steps: Sequence[str]) -> int:
    """How many steps hold an equation: a chain's length in steps, doubts and greetings left out."""
    return sum(map(_has_equation, steps))


def _has_equation(step: str) -> bool:
    """Whether an equals sign has a digit on either side in its line; each character is read once, also of nonsense."""
    for line in step.split("\n"):
        has_digit = [_DIGIT.search(side) is not None for side in line.split("=")]
        if any(left and right for left, right in pairwise(has_digit)):
            return True
    return False
