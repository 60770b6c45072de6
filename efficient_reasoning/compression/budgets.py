"""Budgets that rows ask for: their range, and the words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from efficient_reasoning.errors import BadInput


@dataclass(kw_only=True)
class BudgetArguments:
    """How many tokens are asked for, and how."""

    form: Literal["exact", "max"] = field(default="exact", metadata={"help": "Exactly so many tokens, or at most."})
    min_budget_tokens: int = field(default=100, metadata={"help": "Least number of tokens to ask for."})
    max_budget_tokens: int = field(default=4000, metadata={"help": "Greatest number of tokens to ask for."})

    def __post_init__(self) -> None:
        if not 1 <= self.min_budget_tokens <= self.max_budget_tokens:
            raise BadInput(
                f"min_budget_tokens is {self.min_budget_tokens} and max_budget_tokens {self.max_budget_tokens}; "
                "give a range of at least 1."
            )


def sentence_of(form: Literal["exact", "max"], budget_tokens: int) -> str:
    """What asks for a budget, in the words of the strategies `l1-exact` and `l1-max`."""
    from efficient_reasoning.inference.l1 import L1Exact, L1Max

    return {"exact": L1Exact, "max": L1Max}[form].sentence.format(tokens=budget_tokens)
