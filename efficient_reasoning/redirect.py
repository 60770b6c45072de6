"""Losses that are no forward pass of the model, seen by whatever is wrapped around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from trl.models.utils import _ForwardRedirection


def through_forward(accelerator: Accelerator, model: torch.nn.Module, function: Callable, *arguments: Any) -> Any:
    """`function(plain, *arguments)`, called in place of the forward pass of the model.

    DistributedDataParallel and DeepSpeed prepare and gather what they see pass through their own forward. The forward
    that the function takes the place of is the one that accelerate casts in, so the precision is asked for here.

    Args:
        accelerator: that wrapped the model.
        model: as wrapped.
        function: what it is given first is the model without its wrapper.
        arguments: the rest.
    """
    plain = accelerator.unwrap_model(model)
    with accelerator.autocast():
        return _ForwardRedirection()(model, plain, function, plain, *arguments)
