"""The most memory that a process takes in training: the model's states, and over them the activations of a step.

1. Without DeepSpeed weights, gradients and Adam's two moments are in fp32; autocast casts the weights to bf16 as they
   are used, which backward keeps, or with checkpointing makes again layer by layer.
2. Under DeepSpeed's bf16 weights and gradients take two bytes, master weights and moments twelve. ZeRO
   (arXiv 1910.02054) shares among the processes first these (stage 1), then the gradients (2), then the weights (3).
   Stage 3 gathers what is in use, a billion parameters at most (`stage3_max_live_parameters`).
3. Gradients grow while activations go. Only where steps accumulate do all of both meet.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from efficient_reasoning.training.activations import Activations

_MOST_LIVE = 10**9
_OFFLOADS = ("offload_optimizer", "offload_param")


class Zero(NamedTuple):
    """What a file of DeepSpeed's settings shares out, and what it keeps in the memory of the host."""

    stage: int
    offloads_states: bool
    offloads_weights: bool

    @classmethod
    def of(cls, path: str) -> Zero:
        settings = json.loads(Path(path).read_text(encoding="utf-8")).get("zero_optimization", {})
        offloads = ((settings.get(name) or {}).get("device", "none") != "none" for name in _OFFLOADS)
        return cls(settings.get("stage", 0), *offloads)


class States(NamedTuple):
    """Bytes of a process: weights, their copies in bf16, gradients, and what the optimizer keeps."""

    weights: float
    copies: float
    gradients: float
    moments: float


def model_states(parameters: int, trained: int, bf16: bool, with_reference: bool = False) -> States:
    """In fp32, of one process that holds all of them; a reference is a frozen copy of the weights."""
    return States(parameters * (4 + 4 * with_reference), parameters * 2 * bool(bf16), trained * 4, trained * 8)


def sharded_states(
    parameters: int, trained: int, bf16: bool, with_reference: bool, zero: Zero, processes: int
) -> States:
    """Of one of several processes under DeepSpeed."""
    size = 2 if bf16 else 4
    weights = parameters * size * (1 + with_reference)
    if zero.stage == 3:
        weights = weights / processes * (not zero.offloads_weights) + min(parameters, _MOST_LIVE) * size
    gradients = trained * size / (processes if zero.stage >= 2 else 1)
    moments = trained * 12 / (processes if zero.stage >= 1 else 1)
    if zero.offloads_states:
        gradients, moments = 0, 0
    return States(weights, 0, gradients, moments)


def peak_bytes(states: States, step: Activations, num_layers: int, checkpointing: bool, accumulating: bool) -> float:
    """The largest of three moments: at the loss, in the last layer's backward pass, and in the first's.

    Args:
        states: of the process.
        step: activations of one micro batch.
        num_layers: among which copies and what is kept are spread.
        checkpointing: whether copies are made layer by layer.
        accumulating: whether gradients of an earlier micro batch are there.
    """
    earlier = states.gradients * accumulating
    at_work = states.copies / num_layers
    moments = (
        step.kept + states.copies + step.loss + earlier,
        step.kept + (at_work if checkpointing else states.copies) + step.backward + earlier,
        step.kept / num_layers + at_work + step.backward + states.gradients,
    )
    return states.weights + states.moments + max(moments)
