"""L1: write into the prompt how long to think (LCPO, arXiv 2503.04697).

The sentences are those that the released L1 models were trained with. Here they name the budget less its reserve for
the answer, and the budget holds whatever the model makes of it, by budget forcing. A model that was never trained for
such prompts is not expected to follow them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.budget_forcing import ask
from efficient_reasoning.inference.strategy import Assignment, Steps, think_limit


@dataclass(frozen=True)
class L1Exact:
    """Ask for exactly as many tokens."""

    sentence: ClassVar[str] = "Think for {tokens} tokens."

    def solve(self, assignment: Assignment) -> Steps:
        """One request.

        Raises:
            BadInput: there is no budget to name, or it is not larger than its reserve for the answer.
        """
        if assignment.budget_tokens is None:
            raise BadInput("Strategies l1-exact and l1-max write the budget into the prompt; give budget_tokens.")
        think_tokens = think_limit(assignment)
        question = f"{assignment.question} {self.sentence.format(tokens=think_tokens)}"
        return (yield from ask(assignment, question, think_tokens))


@dataclass(frozen=True)
class L1Max(L1Exact):
    """Ask for at most as many tokens."""

    sentence: ClassVar[str] = "Think for maximum {tokens} tokens."
