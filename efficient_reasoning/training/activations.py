"""What a training step holds beside the model's states: the activations of dense decoders, from their config.

1. A layer keeps for its backward pass what its matrices, norms and attention read: a sum of widths, times bytes a
   number, times tokens. What several read is kept once; but autocast casts it anew for each projection.
2. Checkpointing keeps each layer's input alone, and one layer at a time in full, when it is computed again.
3. Fused attention keeps queries, keys, values and its output. Padding needs a mask, which comes to tokens squared in
   every layer, and keys and values as wide as the queries.
4. What stands over it is the larger of two moments: the loss, or the backward pass through one layer.

`scripts/bench/activations.py` holds these sums against what autograd keeps and against measured peaks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FAMILIES = ("llama", "qwen2", "qwen3")  # whose layers these sums are of
_TILE = 4096, 32768  # tokens and words whose logits TRL's fused head makes at a time


class Precision(NamedTuple):
    """Bytes of a number: in weights and residual, and in what matrices are multiplied in."""

    residual: int
    compute: int


FP32, AUTOCAST, BF16 = Precision(4, 4), Precision(4, 2), Precision(2, 2)


@dataclass(frozen=True)
class MicroBatch:
    """What a process reads at a time.

    Attributes:
        rows: B, sequences; a pair is two.
        tokens: S, of each, padding included.
        masked: whether attention gets a mask, as padding and packing need.
        whole_logits: whether the loss takes the logits of all tokens at once, instead of in tiles.
    """

    rows: int
    tokens: int
    masked: bool
    whole_logits: bool = False


@dataclass(frozen=True)
class Activations:
    """Bytes that a step holds beside weights, gradients and moments.

    Attributes:
        kept: from the forward pass to the backward pass.
        loss: over what is kept, by the loss, its gradient and that of the head's weights.
        backward: over what is kept, by the backward pass through one layer.
    """

    kept: int
    loss: int
    backward: int


def activations(config: PretrainedConfig, batch: MicroBatch, precision: Precision, checkpointing: bool) -> Activations:
    """Of one micro batch.

    Args:
        config: of a model of `FAMILIES`; its `_attn_implementation` is eager, or fused attention.
        batch: what is read.
        precision: of weights and matrices.
        checkpointing: whether layers keep their inputs alone.
    """
    residual, compute = precision
    width, words, tokens = config.hidden_size, config.vocab_size, batch.rows * batch.tokens
    layer = _layer_bytes(config, batch, precision)
    kept = config.num_hidden_layers * (tokens * width * residual if checkpointing else layer)
    kept += tokens * width * (4 + 2 * residual)  # the last norm
    eager = config._attn_implementation == "eager"
    if batch.masked:  # one for all layers
        kept += tokens * batch.tokens * (residual if eager else 1)
    streams = tokens * width * (residual + compute)  # gradients of the residual and of what a branch gives
    mlp = 4 * tokens * config.intermediate_size * compute
    backward = streams + mlp // 2  # of the two factors of what goes down, which itself is gone by then
    if eager:  # the MLP has let go; the gradients of softmax before and behind its cast
        scores = tokens * config.num_attention_heads * batch.tokens
        backward = max(backward, streams - mlp + scores * (4 + compute))
    if batch.whole_logits:  # log-probabilities in fp32 and two gradients like them; then that of the head
        loss = max(tokens * words * 12, tokens * words * 4 + words * width * residual)
    else:
        loss = words * width * 4 + tokens * width * 4 + min(tokens, _TILE[0]) * _TILE[1] * compute
    return Activations(kept, loss, backward + layer * checkpointing)


def _layer_bytes(config: PretrainedConfig, batch: MicroBatch, precision: Precision) -> int:
    """What one decoder layer keeps for its backward pass."""
    residual, compute = precision
    heads, width = config.num_attention_heads, config.hidden_size
    head_width = getattr(config, "head_dim", None) or width // heads
    queries, keys = heads * head_width, config.num_key_value_heads * head_width
    inputs = 3 + 2 if residual > compute else 1 + 1  # of q, k, v and of gate, up
    each = width * (2 * (4 + residual) + inputs * compute)  # two norms, in fp32 and cast back, and what reads them
    if config.model_type == "qwen3":  # norms of queries and keys
        each += (queries + keys) * (4 + compute)
    eager = config._attn_implementation == "eager"
    shared_by = queries if batch.masked or eager else keys  # keys and values, repeated for each query
    each += 2 * (queries + shared_by) * compute
    if eager:  # softmax in fp32, and what it is cast to
        each += heads * batch.tokens * (4 + compute * (compute < 4))
    else:
        each += 4 * heads + batch.tokens * compute * batch.masked
    return batch.rows * batch.tokens * (each + 4 * config.intermediate_size * compute)
