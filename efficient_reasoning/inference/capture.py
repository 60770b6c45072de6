"""Functions of fixed shapes, captured in CUDA graphs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch


@functools.cache
def _warm_up_stream(device: int) -> torch.cuda.Stream:
    """The same each time, since what was allocated on one stream serves no other."""
    return torch.cuda.Stream(device)


def capture(
    function: Callable[[], object], pool: tuple[int, int] | None = None
) -> tuple[torch.cuda.CUDAGraph, object]:
    """A graph of the function, its memory out of `pool`, and what it returned: the tensors that every replay fills."""
    side = _warm_up_stream(torch.cuda.current_device())
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        result = function()
    return graph, result


class Captured:
    """A function of tensors that keep their shapes.

    Args:
        function: what it returns must be tensors, or hold some.
        inputs: of its first call.
        pool: of the graph's memory.
    """

    def __init__(self, function: Callable[..., object], inputs: Sequence[torch.Tensor], pool: tuple[int, int]):
        self.inputs = [tensor.clone() for tensor in inputs]
        self.graph, self.result = capture(lambda: function(*self.inputs), pool)

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """What every call fills anew."""
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.graph.replay()
        return self.result
