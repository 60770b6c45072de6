"""A Llama, Qwen2 or Qwen3 that attends by softmax to a window, and by a learnt feature map to all that is older.

1. Every query sees exactly the last `sliding_window` keys by softmax. A key that leaves the window is added to a state
   of constant size, phi(k) v^T and phi(k), one a key-value head and in float32; queries read it through phi(q). Both
   parts stand over one denominator (LoLCATs, arXiv 2410.10254), weighed by a gate that each query head learns.
2. phi is Hedgehog's feature map (arXiv 2402.04347), behind RoPE and behind the norms of queries and keys.
3. One function, `hybrid_attention`, serves training, prefill and single steps: what differs is how many tokens come at
   once, and whether a state and a window stand before them. However a sequence is cut, the outputs are the same.
4. transformers has the cache: layers named `hybrid_sliding` keep a window and recurrent states.

This file ships inside checkpoints: it imports nothing but torch, transformers, and its neighbour by relative name.

Legend: B rows, H query heads, K key-value heads, G = H / K, T new tokens, P tokens before them in the cache, D head
size, F = 2 D features, W window, C tokens of a chunk, N chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import LinearAttentionAndSlidingWindowAttentionLayer
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from .configuration_linearized import LINEAR, SOFTMAX, LinearizedConfig

CHUNK_TOKENS = 64
GATE_AT_START = -2.197  # its sigmoid is 0.1

State = tuple[torch.Tensor, torch.Tensor]  # sums of phi(k) v^T (B, K, F, D) and of phi(k) (B, K, F), float32


class HedgehogFeatureMap(nn.Module):
    """phi(x) = [softmax(x W), softmax(-x W)] with a square W a head, the identity at start (arXiv 2402.04347)."""

    def __init__(self, heads: int, head_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(head_dim).repeat(heads, 1, 1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Features (B, H, T, F), float32 and positive, of (B, H, T, D)."""
        projected = inputs.float() @ self.weight.float()
        return torch.cat([projected.softmax(-1), (-projected).softmax(-1)], -1)


def hybrid_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    valid: torch.Tensor | None,
    query_map: Callable[[torch.Tensor], torch.Tensor],
    key_map: Callable[[torch.Tensor], torch.Tensor],
    gate: torch.Tensor,
    window: int,
    scaling: float,
    state: State | None = None,
) -> tuple[torch.Tensor, State]:
    """Attention of T queries to a window by softmax and to all older keys by feature maps.

    With s = scaling q k^T, m its maximum in the window and g = sigmoid(gate), a key weighs a = (1 - g) exp(s - m) in
    the window and a = g phi(q) phi(k)^T before it, and a query's output is sum(a v) / sum(a).

    Memory is O(T (C + W + (W + F) D / C)) a head.

    Args:
        query: (B, H, T, D).
        key, value: (B, K, P + T, D), of which the first P <= W - 1 come from earlier calls.
        valid: (B, P + T) bool, False for padding; None where there is none. A query that is padding sees itself.
        query_map, key_map: features (B, H, T, F) of queries, and (B, K, T, F) of keys.
        gate: (H,), any numbers.
        window: W, at least 2.
        scaling: of the scores.
        state: of all keys before the P; None where there are none.

    Returns:
        The outputs (B, H, T, D), and the state of all keys but the last W - 1.
    """
    rows, heads, tokens, _ = query.shape
    groups = heads // key.shape[1]
    dtype, held = value.dtype, window - 1
    chunk = min(CHUNK_TOKENS, tokens)
    chunks = -(-tokens // chunk)
    fill = chunks * chunk - tokens
    query, key = query.to(dtype), key.to(dtype)
    with torch.autocast(query.device.type, enabled=False):
        if valid is None:
            valid = torch.ones(rows, key.shape[2], dtype=torch.bool, device=key.device)
        # W - 1 keys before the first query, and whole chunks: query j then has its window in columns j to j + W - 1,
        # and the columns before j are older.
        before = held - (key.shape[2] - tokens)
        key, value = (nn.functional.pad(each, (0, 0, before, fill)) for each in (key, value))
        valid = nn.functional.pad(valid, (before, fill))

        def in_chunks(each: torch.Tensor) -> torch.Tensor:
            """(B, H, T, X) -> (B, K, N, G C, X)."""
            each = nn.functional.pad(each, (0, 0, 0, fill)).unflatten(1, (-1, groups)).unflatten(3, (chunks, chunk))
            return each.transpose(2, 3).flatten(3, 4)

        row = torch.arange(chunk, device=query.device)[:, None]
        column = torch.arange(chunk + held, device=query.device)
        seen = valid.unfold(1, chunk + held, chunk)[:, None, :, None] | (column == row + held)
        seen = seen & (column >= row) & (column <= row + held)  # (B, 1, N, C, C + W - 1)
        keys = key.unfold(2, chunk + held, chunk)  # (B, K, N, D, C + W - 1)
        values = value.unfold(2, chunk + held, chunk).transpose(-1, -2)
        scores = (in_chunks(query) @ keys).float() * scaling
        scores = scores.unflatten(3, (groups, chunk)).masked_fill(~seen[:, :, :, None], -torch.inf)
        weights = (scores - scores.amax(-1, keepdim=True)).exp().flatten(3, 4)  # (B, K, N, G C, C + W - 1)
        gates = gate.float().view(-1, 1, groups, 1).expand(-1, -1, -1, chunk).flatten(2)  # (K, 1, G C)
        weights = weights * (-gates[..., None]).sigmoid()  # never 0, which 1 - g can be
        gates = gates.sigmoid()
        summed = (weights.to(dtype) @ values).float()  # (B, K, N, G C, D)
        total = weights.sum(-1)  # (B, K, N, G C)

        old = key_map(key[:, :, :tokens]) * valid[:, None, :tokens, None]  # (B, K, T, F)
        old = nn.functional.pad(old, (0, 0, 0, fill)).unflatten(2, (chunks, chunk))  # (B, K, N, C, F)
        old_values = value[:, :, : chunks * chunk].unflatten(2, (chunks, chunk)).float()
        features = in_chunks(query_map(query))  # (B, K, N, G C, F)
        added = old.transpose(-1, -2) @ old_values, old.sum(3)
        if state is None:
            state = tuple(torch.zeros_like(each[:, :, 0]) for each in added)
        sums, norms = (
            torch.cat([first[:, :, None], each], 2).cumsum(2) for first, each in zip(state, added, strict=True)
        )
        summed = summed + gates[..., None] * (features @ sums[:, :, :-1])
        total = total + gates * (features @ norms[:, :, :-1, :, None])[..., 0]
        if chunk > 1:  # what left the window within the chunk
            inside = features @ old.transpose(-1, -2)  # (B, K, N, G C, C)
            inside = gates[..., None] * inside.unflatten(3, (groups, chunk)).tril(-1).flatten(3, 4)
            summed, total = summed + inside @ old_values, total + inside.sum(-1)
        output = (summed / total[..., None]).unflatten(3, (groups, chunk)).transpose(2, 3)
        output = output.flatten(3, 4).flatten(1, 2)[:, :, :tokens]
        return output.to(dtype), (sums[:, :, -1], norms[:, :, -1])


class SoftmaxAttention(nn.Module):
    """Attention as it was before: projections, norms where there are any, RoPE, softmax."""

    def __init__(self, config: LinearizedConfig, layer_idx: int):
        super().__init__()
        self.config, self.layer_idx, self.head_dim = config, layer_idx, config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.head_dim**-0.5
        self.is_causal = True
        width, bias = config.hidden_size, config.attention_bias
        queries, keys = (heads * self.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
        self.q_proj = nn.Linear(width, queries, bias=bias)
        self.k_proj = nn.Linear(width, keys, bias=bias)
        self.v_proj = nn.Linear(width, keys, bias=bias)
        self.o_proj = nn.Linear(queries, width, bias=config.attention_output_bias)
        self.q_norm, self.k_norm = (
            LlamaRMSNorm(self.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity() for _ in range(2)
        )

    def project(
        self, hidden_states: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries (B, H, T, D), keys and values (B, K, T, D) of hidden states, behind RoPE."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_norm(self.q_proj(hidden_states).view(shape)).transpose(1, 2)
        key = self.k_norm(self.k_proj(hidden_states).view(shape)).transpose(1, 2)
        value = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        return *apply_rotary_pos_emb(query, key, *position_embeddings), value

    def softmax(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, **kwargs
    ) -> torch.Tensor:
        """Outputs (B, T, H, D) of attention to all keys that the mask of transformers lets through."""
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        return attend(self, query, key, value, mask, scaling=self.scaling, **kwargs)[0]

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        past_key_values: Cache | None = None,
        slots: object = None,
    ) -> torch.Tensor:
        query, key, value = self.project(hidden_states, position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        return self.o_proj(self.softmax(query, key, value, attention_mask, slots=slots).flatten(2))


class LinearizedAttention(SoftmaxAttention):
    """The same projections with `hybrid_attention` behind them; its mask is that of padding, (B, P + T) bool."""

    def __init__(self, config: LinearizedConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.query_map = HedgehogFeatureMap(config.num_attention_heads, self.head_dim)
        self.key_map = HedgehogFeatureMap(config.num_key_value_heads, self.head_dim)
        self.gate = nn.Parameter(torch.full((config.num_attention_heads,), GATE_AT_START))

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        valid: torch.Tensor | None,
        state: State | None = None,
    ) -> tuple[torch.Tensor, State]:
        """`hybrid_attention` with this layer's feature maps and gate."""
        window, learnt = self.config.sliding_window, (self.query_map, self.key_map, self.gate)
        return hybrid_attention(query, key, value, valid, *learnt, window, self.scaling, state)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        past_key_values: Cache | None = None,
        slots: object = None,
    ) -> torch.Tensor:
        query, key, value = self.project(hidden_states, position_embeddings)
        if slots is not None:
            return self.o_proj(slots.attend_linear(self, query, key, value).transpose(1, 2).flatten(2))
        state = None
        if past_key_values is not None:
            layer = self._layer_of(past_key_values)
            held = min(layer.get_seq_length(), self.config.sliding_window - 1) + key.shape[2]
            key, value = past_key_values.update(key, value, self.layer_idx)
            key, value = key[:, :, -held:], value[:, :, -held:]
            if layer.is_recurrent_states_initialized[0]:
                state = layer.recurrent_states[0], layer.recurrent_states[1]
        if attention_mask is not None:
            attention_mask = attention_mask[:, -key.shape[2] :]
        output, state = self.attend(query, key, value, attention_mask, state)
        if past_key_values is not None:
            for number, each in enumerate(state):
                past_key_values.update_recurrent_state(each, self.layer_idx, state_idx=number)
        return self.o_proj(output.transpose(1, 2).flatten(2))

    def _layer_of(self, cache: Cache) -> LinearAttentionAndSlidingWindowAttentionLayer:
        layer = cache.layers[self.layer_idx] if self.layer_idx < len(cache.layers) else None
        if not isinstance(layer, LinearAttentionAndSlidingWindowAttentionLayer):
            raise ValueError(
                f"Layer {self.layer_idx} keeps a window and states, and this cache has none for it; leave out "
                "cache_implementation, or pass DynamicCache(config=model.config)."
            )
        if layer.sliding_window != self.config.sliding_window:
            raise ValueError(
                f"The cache is of a window of {layer.sliding_window} tokens and the model has one of "
                f"{self.config.sliding_window}; read the prompt again into a new cache."
            )
        return layer


class LinearizedDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: LinearizedConfig, layer_idx: int):
        super().__init__()
        kind = LinearizedAttention if config.layer_types[layer_idx] == LINEAR else SoftmaxAttention
        self.self_attn = kind(config, layer_idx)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        past_key_values: Cache | None = None,
        slots: object = None,
    ) -> torch.Tensor:
        normed = self.input_layernorm(hidden_states)
        attended = self.self_attn(normed, position_embeddings, attention_mask, past_key_values, slots)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class LinearizedPreTrainedModel(PreTrainedModel):
    config_class = LinearizedConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar = ["LinearizedDecoderLayer"]
    _skip_keys_device_placement: ClassVar = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _is_stateful = True  # a token that was added to the state cannot be taken back

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, HedgehogFeatureMap):
            init.copy_(module.weight, torch.eye(module.weight.shape[-1]).expand_as(module.weight))
        elif isinstance(module, LinearizedAttention):
            init.constant_(module.gate, GATE_AT_START)


class LinearizedModel(LinearizedPreTrainedModel):
    """Embeddings, decoder layers and the last norm."""

    def __init__(self, config: LinearizedConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(
            LinearizedDecoderLayer(config, number) for number in range(config.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        slots: object = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """As of any decoder of transformers.

        Args:
            attention_mask: (B, P + T), 0 for padding, which may stand on either side; None without padding.
            position_ids: (B, T); counted from the mask by default, so that padding on the left shifts nothing.
            past_key_values: `DynamicCache(config=model.config)`.
            slots: of a decoding loop with rows of its own: its `attend_linear(layer, query, key, value)` keeps windows
                and states and returns the outputs (B, H, T, D), and attention functions get it as it is. It knows
                the padding; `position_ids` are needed.

        Raises:
            ValueError: both or neither of ids and embeddings, a mask of another shape, or a cache of another model.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give either input_ids or inputs_embeds.")
        hidden_states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        use_cache = self.config.use_cache if use_cache is None else use_cache
        use_cache = use_cache and not (self.gradient_checkpointing and self.training)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        tokens = hidden_states.shape[1]
        shape = (len(hidden_states), past + tokens)
        if slots is None and attention_mask is not None and getattr(attention_mask, "shape", ()) != shape:
            raise ValueError(
                f"attention_mask must tell padding from tokens, with shape {shape}; "
                "correct it, and leave out cache_implementation."
            )
        if position_ids is None:
            position_ids = torch.arange(past, past + tokens, device=hidden_states.device)[None]
            if attention_mask is not None:
                position_ids = (attention_mask.long().cumsum(1) - 1).clamp(min=0)[:, past:]
        masks = {LINEAR: attention_mask.bool() if attention_mask is not None else None, SOFTMAX: attention_mask}
        if SOFTMAX in self.config.layer_types and slots is None:
            masks[SOFTMAX] = create_causal_mask(
                config=self.config,
                inputs_embeds=hidden_states,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                position_ids=position_ids,
            )
        position_embeddings = self.rotary_emb(hidden_states, position_ids)
        seen = [hidden_states]
        for layer, kind in zip(self.layers, self.config.layer_types, strict=True):
            hidden_states = layer(hidden_states, position_embeddings, masks[kind], past_key_values, slots)
            seen.append(hidden_states)
        hidden_states = self.norm(hidden_states)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return BaseModelOutputWithPast(
            last_hidden_state=hidden_states,
            past_key_values=past_key_values if use_cache else None,
            hidden_states=(*seen[:-1], hidden_states) if wanted else None,
        )


class LinearizedForCausalLM(LinearizedPreTrainedModel, GenerationMixin):
    """A language model whose memory of what it reads does not grow, but for layers that keep softmax."""

    _auto_class = "AutoModelForCausalLM"  # its code rides in the checkpoint
    _tied_weights_keys: ClassVar = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: LinearizedConfig):
        super().__init__(config)
        self.model = LinearizedModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        slots: object = None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """As of any causal language model of transformers; the rest as for `LinearizedModel`."""
        outputs = self.model(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache,
            output_hidden_states,
            slots,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss, logits, outputs.past_key_values, outputs.hidden_states)


__all__ = ["LinearizedForCausalLM", "LinearizedModel", "LinearizedPreTrainedModel"]
