"""Which measured setting to use for so much a problem.

1. Runs over the same problems are laid side by side: every (strategy, budget) is a point with a mean cost, in
   generated tokens, floating-point operations or seconds.
2. A point fits when the upper end of the interval of its mean cost is within the budget: the mean of other problems is
   to be, too. Of seconds, which depend on the machine more than on the problems, the mean has to do.
3. Of those that fit the most accurate is chosen, the cheapest of equals. It becomes an operating point in the
   checkpoint's `reasoning.json`, which the strategy `planned` follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from efficient_reasoning.checkpoint import ReasoningMetadata, weights_fingerprint
from efficient_reasoning.config import split_parameters
from efficient_reasoning.errors import BadInput
from efficient_reasoning.evaluation.summary import read_summary
from efficient_reasoning.traces import budget_label

_COSTS = {"tokens": "generated_tokens", "flops": "flops", "seconds": "seconds_per_problem"}
_WITHOUT_FLOPS = ("vllm", "openai", "mock")  # backends that do not know their model
_SAME = ("problems_fingerprint", "weights", "temperature", "top_p", "top_k", "max_new_tokens")


@dataclass(frozen=True)
class PlannedPoint:
    """A measured setting beside a budget.

    Attributes:
        run: folder that measured it.
        strategy, budget_tokens: the setting; None is no budget.
        accuracy: a share.
        total_tokens: mean length of a response.
        cost, most: mean cost of a problem, and the upper end of its interval.
        fits: `most` is within the budget.
    """

    run: str
    strategy: str
    budget_tokens: int | None
    accuracy: float
    total_tokens: float
    cost: float
    most: float
    fits: bool


@dataclass(frozen=True)
class Plan:
    """The choice for a budget.

    Attributes:
        unit: "tokens", "flops" or "seconds".
        budget: most that a problem may cost, as a mean.
        points: all that were measured, the cheapest first.
        chosen: one of them.
    """

    unit: str
    budget: float
    points: list[PlannedPoint]
    chosen: PlannedPoint

    def __str__(self) -> str:
        lines = [f"{'':2}{'strategy':<48}{'budget':>12}{'accuracy':>10}{self.unit:>12}{'at most':>12}"]
        for point in self.points:
            mark = "*" if point is self.chosen else " " if point.fits else "-"
            lines.append(
                f"{mark:2}{point.strategy:<48}{budget_label(point.budget_tokens):>12}{point.accuracy:>10.1%}"
                f"{point.cost:>12.4g}{point.most:>12.4g}"
            )
        return "\n".join([*lines, f"* chosen for {self.budget:g} {self.unit} a problem; - takes more"])

    def save(self, model: str | Path) -> None:
        """Make the choice an operating point of a local checkpoint, in place of an earlier one for that budget.

        Raises:
            BadInput: no checkpoint of this toolkit, or not the one that was measured.
        """
        metadata = ReasoningMetadata.load(model)
        if metadata is None:
            raise BadInput(
                f"{model}: has no reasoning.json to write the plan into; name a folder that a recipe saved."
            )
        measured = read_summary(self.chosen.run)["config"]["weights"]
        if measured != weights_fingerprint(str(model)):
            raise BadInput(f"{self.chosen.run}: measured other weights than those in {model}; evaluate that folder.")
        planned_for = {self.unit: self.budget}
        others = [point for point in metadata.operating_points if point.get("planned_for") != planned_for]
        names = ("strategy", "budget_tokens", "accuracy", "total_tokens")
        chosen = {name: getattr(self.chosen, name) for name in names}
        metadata.operating_points = [*others, chosen | {"planned_for": planned_for}]
        metadata.save(model)


def plan(runs: Sequence[str | Path], budget: float, unit: str = "tokens") -> Plan:
    """Choose the setting for a budget.

    Args:
        runs: folders that `evaluate` wrote, of one model over one set of problems.
        budget: most that a problem may cost, as a mean.
        unit: "tokens", generated ones, "flops" or "seconds".

    Raises:
        BadInput: runs that do not belong together, that hold nothing to plan with, or whose operations are not known;
            or a budget below what the cheapest setting takes.
    """
    points: list[PlannedPoint] = []
    first: Mapping | None = None
    others: dict[str, str] = {}  # what strategies name beside the model
    for run in map(str, runs):
        summary = read_summary(run)
        config = summary["config"]
        first = first or config
        differing = [name for name in _SAME if config.get(name) != first.get(name)]
        if differing:
            raise BadInput(
                f"{run}: differs from {runs[0]} in {', '.join(differing)}; plan with runs that agree in it."
            )
        for path, fingerprint in config.get("others", {}).items():
            if others.setdefault(path, fingerprint) != fingerprint:
                raise BadInput(f"{run}: {path} was another when {runs[0]} was measured; evaluate with it again.")
        if unit == "flops" and config.get("backend") in _WITHOUT_FLOPS:
            raise BadInput(
                f"{run}: backend {config['backend']} does not know what its model takes in operations; plan for "
                "tokens or seconds, or evaluate with graph or transformers."
            )
        points += [
            _point(run, point, budget, _COSTS[unit])
            for point in summary["points"]
            if split_parameters(point["strategy"])[0] != "planned"  # which cannot be planned with
        ]
    if not points:
        raise BadInput(f"{runs[0]}: holds points of planned alone, which follow a plan; evaluate other strategies.")
    points.sort(key=lambda point: point.cost)
    fitting = [point for point in points if point.fits]
    if not fitting:
        least = min(points, key=lambda point: point.most)
        raise BadInput(
            f"A budget of {budget:g} {unit} is below what the cheapest setting takes: {least.strategy}, "
            f"{budget_label(least.budget_tokens)}, up to {least.most:.4g}; give more."
        )
    return Plan(unit, budget, points, max(fitting, key=lambda point: (point.accuracy, -point.cost)))


def _point(run: str, point: Mapping, budget: float, name: str) -> PlannedPoint:
    cost = point[name]
    most = cost.get("high", cost["mean"])
    return PlannedPoint(
        run,
        point["strategy"],
        point["budget_tokens"],
        point["accuracy"]["mean"],
        point["total_tokens"]["mean"],
        cost["mean"],
        most,
        most <= budget,
    )
