"""Chain of Draft: ask for a draft of five words a step (arXiv 2502.18600).

The sentence is the paper's system prompt, less its answer format: here the answer is what follows the thinking. A
budget holds whatever the model makes of it, by budget forcing.
"""

from __future__ import annotations

from dataclasses import dataclass

from efficient_reasoning.inference.budget_forcing import ask
from efficient_reasoning.inference.strategy import Assignment, Steps, think_limit

INSTRUCTION = "Think step by step, but only keep a minimum draft for each thinking step, with 5 words at most."


@dataclass(frozen=True)
class ChainOfDraft:
    """Put the instruction in front of the question."""

    def solve(self, assignment: Assignment) -> Steps:
        """One request.

        Raises:
            BadInput: the budget is not larger than its reserve for the answer.
        """
        return (yield from ask(assignment, f"{INSTRUCTION}\n{assignment.question}", think_limit(assignment)))
