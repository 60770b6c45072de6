"""Linearized attention over rows of constant size: what `hybrid_attention` computes, a token at a time and in place.

1. A row keeps its last W keys and values, each at its position modulo W, and the sums over all before them. A step
   writes its own key, attends, and adds the key that leaves the window to the sums: its place is the next step's.
2. On CUDA one Triton kernel reads each state once, for the query heads of a group side by side, and writes it back;
   elsewhere the same is said in torch. Nothing asks the device for a value, so that a step can be captured.

Legend: R rows, H query heads, K key-value heads, G = H / K, D head size, F = 2 D features, W window, N prompts, P
longest prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # the CPU builds of torch come without it
    triton = None

if TYPE_CHECKING:
    from efficient_reasoning.linear.modeling_linearized import LinearizedAttention

_WARPS = 4


class WindowState(NamedTuple):
    """What linearized attention keeps of R rows (or N prompts).

    Attributes:
        keys, values: (R, K, W, D), those of a position at its remainder by W.
        sums: (R, K, F, D) float32 of phi(k) v^T over all keys but the last W - 1.
        norms: (R, K, F) float32 of phi(k) over the same.
    """

    keys: torch.Tensor
    values: torch.Tensor
    sums: torch.Tensor
    norms: torch.Tensor


def attend_prompts(
    layer: LinearizedAttention, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, WindowState]:
    """The outputs (N, H, P, D) of prompts that are padded on the left, and what stays of them.

    Args:
        layer: whose window, feature maps and gate they are.
        query: (N, H, P, D).
        key, value: (N, K, P, D).
        lengths: (N,) of the prompts.
    """
    window, width = layer.config.sliding_window, key.shape[2]
    query, key = query.to(value.dtype), key.to(value.dtype)
    columns = torch.arange(width, device=key.device)
    output, (sums, norms) = layer.attend(query, key, value, columns >= width - lengths[:, None])
    slots = torch.arange(window, device=key.device)
    last = lengths[:, None] - 1
    position = last - (last - slots) % window  # (N, W): the last one that has this remainder
    # Of a prompt shorter than the window some are below 0, and whatever stands there is not looked at.
    column = (width - lengths[:, None] + position).clamp(min=0)[:, None, :, None].expand(-1, key.shape[1], -1, -1)
    held = (states.gather(2, column.expand(-1, -1, -1, states.shape[3])) for states in (key, value))
    return output, WindowState(*held, sums, norms)


def attend_step(
    layer: LinearizedAttention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    held: WindowState,
    lengths: torch.Tensor,
) -> torch.Tensor:
    """The outputs (R, H, 1, D) of a step, behind which `held` has its token as well.

    Args:
        layer: whose feature maps and gate they are.
        query: (R, H, 1, D).
        key, value: (R, K, 1, D).
        held: of these rows; changes in place.
        lengths: (R,) of the rows, this token included.
    """
    window = held.keys.shape[2]
    query, key = query.to(value.dtype), key.to(value.dtype)
    row = torch.arange(len(query), device=query.device)
    place = (lengths - 1) % window
    held.keys[row, :, place] = key[:, :, 0]
    held.values[row, :, place] = value[:, :, 0]
    leaving = lengths % window  # the oldest key that this token sees
    leaves = (lengths >= window)[:, None, None]
    old = layer.key_map(held.keys[row, :, leaving][:, :, None])[:, :, 0] * leaves  # (R, K, F)
    features = layer.query_map(query)[:, :, 0]  # (R, H, F)
    if query.is_cuda:
        return _attend_on_gpu(query, held, features, old, lengths, layer.gate, layer.scaling)
    grouped = query.view(len(query), key.shape[1], -1, query.shape[3])  # (R, K, G, D)
    features = features.view(*grouped.shape[:3], -1)
    gate = layer.gate.float().view(key.shape[1], -1)  # (K, G)
    scores = (grouped @ held.keys.transpose(2, 3)).float() * layer.scaling  # (R, K, G, W)
    seen = torch.arange(window, device=query.device) < lengths[:, None]
    scores = scores.masked_fill(~seen[:, None, None], -torch.inf)
    weights = (scores - scores.amax(-1, keepdim=True)).exp() * (-gate).sigmoid()[..., None]
    gate = gate.sigmoid()
    summed = (weights.to(held.values.dtype) @ held.values).float() + gate[..., None] * (features @ held.sums)
    total = weights.sum(-1) + gate * (features @ held.norms[..., None])[..., 0]
    held.sums.add_(old[..., None] * held.values[row, :, leaving].float()[:, :, None])
    held.norms.add_(old)
    return (summed / total[..., None]).to(query.dtype).view(query.shape)


def _attend_on_gpu(
    query: torch.Tensor,
    held: WindowState,
    features: torch.Tensor,
    old: torch.Tensor,
    lengths: torch.Tensor,
    gate: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    rows, heads, _, dim = query.shape
    kv_heads, window = held.keys.shape[1:3]
    group = heads // kv_heads
    query = query.reshape(rows, heads, dim)
    out = torch.empty_like(query)
    _step_kernel[(rows, kv_heads)](
        query,
        held.keys,
        held.values,
        held.sums,
        held.norms,
        features.contiguous(),
        old.contiguous(),
        lengths,
        gate.float().contiguous(),
        out,
        scaling,
        window=window,
        window_block=max(16, triton.next_power_of_2(window)),
        group=group,
        group_block=max(16, triton.next_power_of_2(group)),
        dim=dim,
        dim_block=max(16, triton.next_power_of_2(dim)),
        features_block=max(16, triton.next_power_of_2(2 * dim)),
        num_warps=_WARPS,
    )
    return out[:, :, None]


if triton is not None:

    @triton.jit
    def _step_kernel(
        query,
        keys,
        values,
        sums,
        norms,
        features,
        old,
        lengths,
        gates,
        out,
        scaling: tl.constexpr,
        window: tl.constexpr,
        window_block: tl.constexpr,
        group: tl.constexpr,
        group_block: tl.constexpr,
        dim: tl.constexpr,
        dim_block: tl.constexpr,
        features_block: tl.constexpr,
    ):
        """One program a row and key-value head: its window, then its state, which it reads and writes once."""
        row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
        own = row * tl.num_programs(1) + head
        length = tl.load(lengths + row)
        d, g = tl.arange(0, dim_block), tl.arange(0, group_block)
        w, f = tl.arange(0, window_block), tl.arange(0, features_block)
        in_dim, in_group, in_features = d < dim, g < group, f < 2 * dim
        seen = (w < window) & (w < length)
        of_query = (own * group + g)[:, None] * dim + d[None, :]
        in_query = in_group[:, None] & in_dim[None, :]
        q = tl.load(query + of_query, mask=in_query, other=0.0)
        of_window = (own * window + w)[:, None] * dim + d[None, :]
        in_window = seen[:, None] & in_dim[None, :]
        k = tl.load(keys + of_window, mask=in_window, other=0.0)
        v = tl.load(values + of_window, mask=in_window, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scaling
        scores = tl.where(seen[None, :], scores, float("-inf"))
        gate = tl.sigmoid(tl.load(gates + head * group + g, mask=in_group, other=0.0))
        weights = tl.exp(scores - tl.max(scores, 1)[:, None]) * (1 - gate)[:, None]
        summed = tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        total = tl.sum(weights, 1)
        of_features = (own * group + g)[:, None] * (2 * dim) + f[None, :]
        phi = tl.load(features + of_features, mask=in_group[:, None] & in_features[None, :], other=0.0)
        of_state = (own * (2 * dim) + f)[:, None] * dim + d[None, :]
        in_state = in_features[:, None] & in_dim[None, :]
        state = tl.load(sums + of_state, mask=in_state, other=0.0)
        norm = tl.load(norms + own * (2 * dim) + f, mask=in_features, other=0.0)
        summed += gate[:, None] * tl.dot(phi, state, input_precision="ieee")
        total += gate * tl.sum(phi * norm[None, :], 1)
        tl.store(out + of_query, (summed / total[:, None]).to(q.dtype), mask=in_query)
        if length >= window:
            added = tl.load(old + own * (2 * dim) + f, mask=in_features, other=0.0)
            oldest = tl.load(values + (own * window + length % window) * dim + d, mask=in_dim, other=0.0)
            state += added[:, None] * oldest.to(tl.float32)[None, :]
            tl.store(sums + of_state, state, mask=in_state)
            tl.store(norms + own * (2 * dim) + f, norm + added, mask=in_features)
