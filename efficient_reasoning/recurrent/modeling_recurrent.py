"""A language model of recurrent depth: prelude, a core that is run again and again, coda (arXiv 2502.05171).

1. The prelude makes e of the tokens. The core makes a state of the state before it and of e, which an adapter joins,
   once an iteration. The coda and the head read the last state. Every layer has a norm behind each of its two sums,
   beside Qwen3's before them, and the core one at its end: states keep their size however often it runs.
2. In training the state starts as normal noise, and gradients flow through the last `backprop_depth` iterations, which
   bounds the memory of a step. All rows and processes take the same number of iterations (`DepthSampling`).
3. In inference the state starts at the mean of that noise, zero: no random numbers, which would differ between devices
   and with the padding, so that a greedy answer is one answer.
4. Each layer of each iteration has its own entries in transformers' cache, at prelude + iteration * core + layer.
5. Adaptive exit: while tokens are decoded one by one, one whose output distribution has settled keeps its state, and
   its entries are repeated in the iterations it leaves out. Rows leave on their own, whatever stands beside them.
   Prompts, whose tokens are read all at once, take every iteration.

This file ships inside checkpoints: it imports nothing but torch, transformers, and its neighbour by relative name.

Legend: B rows, T new tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel, StaticCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3RMSNorm, Qwen3RotaryEmbedding
from transformers.utils import can_return_tuple

from .configuration_recurrent import RecurrentConfig

STATE_STD = 0.4**0.5  # of the noise that states start as


@dataclass
class RecurrentModelOutput(BaseModelOutputWithPast):
    """With the iterations (B,) that each row's last token took."""

    iterations: torch.LongTensor | None = None


@dataclass
class RecurrentCausalLMOutput(CausalLMOutputWithPast):
    """With the iterations (B,) that each row's last token took."""

    iterations: torch.LongTensor | None = None


class RecurrentDecoderLayer(Qwen3DecoderLayer):
    """Qwen3's layer with a norm behind each sum: n2(x + attention(n1(x))), then n4(x + mlp(n3(x)))."""

    def __init__(self, config: RecurrentConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.attention_sum_layernorm = Qwen3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp_sum_layernorm = Qwen3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden_states: torch.Tensor, **attention: Any) -> torch.Tensor:
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), **attention)
        hidden_states = self.attention_sum_layernorm(hidden_states + attended)
        return self.mlp_sum_layernorm(hidden_states + self.mlp(self.post_attention_layernorm(hidden_states)))


class _CacheView:
    """The cache as the layers of one iteration see it.

    Args:
        cache: of the model.
        shift: from the numbers of these layers to their places in the cache.
        exited: (B,), rows that are through; what they had one iteration, `step` places, before is repeated.
        step: layers of the core.
        is_read_only: the new entries are seen, but not kept.
    """

    def __init__(
        self,
        cache: Cache,
        shift: int = 0,
        exited: torch.Tensor | None = None,
        step: int = 0,
        is_read_only: bool = False,
    ):
        self.cache, self.shift, self.exited, self.step, self.is_read_only = cache, shift, exited, step, is_read_only

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *rest: Any, **named: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        place = layer_idx + self.shift
        if self.is_read_only:
            layer = self.cache.layers[place]
            return torch.cat([layer.keys, keys], 2), torch.cat([layer.values, values], 2)
        if self.exited is not None:
            before, tokens = self.cache.layers[place - self.step], keys.shape[2]
            exited = self.exited[:, None, None, None]
            keys = torch.where(exited, before.keys[:, :, -tokens:], keys)
            values = torch.where(exited, before.values[:, :, -tokens:], values)
        return self.cache.update(keys, values, place)


class RecurrentPreTrainedModel(PreTrainedModel):
    config_class = RecurrentConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar = ["RecurrentDecoderLayer"]
    _skip_keys_device_placement: ClassVar = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = False  # other programs would run each layer once


class RecurrentModel(RecurrentPreTrainedModel):
    """Embeddings, prelude, core, coda and the last norm.

    Attributes:
        training_depth: iterations of the next training passes; `mean_depth` until somebody sets it.
    """

    def __init__(self, config: RecurrentConfig):
        super().__init__(config)
        self.training_depth = config.mean_depth
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)

        def layers(count: int, first: int) -> nn.ModuleList:
            return nn.ModuleList(RecurrentDecoderLayer(config, first + number) for number in range(count))

        self.prelude = layers(config.num_prelude_layers, 0)
        self.adapter = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.core = layers(config.num_core_layers, config.num_prelude_layers)
        self.core_norm = Qwen3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.coda = layers(config.num_coda_layers, config.num_prelude_layers + config.num_core_layers)
        self.norm = Qwen3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = Qwen3RotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    # `torch.compile` would compile every depth on its own, and give up at the eighth; so it compiles what is called.
    @torch.compiler.disable(recursive=False)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        head: Callable[[torch.Tensor], torch.Tensor] | None = None,
        **kwargs,
    ) -> RecurrentModelOutput:
        """As of any decoder of transformers.

        Args:
            head: makes logits of hidden states, which adaptive exit compares; None runs every iteration.

        Raises:
            ValueError: both or neither of ids and embeddings, a cache that was filled at another depth, or adaptive
                exit with one that is laid out beforehand.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give either input_ids or inputs_embeds.")
        hidden_states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, D)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        depth = self.training_depth if self.training else self.config.depth
        config = self.config
        past = 0
        if past_key_values is not None:
            past = past_key_values.get_seq_length()
            expected = config.num_prelude_layers + depth * config.num_core_layers + config.num_coda_layers
            if len(past_key_values) not in (0, expected):
                raise ValueError(
                    f"The cache has {len(past_key_values)} layers, and {depth} iterations take {expected}; go on at "
                    "the depth that filled it."
                )
        if position_ids is None:
            position_ids = torch.arange(past, past + hidden_states.shape[1], device=hidden_states.device)[None]
        common = {
            "attention_mask": create_causal_mask(
                config=config,
                inputs_embeds=hidden_states,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                position_ids=position_ids,
            ),
            "position_embeddings": self.rotary_emb(hidden_states, position_ids),
            "position_ids": position_ids,
        }

        def run(layers: Iterable[nn.Module], inputs: torch.Tensor, shift: int = 0, **view: Any) -> torch.Tensor:
            seen = None if past_key_values is None else _CacheView(past_key_values, shift, **view)
            for layer in layers:
                inputs = layer(inputs, past_key_values=seen, **common)
            return inputs

        embedded = run(self.prelude, hidden_states)  # e

        def iterate(state: torch.Tensor, iteration: int, exited: torch.Tensor | None = None) -> torch.Tensor:
            joined = self.adapter(torch.cat([state, embedded], -1))
            step = config.num_core_layers
            return self.core_norm(run(self.core, joined, iteration * step, exited=exited, step=step))

        def read_out(state: torch.Tensor, is_read_only: bool = False) -> torch.Tensor:
            shift = (depth - 1) * config.num_core_layers
            return self.norm(run(self.coda, state, shift, is_read_only=is_read_only))

        iterations = torch.full((len(embedded),), depth, device=embedded.device)
        if config.exit_kl is not None and head is not None and past and embedded.shape[1] == 1 and not self.training:
            if isinstance(past_key_values, StaticCache):
                raise ValueError("Adaptive exit takes a cache that grows; leave out cache_implementation, or exit_kl.")

            def look(state: torch.Tensor) -> torch.Tensor:
                return head(read_out(state, is_read_only=True))

            state, iterations = self._settle(embedded, depth, past_key_values, iterate, look)
        else:
            state = torch.randn_like(embedded) * STATE_STD if self.training else torch.zeros_like(embedded)
            truncated = depth - config.backprop_depth if self.training else 0
            for iteration in range(depth):
                with torch.set_grad_enabled(torch.is_grad_enabled() and iteration >= truncated):
                    state = iterate(state, iteration)
        return RecurrentModelOutput(
            last_hidden_state=read_out(state),
            past_key_values=past_key_values if use_cache else None,
            iterations=iterations,
        )

    def _settle(
        self,
        embedded: torch.Tensor,
        depth: int,
        cache: Cache,
        iterate: Callable[..., torch.Tensor],
        look: Callable[[torch.Tensor], torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """States (B, 1, D) of single tokens, iterated until their distributions settle, and how often (B,)."""
        state = torch.zeros_like(embedded)
        exited = torch.zeros(len(embedded), dtype=torch.bool, device=embedded.device)
        iterations = torch.zeros(len(embedded), dtype=torch.long, device=embedded.device)
        before = None
        for iteration in range(depth):
            new = iterate(state, iteration, exited if iteration else None)
            state = torch.where(exited[:, None, None], state, new)
            iterations += ~exited
            if iteration == depth - 1:
                break
            logprobs = look(state)[:, -1].float().log_softmax(-1)  # (B, V)
            if before is not None:
                exited = exited | ((logprobs.exp() * (logprobs - before)).sum(-1) < self.config.exit_kl)
            before = logprobs
            if exited.all():
                self._repeat(cache, iteration + 1, depth)
                break
        return state, iterations

    def _repeat(self, cache: Cache, begin: int, depth: int) -> None:
        """Give the iterations from `begin` on, which no row takes, the last token's entries of the one before."""
        first, step = self.config.num_prelude_layers, self.config.num_core_layers
        for place in range(first + begin * step, first + depth * step):
            before = cache.layers[place - step]
            cache.update(before.keys[:, :, -1:], before.values[:, :, -1:], place)


class RecurrentForCausalLM(RecurrentPreTrainedModel, GenerationMixin):
    """A language model whose compute a token is chosen when it is asked."""

    _tied_weights_keys: ClassVar = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: RecurrentConfig):
        super().__init__(config)
        self.model = RecurrentModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ) -> RecurrentCausalLMOutput:
        """As of any causal language model of transformers; the rest as for `RecurrentModel`."""
        outputs = self.model(
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache, self.lm_head, **kwargs
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.vocab_size, **kwargs)
        return RecurrentCausalLMOutput(
            loss=loss, logits=logits, past_key_values=outputs.past_key_values, iterations=outputs.iterations
        )


__all__ = ["RecurrentForCausalLM", "RecurrentModel", "RecurrentPreTrainedModel"]
