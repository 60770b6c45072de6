"""json: the last JSON object of the text equals the gold object, as a tool call or a structured answer must.

Objects are equal as JSON: the order of keys and 1.0 for 1 do not count; true is not 1, "1" is not 1, and lists have an
order. Text around the object, such as a code fence or a sentence, is no part of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from efficient_reasoning.answers import fields
from efficient_reasoning.errors import BadInput

_DECODER = json.JSONDecoder()
# From every brace on, a model in a loop may write an object that never ends.
_MAX_CHARACTERS = 20_000


def extract(answer_text: str) -> str | None:
    """The last outermost object in one spelling, so that equal objects are equal strings; None without one."""
    text, last, start = answer_text[-_MAX_CHARACTERS:], None, 0
    while (start := text.find("{", start)) >= 0:
        try:
            last, start = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            start += 1
    try:
        return None if last is None else _spell(last)
    except RecursionError:  # the decoder goes deeper than Python does
        return None


def check(problem: Mapping, answer: str) -> bool:
    """Whether the object is the gold one."""
    try:
        gold = json.loads(fields.gold(problem))
    except ValueError as error:
        raise BadInput(f"{fields.place(problem)}: the answer is not valid JSON ({error}); write an object.") from None
    if not isinstance(gold, dict):
        raise BadInput(f"{fields.place(problem)}: the answer is no JSON object; write one in braces.")
    return answer == _spell(gold)


def _spell(value: object) -> str:
    return json.dumps(_whole(value), sort_keys=True)


def _whole(value: object) -> object:
    """1.0 as 1, wherever it stands."""
    if isinstance(value, dict):
        return {key: _whole(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_whole(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
