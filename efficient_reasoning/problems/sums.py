"""Running sums and differences: `Compute 34 + 27 - 15 + 88.`

Three to six terms up to 99, no running total below zero; the difficulty is the number of terms. Too long to do in one
go, so a model needs its thinking here. Redundancy falls as problems get harder.
"""

from __future__ import annotations

import random

from efficient_reasoning.problems.chains import Step, Style, write_chain

_REDUNDANCY = {3: 0.95, 4: 0.9, 5: 0.83, 6: 0.75}
_RECAP_PROBABILITY = {3: 0.7, 4: 0.5, 5: 0.25, 6: 0.1}


def draw(rng: random.Random) -> dict:
    """One problem (the Problem contract without its id)."""
    terms = rng.randint(3, 6)
    total = rng.randint(1, 99)
    signed = [total]
    for _ in range(terms - 1):
        term = rng.randint(1, 99)
        if rng.random() < 0.5 and total >= term:
            term = -term
        total += term
        signed.append(term)
    expression = str(signed[0]) + "".join(f" {'+' if term > 0 else '-'} {abs(term)}" for term in signed[1:])
    return {
        "question": f"Compute {expression}.",
        "answer": str(total),
        "task": "numeric",
        "difficulty": terms,
        "metadata": {"family": "sums", "terms": signed},
    }


def split_key(problem: dict) -> str:
    """What makes two problems the same when they are split into train, validation and test."""
    return problem["question"]


def chain(problem: dict, style: Style, rng: random.Random) -> str:
    """A worked solution of the problem in the given style, ending in a line break."""
    signed = problem["metadata"]["terms"]
    steps, total = [], signed[0]
    for place, term in enumerate(signed[1:]):
        lead_in = "First," if place == 0 else "Finally," if place == len(signed) - 2 else "Then"
        steps.append(Step(total, "+" if term > 0 else "-", abs(term), lead_in))
        total = steps[-1].value
    terms = len(signed)
    return write_chain(steps, style, rng, _REDUNDANCY[terms], steps, _RECAP_PROBABILITY[terms])
