"""The steps of a chain as token ids: what is scored, dropped and counted is what the model wrote."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise

from efficient_reasoning.compression.chains import Unit, split_steps
from efficient_reasoning.overthinking import Reader

_EQUATION = re.compile(r"\d[^=\n]*=\s*\S*\d")


def split_step_ids(ids: Sequence[int], reader: Reader, unit: Unit | None = None) -> list[list[int]]:
    """Cut the ids of a chain where `split_steps` cuts its text; an id across a cut stays with the step before.

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
    return [list(ids[start:stop]) for start, stop in pairwise(stops)]


def count_equations(steps: Sequence[str]) -> int:
    """How many steps calculate something: the chain's length in steps, greetings and doubts left out."""
    return sum(_EQUATION.search(step) is not None for step in steps)
