"""agrees_with_base: for logs without gold answers, does the answer say what most of the base model's answers say?

1. `metadata.base_answers` holds K sampled answer texts of the base. Each votes for its final answer, the majority is
   the reference, and a tie goes to the answer that was seen first. Empty texts do not vote.
2. A text's final answer is the content of its last `\\boxed{}` or, without one, its last number or, without that, all
   of it. Case, white space and the spelling of numbers (1,000.0) do not count.
   Answers in prose hardly ever agree word by word: they want the task judge.
3. Agreement is not correctness: it shows what a change of the model *changed*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from efficient_reasoning.answers import fields, matching, mathematics


def extract(answer_text: str) -> str | None:
    """The normalised final answer; None when the text is empty."""
    boxed = mathematics.extract(answer_text)
    if boxed is None or matching.NUMBER.fullmatch(boxed):
        return matching.extract_number(boxed or answer_text) or matching.extract_text(answer_text)
    return matching.extract_text(boxed)


def check(problem: Mapping, answer: str) -> bool:
    """Whether the answer is the base model's majority answer; False when no sample of the base has one."""
    samples = fields.texts(problem, "base_answers", "a list of sampled answers of the base model")
    votes = Counter(final for final in map(extract, samples) if final is not None)
    return bool(votes) and answer == max(votes, key=votes.get)  # the first of equals: a Counter keeps its order
