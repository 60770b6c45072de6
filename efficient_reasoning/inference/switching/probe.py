"""A probe: from the last hidden state behind a question to how often two modes would solve it.

1. ThinkSwitcher (arXiv 2505.14183) predicts the pass rates of a fast and a slow mode from the question alone, and
   takes the slow one where it promises more. The two may also be a small and a large model (RouteLLM, arXiv
   2406.18665).
2. The probe is linear, a logistic regression of each pass rate on the standardised state: problems with known pass
   rates are a few thousand at most. How strongly its weights are drawn to 0 is chosen by cross-validation.
3. Its file knows the weights that it was fitted on, and the threshold that was calibrated for it.

Legend: N problems, D width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.nn.functional import binary_cross_entropy_with_logits

from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import atomic_file
from efficient_reasoning.inference.engine import Engine, Rated, Rating

_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # half of one times the squared weights, beside the mean loss
_FOLDS = 5


@dataclass(frozen=True)
class Probe:
    """Predicts the pass rates of the fast and the slow mode.

    Attributes:
        weight: (2, D), of states as they come.
        bias: (2,).
        weights: fingerprint of the model whose states it reads; None of a model of the Hub.
        threshold: gain of the slow mode above which it is taken.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    weights: str | None
    threshold: float

    def predict(self, states: torch.Tensor) -> torch.Tensor:
        """Pass rates (N, 2), the fast mode's first, of states (N, D).

        Raises:
            BadInput: states of another width.
        """
        if states.shape[1] != self.weight.shape[1]:
            raise BadInput(
                f"The probe reads states {self.weight.shape[1]} wide, and this model's are {states.shape[1]}; fit one "
                "on this model."
            )
        return (states @ self.weight.T + self.bias).sigmoid()

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all."""
        header = {"weights": self.weights or "", "threshold": repr(self.threshold)}
        with atomic_file(path, "wb") as file:
            file.write(save({"weight": self.weight.contiguous(), "bias": self.bias}, header))

    @classmethod
    def load(cls, path: str | Path) -> Probe:
        """Read a file that `save` wrote.

        Raises:
            BadInput: it is missing, or none.
        """
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                return cls(
                    file.get_tensor("weight"),
                    file.get_tensor("bias"),
                    header["weights"] or None,
                    float(header["threshold"]),
                )
        except (OSError, KeyError, ValueError, SafetensorError):
            raise BadInput(f"{path}: no probe; fit one with `efficient-reasoning train fit_probe`.") from None


@dataclass(frozen=True)
class ProbeRater:
    """Rates questions: `values` are the pass rates that a probe predicts. `begin` means nothing to it.

    Args:
        probe: reads states.
        engine: makes them; with HIDDEN.
    """

    probe: Probe
    engine: Engine

    def rate(self, ratings: Sequence[Rating]) -> list[Rated]:
        read = self.engine.read([rating.ids for rating in ratings])
        predicted = self.probe.predict(torch.stack([one.state for one in read])).tolist()
        return [
            Rated(values, dataclasses.replace(one.spend, rated_tokens=len(rating.ids)))
            for values, one, rating in zip(predicted, read, ratings, strict=True)
        ]


def fit(states: torch.Tensor, rates: torch.Tensor, weights: str | None = None) -> Probe:
    """The probe that predicts pass rates best, with a threshold of 0.

    Args:
        states: (N, D), of at least 10 problems.
        rates: (N, 2), in [0, 1].
        weights: see `Probe`.

    Raises:
        BadInput: too few problems.
    """
    if len(states) < 2 * _FOLDS:
        raise BadInput(f"{len(states)} problems have both modes' pass rates; sample at least {2 * _FOLDS}.")
    mean, scale = states.mean(0), states.std(0)
    # What differs by rounding alone says nothing: divided by infinity, its weight stays 0.
    scale = scale.masked_fill(scale <= 1e-5 * mean.abs().clamp(min=0.1), torch.inf)
    inputs = (states - mean) / scale
    fold = torch.arange(len(states)) % _FOLDS

    def held_out(penalty: float) -> float:
        losses = []
        for one in range(_FOLDS):
            weight, bias = _regress(inputs[fold != one], rates[fold != one], penalty)
            logits = inputs[fold == one] @ weight.T + bias
            losses.append(float(binary_cross_entropy_with_logits(logits, rates[fold == one])))
        return sum(losses)

    weight, bias = _regress(inputs, rates, min(_PENALTIES, key=held_out))
    weight = weight / scale
    return Probe(weight, bias - weight @ mean, weights, 0.0)


def _regress(inputs: torch.Tensor, rates: torch.Tensor, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (2, D) and biases (2,) of least loss."""
    weight = torch.zeros(2, inputs.shape[1], requires_grad=True)
    bias = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        total = binary_cross_entropy_with_logits(inputs @ weight.T + bias, rates) + penalty / 2 * weight.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    return weight.detach(), bias.detach()


@dataclass(frozen=True)
class SwitchPoint:
    """What a switch comes to at a threshold.

    Attributes:
        threshold: gain above which the slow mode is taken.
        slow_share: of the problems.
        accuracy, cost: means over problems.
    """

    threshold: float
    slow_share: float
    accuracy: float
    cost: float


def sweep(gains: np.ndarray, fast: np.ndarray, slow: np.ndarray) -> list[SwitchPoint]:
    """The points of all thresholds that differ, from the fast mode alone to the slow one alone.

    Args:
        gains: (N,) predicted.
        fast, slow: (N, 2), accuracy and cost of each mode on each problem.
    """
    order = np.argsort(-gains, kind="stable")
    taken = np.concatenate([np.zeros((1, 2)), (slow - fast)[order].cumsum(0)]) + fast.sum(0)  # (N + 1, 2)
    # Behind the k-th problem the threshold is the gain of the next one, which is not above itself.
    thresholds = np.append(gains[order], gains.min() - 1)
    return [
        SwitchPoint(float(thresholds[count]), count / len(gains), *map(float, taken[count] / len(gains)))
        for count in range(len(gains) + 1)
        if count in (0, len(gains)) or thresholds[count] != thresholds[count - 1]
    ]
