"""Worked chains for the built-in families: the same arithmetic told in three lengths.

1. `equations` is the floor: one equation a step and not a word more.
2. `plain` says the same with a lead-in a step.
3. `verbose` is the overthinker: it checks a step with the inverse operation (probability `redundancy`, halved for each
   next check) and may work the whole problem through once more. Its *mode* is verbose, because redundancy drawn with
   p < 0.5 vanishes under greedy decoding.
4. A verbose step that needs a carry or a borrow forgets it in a fifth of the cases (about 8 % of all steps); the check
   that follows always repairs it. So checking is worth something: who cuts checks blindly pays in accuracy.
   Slips gather where the carries are, because an 8 % branch spread evenly would never survive T 0.6 with top-p 0.95.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Style = Literal["equations", "plain", "verbose"]
Operator = Literal["+", "-", "*", "/"]
SLIP_PROBABILITY = 0.2

_INVERSE: dict[Operator, Operator] = {"+": "-", "-": "+", "*": "/", "/": "*"}


@dataclass(frozen=True)
class Step:
    """One binary operation on whole numbers; `left / right` is exact."""

    left: int
    operator: Operator
    right: int
    lead_in: str = ""

    @property
    def value(self) -> int:
        match self.operator:
            case "+":
                return self.left + self.right
            case "-":
                return self.left - self.right
            case "*":
                return self.left * self.right
            case _:
                return self.left // self.right

    @property
    def slip(self) -> int | None:
        """The value when the carry or borrow of the last digit is forgotten; None when there is none to forget."""
        left, right = self.left % 10, self.right % 10
        match self.operator:
            case "+" if left + right >= 10:
                return self.value - 10
            case "-" if left < right:
                return self.value + 10
            case "*" if left * right >= 10:
                return self.value - 10
        return None

    def equation(self, value: int | None = None) -> str:
        return f"{self.left}{self.operator}{self.right}={self.value if value is None else value}"

    def check(self, value: int) -> str:
        """The inverse operation on a claimed `value`; it gives `left` back exactly when the claim is right.

        A wrong product may leave a remainder: 74/7=10r4.
        """
        inverse = Step(value, _INVERSE[self.operator], self.right)
        remainder = value % self.right if inverse.operator == "/" else 0
        verdict = "Yes." if (inverse.value, remainder) == (self.left, 0) else f"Not {self.left}."
        return f"{inverse.equation()}{f'r{remainder}' if remainder else ''}. {verdict}"


def write_chain(
    steps: Sequence[Step],
    style: Style,
    rng: random.Random,
    redundancy: float = 0.0,
    recap: Sequence[Step] = (),
    recap_probability: float = 0.0,
) -> str:
    """Tell `steps` in a style; one line a step, with a line break at the end.

    Args:
        steps: the operations, in order.
        style: "equations", "plain" or "verbose".
        rng: draws checks, slips and the recap (verbose only).
        redundancy: probability that a step is checked at all; each further check is half as likely as the last.
        recap: the operations of a second way through the problem.
        recap_probability: how often the recap is written.
    """
    if style == "equations":
        return "".join(f"{step.equation()}\n" for step in steps)
    if style == "plain":
        return "".join(f"{step.lead_in} {step.equation()}.\n" for step in steps)
    lines = [_verbose_line(step, rng, redundancy) for step in steps]
    if rng.random() < recap_probability:
        lines.append(f"Let me redo it: {', '.join(step.equation() for step in recap)}. The same.\n")
    return "".join(lines)


def _verbose_line(step: Step, rng: random.Random, redundancy: float) -> str:
    if step.slip is not None and rng.random() < SLIP_PROBABILITY:
        repair = f"Wait, check: {step.check(step.slip)} So {step.equation()}."
        return f"{step.lead_in} {step.equation(step.slip)}. {repair}\n"
    parts = [f"{step.lead_in} {step.equation()}."]
    opening = "Wait, check:"
    while rng.random() < redundancy:
        parts.append(f"{opening} {step.check(step.value)}")
        opening = "Once more:"
        redundancy /= 2
    return " ".join(parts) + "\n"
