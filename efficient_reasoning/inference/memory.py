"""A device's memory: how many rows it holds (measured, because architectures differ), and copies that do not wait."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import psutil
import torch

from efficient_reasoning.inference.slots import KeyValues, PromptCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.inference_mode()
def cache_bytes(model: PreTrainedModel) -> tuple[int, int]:
    """Bytes that a row takes in the cache: those of each of its tokens, and those that every row takes, however long.

    Args:
        model: whose attention reads slots.
    """
    token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    cache = PromptCache(torch.ones(1, dtype=torch.long, device=model.device))
    prepared = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=model.device)  # a mask that is taken as it is
    model(
        input_ids=token,
        attention_mask=prepared,
        position_ids=token,
        past_key_values=cache,
        use_cache=True,
        slots=cache,
    )
    of_column = of_row = 0
    for layer in cache.layers:
        taken = sum(states.nbytes for states in layer)
        if isinstance(layer, KeyValues):
            of_column += taken
        else:
            of_row += taken
    return of_column, of_row


def free_bytes(device: torch.device) -> int:
    """What this process may still allocate on the device."""
    if device.type != "cuda":
        return psutil.virtual_memory().available
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    # Of a GPU that is shared out, others' free memory is not this process's.
    allowed = int(torch.cuda.get_per_process_memory_fraction(device) * total) - reserved
    return max(0, min(free, allowed)) + reserved - torch.cuda.memory_allocated(device)


def peak_bytes(device: torch.device) -> int:
    """The most that this process has held: allocated on a CUDA device, or else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def rows_that_fit(bytes_of_row: int, device: torch.device) -> int:
    """Rows that fill half of what is free: the other half is for activations and moves."""
    return max(1, free_bytes(device) // 2 // bytes_of_row)


def send(values: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Copy to the device without waiting for what it is doing, which only pinned memory allows."""
    if torch.device(device).type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
