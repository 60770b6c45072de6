"""gym:NAME: the scorers of reasoning-gym.

1. The problem carries its reasoning-gym entry (question, answer, metadata) in `metadata.entry`; the answer is the last
   `<answer>...</answer>` of the text, or all of it.
2. Many scorers give partial credit, some of them 0.01 to any text at all. Only 1.0 is correct.
3. Scorers crash on odd answers, hand them to sympy, or to `eval`. So they run confined in a process that can be killed
   (`killable.py`), and an exception from the scorer means, deliberately, that this answer is wrong.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from efficient_reasoning.answers import fields, killable
from efficient_reasoning.errors import BadInput, near

PREFIX = "gym:"
TIMEOUT_SECONDS = 5.0

_OPEN, _CLOSE = "<answer>", "</answer>"
# Scorers of reasoning-gym 0.1.25 that take wrong answers for right: any text at all, and "0" for every probability.
_REFUSED = {"game_of_life_halting": "exact", "coin_flip": "numeric"}
_COMPARES_TUPLES = {"arc_agi", "rearc"}  # with the expected board, whose tuples a JSONL file turned into lists


def extract(answer_text: str) -> str | None:
    """The last tagged answer, or the whole text; None when that is empty."""
    answer, end = answer_text, 0
    # Not an expression: of a loop that only opens tags, it would look for the end behind each of them.
    while (start := answer_text.find(_OPEN, end)) >= 0 and (end := answer_text.find(_CLOSE, start)) >= 0:
        answer = answer_text[start + len(_OPEN) : end]
    return answer.strip() or None


def check(problem: Mapping, answer: str) -> bool:
    """Whether the scorer gives the answer full credit."""
    name = problem["task"].removeprefix(PREFIX)
    if name in _REFUSED:
        raise BadInput(
            f"{fields.place(problem)}: its scorer takes wrong answers for right; use task {_REFUSED[name]}."
        )
    entry = fields.metadata(problem, "entry", "the reasoning-gym entry")
    if not isinstance(entry, Mapping) or not {"question", "answer", "metadata"} <= entry.keys():
        raise BadInput(f"{fields.place(problem)}: metadata.entry lacks question, answer or metadata; put all there.")
    return killable.ask("gym", [name, answer, dict(entry)], TIMEOUT_SECONDS)


def load() -> Callable[[str, str, dict], bool]:
    """In the worker: import reasoning-gym and return its test for full credit, f(data set's name, answer, entry)."""
    try:
        from reasoning_gym.factory import DATASETS, get_score_answer_fn
    except ImportError as error:
        raise BadInput(f"Task gym needs reasoning-gym ({error}): pip install 'efficient-reasoning[gym]'.") from None
    known = set(DATASETS) - {"composite"}  # an entry of a composite names its own source in metadata.source_dataset
    scorer_of = functools.cache(get_score_answer_fn)

    def full_credit(name: str, answer: str, entry: dict) -> bool:
        if name not in known:
            raise BadInput(f"Unknown reasoning-gym data set {name!r}{near(name, known)}")
        if name in _COMPARES_TUPLES:
            entry["metadata"]["output"] = tuple(map(tuple, entry["metadata"]["output"]))
        return scorer_of(name)(answer, entry) >= 1.0 - 1e-9

    return full_credit
