"""When a length reward counts: warm-up, gates by accuracy, a floor under the accuracy, and right above wrong.

A reward is C, for being correct, and a rest that depends on the length. Shaping weighs the rest, so that any formula
can be had with any of these; weight 0 leaves plain accuracy.

1. *Warm-up* (Kimi k1.5, arXiv 2501.12599): weight 0 for the first batches.
2. *Gates*: weight 0 for a batch less accurate than the best so far by more than a tolerance (Short-RL, arXiv
   2505.12284), or than a floor, or for all groups of a batch but the most accurate ones (GRPO-lambda, arXiv
   2505.18086).
3. *Floor* (A-DLP, arXiv 2505.18298): a weight that falls while the accuracy is below a floor, and rises again above
   it. A-DLP's has no upper end; this one begins at 1, and stays within 0 and 1.
4. *Order*: no wrong response earns more than the correct one of its group that earns least.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from efficient_reasoning.errors import BadInput, near

if TYPE_CHECKING:
    from efficient_reasoning.rewards import Rollouts

Gate = Literal["none", "batch", "groups", "floor"]


@dataclass
class Shaping:
    """What weighs the part of a reward that depends on the length. By default: nothing.

    Attributes:
        warmup_batches: first batches of responses in which only the accuracy counts.
        gate: "batch" or "groups" has to be accurate enough; "floor": the batch has to reach `accuracy_floor`.
        gate_tolerance: of "batch", how much less accurate than the best batch so far it may be.
        gate_share: of "groups", the share of a batch's groups, the most accurate ones, in which the length counts; of
            equally accurate ones those with the shorter responses.
        accuracy_floor: under which the weight falls, or is 0 at once with gate "floor"; None for no floor.
        floor_rate: change of the weight after a batch: this times accuracy minus floor.
        ordered: hold wrong responses under the correct ones.
        memory: of earlier batches, as JSON.
        pays_length: whether the length counted anywhere in the batch before.

    Raises:
        BadInput: a value that means nothing.
    """

    warmup_batches: int = 0
    gate: Gate = "none"
    gate_tolerance: float = 0.05
    gate_share: float = 0.2
    accuracy_floor: float | None = None
    floor_rate: float = 0.1
    ordered: bool = False
    memory: dict = field(default_factory=dict)
    pays_length: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        if type(self.warmup_batches) is not int or self.warmup_batches < 0:
            raise BadInput(f"warmup_batches is {self.warmup_batches!r}; give a whole number of at least 0.")
        if self.gate not in get_args(Gate):
            raise BadInput(f"gate is {self.gate!r}; choose {', '.join(get_args(Gate))}.")
        if self.gate == "floor" and self.accuracy_floor is None:
            raise BadInput("gate is floor, and there is none; give accuracy_floor.")
        if type(self.ordered) is not bool:
            raise BadInput(f"ordered is {self.ordered!r}; give true or false.")
        for name in ("gate_tolerance", "gate_share", "accuracy_floor", "floor_rate"):
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            is_left_out = value is None and name == "accuracy_floor"
            if not is_left_out and not (is_number and 0 <= value <= 1):
                raise BadInput(f"{name} is {value!r}; give a number between 0 and 1.")

    @classmethod
    def of(cls, settings: Mapping[str, object]) -> Shaping:
        """From a config.

        Raises:
            BadInput: a key that is none (near names are listed), or a value that means nothing.
        """
        known = [each.name for each in dataclasses.fields(cls) if each.init and each.name != "memory"]
        for name in settings:
            if name not in known:
                raise BadInput(f"reward_shaping has no {name!r}{near(str(name), known)}")
        return cls(**settings)

    @property
    def is_plain(self) -> bool:
        """Whether rewards stay what they are."""
        return not self.warmup_batches and self.gate == "none" and self.accuracy_floor is None and not self.ordered

    def __call__(self, rewards: np.ndarray, rollouts: Rollouts, everyone: Rollouts) -> np.ndarray:
        """The rewards (N,) of a batch, shaped; what it was like is remembered.

        Args:
            rewards: (N,) of the formula.
            rollouts: N responses of this process.
            everyone: those of all processes.
        """
        accuracy = float(everyone.correct.mean())
        batches = self.memory.get("batches", 0)
        best = max(accuracy, self.memory.get("best_accuracy", 0.0))
        moves = self.accuracy_floor is not None and self.gate != "floor"
        weight = self.memory.get("floor_weight", 1.0) if moves else 1.0
        counts = self._counts(rollouts, everyone, accuracy, best) & (batches >= self.warmup_batches)
        self.pays_length = bool(counts.any()) and weight > 0
        shaped = rollouts.correct + weight * np.where(counts, rewards - rollouts.correct, 0.0)
        self.memory = {"batches": batches + 1, "best_accuracy": best}
        if moves:
            moved = weight + self.floor_rate * (accuracy - self.accuracy_floor)
            self.memory["floor_weight"] = min(1.0, max(0.0, moved))
        return _in_order(shaped, rollouts) if self.ordered else shaped

    def _counts(self, rollouts: Rollouts, everyone: Rollouts, accuracy: float, best: float) -> np.ndarray:
        """Of which responses (N,) the length counts."""
        if self.gate == "batch":
            return np.full(len(rollouts.lengths), accuracy >= best - self.gate_tolerance)
        if self.gate == "floor":
            return np.full(len(rollouts.lengths), accuracy >= self.accuracy_floor)
        if self.gate == "groups":
            places = np.unique(everyone.groups, return_index=True)[1]
            ranks = _ranks(everyone)
            of_groups = sorted((ranks[place] for place in places), reverse=True)
            last = of_groups[max(1, round(self.gate_share * len(of_groups))) - 1]
            return np.array([rank >= last and rank[0] > 0 for rank in _ranks(rollouts)])
        return np.ones(len(rollouts.lengths), bool)


def _ranks(rollouts: Rollouts) -> list[tuple[float, float]]:
    """Of each response's group, N pairs: the more accurate come first, and of equally accurate ones the shorter."""
    accuracy = rollouts.per_group(lambda lengths, correct: correct.mean())
    length = rollouts.per_group(lambda lengths, correct: lengths.mean())
    return [*zip(accuracy.tolist(), (-length).tolist(), strict=True)]


def _in_order(rewards: np.ndarray, rollouts: Rollouts) -> np.ndarray:
    for group in np.unique(rollouts.groups):
        members = rollouts.groups == group
        right, wrong = members & (rollouts.correct > 0), members & (rollouts.correct == 0)
        if right.any():
            rewards = np.where(wrong, np.minimum(rewards, rewards[right].min()), rewards)
    return rewards
