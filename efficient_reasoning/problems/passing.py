"""Who has the ball after so many passes? As many steps as the question says, over facts of one length.

    Eva passes to Tom. Bob passes to Eva. Tom passes to Bob. Eva has the ball. Who has it after 2 passes?

1. People stand in a ring, each passes to the next, and the facts come in random order: every pass is one look-up, and
   none can be left out or guessed from another. So the difficulty, the number of passes, is the number of steps in a
   row, and questions of all difficulties are equally long.
2. `passing_N` has N people, and one to N - 1 passes: nobody has the ball twice. All styles of chain are the same, a
   fact a line; `metadata.steps` lists them.
3. Problems are the same for the split when their rings are, whatever the order of the facts, and whoever begins.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

from efficient_reasoning.problems.chains import Style
from efficient_reasoning.problems.graph_paths import NAMES


@dataclass(frozen=True)
class Passing:
    """Rings of `people`, of whom there are names for 17."""

    people: int

    def draw(self, rng: random.Random) -> dict:
        """One problem (the Problem contract without its id)."""
        ring = rng.sample(NAMES, self.people)
        passes = rng.randint(1, self.people - 1)
        way = ring[: passes + 1]
        facts = [_fact(*edge) for edge in pairwise([*ring, ring[0]])]
        steps = facts[:passes]
        rng.shuffle(facts)
        times = f"{passes} pass{'es' if passes > 1 else ''}"
        return {
            "question": f"{' '.join(facts)} {way[0]} has the ball. Who has it after {times}?",
            "answer": way[-1],
            "task": "exact",
            "difficulty": passes,
            "metadata": {"family": f"passing_{self.people}", "steps": steps},
        }

    def split_key(self, problem: dict) -> str:
        """The ring, from whoever comes first in the alphabet."""
        facts = problem["question"].split(". ")[: self.people]
        following = dict(fact.split(" passes to ") for fact in facts)
        ring = [min(following)]
        while len(ring) < self.people:
            ring.append(following[ring[-1]])
        return " ".join(ring)

    def chain(self, problem: dict, style: Style, rng: random.Random) -> str:
        """A fact a pass, each with a line break; the same in every style."""
        return "".join(f"{step}\n" for step in problem["metadata"]["steps"])


FAMILIES = {f"passing_{people}": Passing(people) for people in (8, 16)}


def _fact(source: str, target: str) -> str:
    return f"{source} passes to {target}."
