"""System switch: one model with two modes, and a choice between them before it begins.

1. `control-switch` asks the model itself: with the probability of an empty block, one that was trained to choose
   (AdaptThink, arXiv 2505.13417) says that it need not think.
2. `probe-switch` asks a probe of the question's last hidden state, which predicts the pass rate of either mode
   (ThinkSwitcher, arXiv 2505.14183).
3. Both say what thinking would gain. Where that is above the threshold the model thinks, else it answers at once. To
   ask costs one reading of the question, which is charged.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.budget_forcing import BudgetForcing
from efficient_reasoning.inference.engine import HIDDEN, SCORE, Likelihood, Rating
from efficient_reasoning.inference.no_thinking import NoThinking
from efficient_reasoning.inference.others import check_latents
from efficient_reasoning.inference.reasoner import Reasoner
from efficient_reasoning.inference.strategy import Assignment, Bound, Steps, think_limit
from efficient_reasoning.inference.switching.probe import Probe, ProbeRater


@dataclass(frozen=True)
class ControlSwitch:
    """Think where the model would not leave the block empty.

    Args:
        threshold: probability of thinking above which it does, in [0, 1].
    """

    needs: ClassVar[frozenset[str]] = frozenset({SCORE})

    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise BadInput(f"threshold is {self.threshold}; give a probability.")

    def bind(self, reasoner: Reasoner) -> Bound:
        """Raise BadInput for a model that thinks in latents."""
        check_latents(reasoner, "control-switch")
        likelihood = Likelihood(reasoner.engine)

        def ask(assignment: Assignment) -> Rating:
            thinking, prompt_ids = assignment.thinking, assignment.prompt_ids
            ids = [*prompt_ids, *thinking.close([], prompt_ids)]
            offset = len(thinking.open(prompt_ids))
            return Rating(ids, len(prompt_ids) + offset, likelihood, offset)

        def gain(values: list[float]) -> float:
            return 1 - math.exp(sum(values))

        return Bound(functools.partial(_solve, ask, gain, self.threshold))


@dataclass(frozen=True)
class ProbeSwitch:
    """Think where a probe promises a gain.

    Args:
        probe: file that `efficient-reasoning train fit_probe` wrote.
        threshold: pass rate gained by thinking above which the model does; that of the file by default.
    """

    needs: ClassVar[frozenset[str]] = frozenset({HIDDEN})

    probe: str
    threshold: float | None = None

    def bind(self, reasoner: Reasoner) -> Bound:
        """Raise BadInput for a model that thinks in latents, or another than the probe was fitted on."""
        check_latents(reasoner, "probe-switch")
        probe = load_probe(self.probe, reasoner)
        rater = ProbeRater(probe, reasoner.engine)
        threshold = probe.threshold if self.threshold is None else self.threshold
        return Bound(functools.partial(_solve, lambda assignment: question(assignment, rater), slow_gain, threshold))


def load_probe(path: str, reasoner: Reasoner) -> Probe:
    """A probe of this model.

    Raises:
        BadInput: no probe, or that of another model.
    """
    probe = Probe.load(path)
    if probe.weights and reasoner.weights and probe.weights != reasoner.weights:
        raise BadInput(f"{path} was fitted on another model than {reasoner.name}; fit one on this.")
    return probe


def question(assignment: Assignment, rater: ProbeRater) -> Rating:
    """What a probe is shown of a problem."""
    return Rating(assignment.prompt_ids, len(assignment.prompt_ids), rater)


def slow_gain(values: list[float]) -> float:
    """What the slow mode's pass rate is above the fast one's."""
    fast, slow = values
    return slow - fast


def _solve(
    ask: Callable[[Assignment], Rating], gain: Callable[[list[float]], float], threshold: float, assignment: Assignment
) -> Steps:
    """One rating, and the response of one mode.

    Raises:
        BadInput: the budget is not larger than its reserve for the answer.
    """
    think_limit(assignment)  # whichever mode it will be
    [rated] = yield [ask(assignment)]
    mode = BudgetForcing() if gain(rated.values) > threshold else NoThinking()
    response = yield from mode.solve(assignment)
    response.spend += rated.spend
    return response
