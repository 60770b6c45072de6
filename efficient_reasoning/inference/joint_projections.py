"""Projections that read the same input, as one matrix product.

A step of a small model waits for launches more than for arithmetic: queries, keys and values in one product, and gate
and up in another, take a third of the time of five. The weights move into one matrix of which the parameters become
views, so that names, saving and changes in place stay as they are.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import linear

_GROUPS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # in the order in which they are called


def join_projections(model: nn.Module) -> int:
    """Compute each group of projections at once; returns how many groups were joined."""
    joined = 0
    for module in list(model.modules()):
        for names in _GROUPS:
            parts = [getattr(module, name, None) for name in names]
            if all(type(part) is nn.Linear for part in parts) and len({_reads(part) for part in parts}) == 1:
                joint = _Joint(parts)
                for place, (name, part) in enumerate(zip(names, parts, strict=True)):
                    setattr(module, name, _Part(joint, place, part))
                joined += 1
    return joined


def _reads(part: nn.Linear) -> tuple:
    return part.in_features, part.bias is None, part.weight.dtype, part.weight.device


class _Joint:
    """The matrix of a group, and what it has computed that nobody has asked for yet."""

    def __init__(self, parts: list[nn.Linear]):
        self.sizes = [part.out_features for part in parts]
        self.weight = torch.cat([part.weight.detach() for part in parts])
        self.bias = None if parts[0].bias is None else torch.cat([part.bias.detach() for part in parts])
        self.computed: tuple[torch.Tensor, ...] | None = None


class _Part(nn.Linear):
    """One of a group: the first computes for all, the others take what is theirs."""

    def __init__(self, joint: _Joint, place: int, part: nn.Linear):
        super().__init__(part.in_features, part.out_features, part.bias is not None, device="meta")
        self.joint, self.place = joint, place
        self.weight = nn.Parameter(joint.weight.split(joint.sizes)[place], part.weight.requires_grad)
        if part.bias is not None:
            self.bias = nn.Parameter(joint.bias.split(joint.sizes)[place], part.bias.requires_grad)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            return super().forward(states)  # gradients are the parameters'
        joint = self.joint
        if self.place == 0:
            joint.computed = linear(states, joint.weight, joint.bias).split(joint.sizes, -1)
        own = joint.computed[self.place]
        if self.place == len(joint.sizes) - 1:
            joint.computed = None
        return own
