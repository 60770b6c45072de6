"""Where the steps of a response end, told from its ids alone: a verifier is trained at these ids, and asked there.

1. A step is a line of the thinking. It ends with the first id that brings a line break behind something said; what
   follows later changes nothing about that, so that a search can stop there and a verifier read the same beginning.
2. What follows the last line, the answer included, is one step more, and ends with the response.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from efficient_reasoning.inference.engine import Request
from efficient_reasoning.thinking import ThinkingFormat


def line_ends(thinking: ThinkingFormat, ids: Sequence[int], prompt_ids: Sequence[int] = ()) -> list[int]:
    """The places of the ids that end a line of the thinking, ascending; blank lines end nothing.

    Args:
        thinking: the model's delimiters.
        ids: a response, or the beginning of one.
        prompt_ids: which may have opened the block.
    """
    phases = thinking.phases(ids, prompt_ids)
    ends, said = [], False
    for place, (before, after) in enumerate(itertools.pairwise(phases)):
        if before != "thinking" or after != "thinking":
            said = False
            continue
        said |= ids[place] not in thinking.blank_ids
        if said and ids[place] in thinking.break_ids:
            ends.append(place)
            said = False
    return ends


def step_ends(thinking: ThinkingFormat, ids: Sequence[int], prompt_ids: Sequence[int] = ()) -> list[int]:
    """The places of the ids that end a step of a whole response, which is not empty: its lines, and its own end."""
    return sorted({*line_ends(thinking, ids, prompt_ids), len(ids) - 1})


def until_step(request: Request, thinking: ThinkingFormat) -> Request:
    """The same request, which ends with the next line break; thinking that closes before goes on to an answer."""
    return replace(request, stop_ids=thinking.break_ids)
