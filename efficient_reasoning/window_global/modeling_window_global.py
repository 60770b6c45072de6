"""A Qwen3 whose queries see the last `window_tokens` tokens and the first `num_global_tokens` of their text.

1. In every layer, so that what a token costs is bounded, and far tokens reach each other through the layers between
   them and through the global tokens (Longformer, arXiv 2004.05150; BigBird, arXiv 2007.14062), which are also where
   heads that look for nothing leave their weight (StreamingLLM, arXiv 2309.17453).
2. A text begins at its first token: behind padding on the left, and anew with each of several packed in one row.
3. Long texts on CUDA go through FlexAttention (arXiv 2412.05496), which leaves out blocks of keys that no query sees,
   forward and backward. All else goes through `scaled_dot_product_attention` with the same mask, written out:
   FlexAttention has no backward pass on a CPU.
4. Decoding keeps all keys and values, in any cache of transformers, and attends to no more of them than it sees.

This file ships inside checkpoints: it imports nothing but torch, transformers, and its neighbour by relative name.

Legend: B rows, H heads, T new tokens, S tokens with those in the cache, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface, Cache, PreTrainedConfig
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import create_causal_mask, flex_attention_mask, sdpa_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM, Qwen3Model, Qwen3PreTrainedModel

from .configuration_window_global import WindowGlobalConfig

NAME = WindowGlobalConfig.model_type  # of the attention, too
FLEX_TOKENS = 1024  # from so many new tokens on: a mask of fewer is small, and a few blocks leave little out


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: BlockMask | torch.Tensor,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Outputs (B, T, H, D) of queries (B, H, T, D), as of any attention function of transformers."""
    if isinstance(attention_mask, BlockMask):
        return flex_attention_forward(module, query, key, value, attention_mask, **kwargs)
    seen = module.config.window_tokens + module.config.num_global_tokens  # keys, at most
    if query.shape[2] == 1 and key.shape[2] > seen:
        columns = attention_mask.int().topk(seen, sorted=False).indices  # (B, 1, 1, seen), in no order
        attention_mask = attention_mask.gather(3, columns)
        columns = columns.transpose(2, 3)
        key, value = (each.take_along_dim(columns, 2) for each in (key, value))
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def write_mask(
    q_length: int, device: torch.device, config: PreTrainedConfig, **kwargs: Any
) -> BlockMask | torch.Tensor:
    """Blocks for FlexAttention, or (B, 1, T, S) bool, as of any mask function of transformers."""
    if config.model_type != NAME:
        raise ValueError(f"Attention {NAME} is not of {config.model_type}; leave out attn_implementation.")
    make = flex_attention_mask if device.type == "cuda" and q_length >= FLEX_TOKENS else sdpa_mask
    return make(q_length=q_length, device=device, **kwargs)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, write_mask)


def window_global_mask(
    config: WindowGlobalConfig,
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | None,
    past_key_values: Cache | None = None,
    position_ids: torch.Tensor | None = None,
) -> BlockMask | torch.Tensor:
    """Which key each query sees, for all layers.

    Args:
        config: says the window and how many tokens are global.
        inputs_embeds: (B, T, D), for its shape and device.
        attention_mask: (B, S), 0 for padding on either side.
        past_key_values: that the tokens are read behind.
        position_ids: (B, T) or (1, T); without mask and cache, a text begins wherever they do not count on.

    Raises:
        ValueError: another attention function, which might not heed the mask, or a mask that says what is seen.
    """
    if config._attn_implementation != NAME:
        raise ValueError(f"A {NAME} cannot attend by {config._attn_implementation}; leave out attn_implementation.")
    if attention_mask is not None and attention_mask.ndim != 2:
        raise ValueError(f"A {NAME} makes its own masks; give an attention_mask (rows, tokens), 0 for padding.")
    rows, tokens = inputs_embeds.shape[:2]
    window_tokens, num_global_tokens = config.window_tokens, config.num_global_tokens
    starts = torch.zeros(rows, dtype=torch.long, device=inputs_embeds.device)  # columns where texts begin, (B,)
    is_packed = attention_mask is None and past_key_values is None and position_ids is not None
    if is_packed:
        begins = torch.diff(position_ids, prepend=position_ids[:, :1] - 1) != 1
        columns = torch.arange(tokens, device=position_ids.device)
        starts = (begins * columns).cummax(1).values.expand(rows, -1)  # (B, T)
    elif attention_mask is not None:
        starts = attention_mask.long().argmax(1)  # (B,)

    def is_seen(row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        start = starts[row, query] if is_packed else starts[row]
        is_near = key > query - window_tokens
        return (key >= start) & (is_near | (key < start + num_global_tokens))

    return create_causal_mask(config, inputs_embeds, attention_mask, past_key_values, and_mask_function=is_seen)


class WindowGlobalPreTrainedModel(Qwen3PreTrainedModel):
    config_class = WindowGlobalConfig
    _supports_flash_attn = False  # it takes no mask
    _supports_attention_backend = False  # other programs would attend to all tokens

    def get_correct_attn_implementation(self, requested_attention: str | None, is_init_check: bool = False) -> str:
        return super().get_correct_attn_implementation(requested_attention or NAME, is_init_check)


class WindowGlobalModel(WindowGlobalPreTrainedModel, Qwen3Model):
    """Embeddings, decoder layers and the last norm."""

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """As of any decoder of transformers; masks as for `window_global_mask`."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give either input_ids or inputs_embeds.")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        mask = window_global_mask(self.config, inputs_embeds, attention_mask, past_key_values, position_ids)
        return super().forward(None, mask, position_ids, past_key_values, inputs_embeds, **kwargs)


class WindowGlobalForCausalLM(WindowGlobalPreTrainedModel, Qwen3ForCausalLM):
    """A language model whose tokens cost the same wherever they stand in a long text."""

    def __init__(self, config: WindowGlobalConfig):
        super(Qwen3ForCausalLM, self).__init__(config)  # whose own would make a Qwen3Model
        self.model = WindowGlobalModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @staticmethod
    def create_masks_for_generate(attention_mask: torch.Tensor | None, **kwargs: Any) -> torch.Tensor | None:
        """As it is: the model makes its own masks for caches that are laid out beforehand, too."""
        return attention_mask


__all__ = ["WindowGlobalForCausalLM", "WindowGlobalModel", "WindowGlobalPreTrainedModel"]
