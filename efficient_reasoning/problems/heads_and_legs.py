"""The chicken-and-rabbit puzzle: so many heads, so many legs, how many rabbits?

Up to 300 heads; the difficulty is 1 up to 30 heads, 2 up to 100, 3 above. One subtraction and a halving answer it, so
a model can do without thinking, and all thinking here is overthinking: what adaptive thinking is for.
"""

from __future__ import annotations

import random

from efficient_reasoning.problems.chains import Step, Style, write_chain

MAX_HEADS = 300
_REDUNDANCY = {1: 0.95, 2: 0.9, 3: 0.8}
_RECAP_PROBABILITY = {1: 0.7, 2: 0.5, 3: 0.3}


def draw(rng: random.Random) -> dict:
    """One problem (the Problem contract without its id)."""
    heads = rng.randint(2, MAX_HEADS)
    rabbits = rng.randint(0, heads)
    legs = 2 * heads + 2 * rabbits
    asked = rng.choice(("rabbits", "chickens"))
    return {
        "question": f"Chickens and rabbits: {heads} heads and {legs} legs. How many {asked}?",
        "answer": str(rabbits if asked == "rabbits" else heads - rabbits),
        "task": "numeric",
        "difficulty": 1 if heads <= 30 else 2 if heads <= 100 else 3,
        "metadata": {"family": "heads_and_legs", "heads": heads, "legs": legs, "asked": asked},
    }


def split_key(problem: dict) -> str:
    """The farm: asking for the other animal does not make it a new problem."""
    return f"{problem['metadata']['heads']} {problem['metadata']['legs']}"


def chain(problem: dict, style: Style, rng: random.Random) -> str:
    """A worked solution of the problem in the given style, ending in a line break."""
    heads, legs, asked = (problem["metadata"][key] for key in ("heads", "legs", "asked"))
    rabbits = legs // 2 - heads
    steps = [
        Step(heads, "*", 2, "If all were chickens:"),
        Step(legs, "-", 2 * heads, "Extra legs:"),
        Step(2 * rabbits, "/", 2, "Two extra each, so rabbits:"),
    ]
    if asked == "chickens":
        steps.append(Step(heads, "-", rabbits, "So chickens:"))
    chickens = heads - rabbits
    recap = [Step(rabbits, "*", 4), Step(chickens, "*", 2), Step(4 * rabbits, "+", 2 * chickens)]
    difficulty = problem["difficulty"]
    return write_chain(steps, style, rng, _REDUNDANCY[difficulty], recap, _RECAP_PROBABILITY[difficulty])
