"""Which of the measured points one would use: the most accurate, the cheapest without loss, and what lies between.

1. A point costs all that its strategy spends, thrown-away tokens included, not only the response that it keeps.
2. "Without loss" is what `compare` marks with `=`: not proven to be worse, and the lower bound of the paired accuracy
   change is at least -1 point.
3. A point is on the front when no other one is as accurate with fewer tokens, or more accurate with as many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from efficient_reasoning.config import split_parameters
from efficient_reasoning.evaluation.metrics import dominates
from efficient_reasoning.evaluation.statistics import mark_of, paired_bootstrap
from efficient_reasoning.files import read_jsonl

_BEST, _LOSSLESS, _FRONT = "best accuracy", "fewest tokens without loss", "on the front"


@dataclass(frozen=True)
class OperatingPoint:
    """A setting to use.

    Attributes:
        purpose: what it is the best for.
        strategy, budget_tokens: the setting; None is no budget.
        accuracy: a share.
        total_tokens: mean length of a response.
        spent_tokens: mean of all that was decoded or forced for a problem.
    """

    purpose: str
    strategy: str
    budget_tokens: int | None
    accuracy: float
    total_tokens: float
    spent_tokens: float

    def as_dict(self) -> dict:
        """The entry of reasoning.json."""
        names = ("strategy", "budget_tokens", "accuracy", "total_tokens")
        return {name: getattr(self, name) for name in names}


def operating_points(run: str | Path, summary: Mapping) -> list[OperatingPoint]:
    """The points of a run that are worth using, each once, the most accurate first.

    Args:
        run: folder with the samples.jsonl of the summary.
    """
    points = list(summary["points"])
    best = max(points, key=lambda point: (point["accuracy"]["mean"], -_cost(point)))
    purposes = {_key(best): _BEST}
    lossless = _cheapest_without_loss(Path(run), points, best)
    if lossless is not None:
        purposes[_key(lossless)] = _LOSSLESS
    places = {_place(point) for point in points if _key(point) in purposes}
    for point in points:
        place = _place(point)
        # Of points that are equal, because a budget never came into play, the first will do.
        if place not in places and not any(dominates(_place(other), place) for other in points):
            purposes[_key(point)] = _FRONT
            places.add(place)
    chosen = [point for point in points if _key(point) in purposes]
    return [
        OperatingPoint(
            purposes[_key(point)],
            point["strategy"],
            point["budget_tokens"],
            point["accuracy"]["mean"],
            point["total_tokens"]["mean"],
            _cost(point),
        )
        for point in sorted(chosen, key=lambda point: (-point["accuracy"]["mean"], _cost(point)))
    ]


def plain_control(points: Sequence[OperatingPoint]) -> str:
    """What a program without this toolkit should put behind a question: the control of the best point in its reach.

    The cheapest without loss comes first, then the most accurate, then others; those with a budget, which it cannot
    keep, come last. No text where the best of them takes none, or where all need more than a question.
    """
    order = [_LOSSLESS, _BEST, _FRONT]
    for point in sorted(points, key=lambda point: (point.budget_tokens is not None, order.index(point.purpose))):
        name, parameters = split_parameters(point.strategy)
        if name in ("control", "budget-forcing"):
            return parameters.get("text", "")
    return ""


def _key(point: Mapping) -> tuple[str, int | None]:
    return point["strategy"], point["budget_tokens"]


def _cost(point: Mapping) -> float:
    return point["spent_tokens"]["mean"]


def _place(point: Mapping) -> tuple[float, float]:
    return _cost(point), point["accuracy"]["mean"]


def _cheapest_without_loss(run: Path, points: list[Mapping], best: Mapping) -> Mapping | None:
    """None where nothing cheaper than the best is proven to be as good."""
    cheaper = sorted((point for point in points if _cost(point) < _cost(best)), key=_cost)
    if not cheaper:
        return None
    correct = _correct(run)
    problems = sorted(correct[_key(best)])
    for point in cheaper:
        arms = ([float(np.mean(correct[_key(one)][name])) for name in problems] for one in (best, point))
        if mark_of(paired_bootstrap(*arms, problems, share=True)) == "=":
            return point
    return None


def _correct(run: Path) -> dict[tuple, dict[str, list[bool]]]:
    """Of each point, whether the samples of each problem were correct."""
    correct: dict[tuple, dict[str, list[bool]]] = {}
    for sample in read_jsonl(run / "samples.jsonl"):
        of_point = correct.setdefault((sample["strategy"], sample["budget_tokens"]), {})
        of_point.setdefault(sample["id"], []).append(sample["correct"])
    return correct
