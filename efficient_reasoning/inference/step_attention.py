"""Attention over slots: each row reads the cache columns that are its own, and no others.

1. The rows of a `SlotCache` end at one column and begin at columns of their own, so a length a row says it all. On
   CUDA a Triton kernel walks exactly those columns, with the query heads of a group side by side; elsewhere SDPA gets
   a mask, and the heads of a group as query positions, so that grouped keys and values are never repeated.
2. Prompts are padded on the left; their lengths, too, say it all. Nothing here asks the device for a value, so that
   both can be captured.

Legend: R rows, H query heads, K key-value heads, G = H / K heads of a group, D head dimension, C columns, N prompts,
P longest prompt, Q of its columns that are computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.slots import PromptCache, SlotCache

try:
    import triton
    import triton.language as tl
except ImportError:  # the CPU builds of torch come without it
    triton = None

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "efficient_reasoning_slots"
# The fastest of 64 on an H100, for heads of 64 and rows of 140 tokens; 64 columns and four warps take 5 % longer.
_BLOCK, _WARPS, _STAGES = 16, 1, 4


def use_slots(model: PreTrainedModel) -> None:
    """Replace the attention of a model, or leave it as it is.

    Raises:
        BadInput: some layer does not get what is said to the model's `forward`.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    slots = PromptCache(torch.ones(1, dtype=torch.long, device=model.device))
    with torch.inference_mode():
        model(
            input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device),
            position_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device),
            use_cache=False,
            slots=slots,
        )
    if slots.asked != model.config.get_text_config().num_hidden_layers:
        model.set_attn_implementation(before)
        raise BadInput(f"Backend graph cannot decode {model.config.model_type}; use transformers.")


def slot_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    slots: SlotCache | PromptCache | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface.

    With a `SlotCache`: query (R, H, 1, D), key and value (R, K, C, D) -> (R, 1, H, D).
    With `PromptCache`: query (N, H, Q, D), key and value (N, K, P, D) -> (N, Q, H, D); of the last Q columns.
    Without slots, as for anyone else who uses the model, it is SDPA under `attention_mask`.

    Raises:
        BadInput: attention with soft-capped logits or sinks, which a step does not know.
    """
    if slots is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, sliding_window=sliding_window, **kwargs
        )
    for name in ("softcap", "s_aux"):
        if kwargs.get(name) is not None:
            raise BadInput(f"{type(module).__name__} uses {name}, which slots cannot decode; load with transformers.")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = sliding_window or key.shape[2]
    if isinstance(slots, PromptCache):
        slots.asked += 1
        return _attend_prompts(query, key, value, slots.lengths, scale, window), None
    if query.is_cuda:
        return _attend_on_gpu(query, key, value, slots.lengths, slots.column, scale, window), None
    return _attend(query, key, value, slots.lengths[: len(query)], scale, window), None


def _attend_prompts(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: torch.Tensor, scale: float, window: int
) -> torch.Tensor:
    width, group = key.shape[2], query.shape[1] // key.shape[1]
    columns = torch.arange(width, device=query.device)
    behind = columns[width - query.shape[2] :, None] - columns  # (Q, P)
    own = (behind >= 0) & (behind < window) & (columns >= width - lengths[:, None, None])  # (N, Q, P)
    own = own | (behind == 0)  # padding looks at itself: a softmax over nothing is not a number
    key, value = (states.repeat_interleave(group, dim=1) for states in (key, value))
    return scaled_dot_product_attention(query, key, value, attn_mask=own[:, None], scale=scale).transpose(1, 2)


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    window: int,
) -> torch.Tensor:
    rows, heads, _, dim = query.shape
    behind = torch.arange(key.shape[2] - 1, -1, -1, device=query.device)  # (C,): the last column is the step's
    own = behind < lengths.clamp(max=window)[:, None]  # (R, C)
    grouped = query.view(rows, key.shape[1], -1, dim)  # (R, K, G, D)
    out = scaled_dot_product_attention(grouped, key, value, attn_mask=own[:, None, None], scale=scale)
    return out.reshape(rows, 1, heads, dim)


def _attend_on_gpu(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: torch.Tensor,
    column: torch.Tensor,
    scale: float,
    window: int,
) -> torch.Tensor:
    rows, heads, _, dim = query.shape
    kv_heads = key.shape[1]
    group = heads // kv_heads
    query = query.reshape(rows, heads, dim)
    out = torch.empty_like(query)
    _attend_kernel[(rows, kv_heads)](
        query,
        key,
        value,
        out,
        lengths,
        column,
        scale,
        window,
        key.stride(0),
        key.stride(1),
        key.stride(2),
        group=group,
        group_block=max(16, triton.next_power_of_2(group)),
        dim=dim,
        dim_block=max(16, triton.next_power_of_2(dim)),
        block=_BLOCK,
        num_warps=_WARPS,
        num_stages=_STAGES,
    )
    return out[:, None]


if triton is not None:

    @triton.jit
    def _attend_kernel(
        query,
        key,
        value,
        out,
        lengths,
        column,
        scale: tl.constexpr,
        window,
        row_stride,
        head_stride,
        column_stride,
        group: tl.constexpr,
        group_block: tl.constexpr,
        dim: tl.constexpr,
        dim_block: tl.constexpr,
        block: tl.constexpr,
    ):
        """One program a row and key-value head: online softmax over the row's own columns."""
        row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
        end = tl.load(column) + 1
        length = tl.minimum(tl.load(lengths + row), window)
        d = tl.arange(0, dim_block)
        g = tl.arange(0, group_block)
        in_dim = d < dim
        of_query = (row * tl.num_programs(1) + head) * group * dim + g[:, None] * dim + d[None, :]
        in_query = (g < group)[:, None] & in_dim[None, :]
        q = tl.load(query + of_query, mask=in_query, other=0.0)
        base = row * row_stride + head * head_stride
        highest = tl.full((group_block,), float("-inf"), tl.float32)
        total = tl.zeros((group_block,), tl.float32)
        summed = tl.zeros((group_block, dim_block), tl.float32)
        for offset in range(0, length, block):
            columns = end - length + offset + tl.arange(0, block)
            own = columns < end
            of_block = base + columns[:, None] * column_stride + d[None, :]
            readable = own[:, None] & in_dim[None, :]
            k = tl.load(key + of_block, mask=readable, other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
            scores = tl.where(own[None, :], scores, float("-inf"))
            new_highest = tl.maximum(highest, tl.max(scores, 1))
            weights = tl.exp(scores - new_highest[:, None])
            decay = tl.exp(highest - new_highest)
            v = tl.load(value + of_block, mask=readable, other=0.0)
            summed = summed * decay[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
            total = total * decay + tl.sum(weights, 1)
            highest = new_highest
        result = summed / total[:, None]
        tl.store(out + of_query, result.to(q.dtype), mask=in_query)


AttentionInterface.register(NAME, slot_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)  # of prompts
