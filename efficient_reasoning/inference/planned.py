"""Following a plan: the setting that `efficient-reasoning plan` wrote into the checkpoint for a mean budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.reasoner import Reasoner
from efficient_reasoning.inference.strategy import Assignment, Bound, Steps


@dataclass(frozen=True)
class Planned:
    """Solve with the setting that was planned.

    Args:
        tokens, flops, seconds: the budget of the plan that is meant, where the checkpoint has several.
    """

    tokens: float | None = None
    flops: float | None = None
    seconds: float | None = None

    def setting(self, reasoner: Reasoner) -> Mapping:
        """The `strategy` and the `budget_tokens` that were planned.

        Raises:
            BadInput: there is no such plan, or several.
        """
        points = reasoner.metadata.operating_points if reasoner.metadata is not None else []
        plans = [point for point in points if "planned_for" in point]
        asked = {unit: budget for unit, budget in vars(self).items() if budget is not None}
        meant = [point for point in plans if not asked or point["planned_for"] == asked]
        if len(meant) != 1:
            written = ", ".join(
                f"planned?{unit}={budget:g}" for point in plans for unit, budget in point["planned_for"].items()
            )
            remedy = f"name one of {written}" if written else "write one with `efficient-reasoning plan`"
            raise BadInput(f"{reasoner.name} has {len(meant)} plans like that; {remedy}.")
        return meant[0]

    def bind(self, reasoner: Reasoner) -> Bound:
        """Raise BadInput as `setting`, or for what the strategy that was planned asks for and cannot have."""
        point = self.setting(reasoner)
        inner = reasoner.strategy(point["strategy"])

        def solve(assignment: Assignment) -> Steps:
            limits = [] if assignment.budget_tokens is None else [assignment.budget_tokens]
            if point["budget_tokens"] is not None:  # which held the latents, too, when it was measured
                limits.append(point["budget_tokens"] - assignment.latents)
            return inner.solve(replace(assignment, budget_tokens=min(limits, default=None)))

        return Bound(solve)
