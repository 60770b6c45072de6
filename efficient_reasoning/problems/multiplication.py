"""Products of two numbers of as many digits, as implicit chain-of-thought training has them (arXiv 2405.14838).

1. `7 6 9 2 * 1 6 3 6`: digits are spaced and the least significant comes first (2967 times 6361), so that carries go
   the way that a model reads.
2. The chain is long multiplication: the product with each digit of the right number, and from the second on, in
   brackets, the sum so far; the last sum is the answer. Place i (from 0) has N + 1 + i digits, leading zeros and all,
   so that N alone gives the length of chain and answer, and tokens saved are an exact share.
3. There is nothing to shorten in it by rewording: all styles of chain are the same. `metadata.steps` has a line for
   each digit.
4. `file:` reads the paper's own files, `question||chain #### answer`, and finds the same text there.
5. The difficulty is the number of digits. Problems are the same for the split when their two numbers are, in either
   order.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from efficient_reasoning.problems.chains import Style


@dataclass(frozen=True)
class Multiplication:
    """Products of two numbers of `digits` digits."""

    digits: int

    def draw(self, rng: random.Random) -> dict:
        """One problem (the Problem contract without its id)."""
        left, right = (rng.randrange(10 ** (self.digits - 1), 10**self.digits) for _ in range(2))
        return self.problem(left, right)

    def problem(self, left: int, right: int) -> dict:
        """The problem of two given numbers."""
        steps, total = [], 0
        for place, digit in enumerate(reversed(str(right))):
            width = self.digits + 1 + place
            product = left * int(digit) * 10**place
            total += product
            steps.append(f"+ {_spaced(product, width)} ( {_spaced(total, width)} )")
        steps[0] = _spaced(left * (right % 10), self.digits + 1)
        steps[-1] = steps[-1].partition(" (")[0]
        return {
            "question": f"{_spaced(left)} * {_spaced(right)}",
            "answer": _spaced(total, 2 * self.digits),
            "task": "exact",
            "difficulty": self.digits,
            "metadata": {"family": f"multiplication_{self.digits}", "steps": steps},
        }

    def split_key(self, problem: dict) -> str:
        """The two numbers: turning them round does not make it a new problem."""
        return " * ".join(sorted(problem["question"].split(" * ")))

    def chain(self, problem: dict, style: Style, rng: random.Random) -> str:
        """The worked solution, ending in a line break; the same in every style."""
        return " ".join(problem["metadata"]["steps"]) + "\n"


FAMILIES = {f"multiplication_{digits}": Multiplication(digits) for digits in (4, 5, 7, 9)}


def _spaced(number: int, width: int = 0) -> str:
    """67, 3 -> 7 6 0"""
    return " ".join(reversed(str(number).zfill(width)))
