"""Config of language models whose softmax attention was replaced by a window and a state of constant size.

This file ships inside checkpoints: it imports nothing but torch, transformers, and its neighbour by relative name.
"""

from __future__ import annotations

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import LlamaConfig

LINEAR = "hybrid_sliding"  # transformers' name for a layer that keeps a window and recurrent states
SOFTMAX = "full_attention"


@strict
class LinearizedConfig(LlamaConfig):
    """Config of `LinearizedForCausalLM`: that of a Llama, and what Qwen2, Qwen3 and linear attention add.

    Attributes:
        layer_types: `hybrid_sliding` for a linearized layer and `full_attention` for one that keeps softmax; all
            layers are linearized by default.
        sliding_window: tokens that a query sees by softmax in a linearized layer, itself included; at least 2.
        number_of_conv_states: states that transformers' cache keeps a layer: the sum of phi(k) v^T, and that of
            phi(k).
        qk_norm: queries and keys pass an RMSNorm before RoPE (Qwen3).
        attention_output_bias: the output projection has a bias, as those of queries, keys and values have with
            `attention_bias`.

    Raises:
        ValueError: a window, heads or head size that linearized attention cannot take.
    """

    model_type = "linearized"
    _auto_class: ClassVar = "AutoConfig"  # its code rides in the checkpoint

    layer_types: list[str] | None = None
    sliding_window: int = 64
    number_of_conv_states: int = 2
    qk_norm: bool = False
    attention_output_bias: bool = False

    def __post_init__(self, **kwargs):
        if self.layer_types is None:
            self.layer_types = [LINEAR] * self.num_hidden_layers
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        if self.sliding_window < 2:
            raise ValueError(f"sliding_window is {self.sliding_window}; give at least 2.")
        if self.number_of_conv_states != 2:
            raise ValueError(f"number_of_conv_states is {self.number_of_conv_states}; leave it at 2.")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"{self.num_attention_heads} query heads do not share {self.num_key_value_heads} key-value heads "
                "evenly; take another model."
            )
        if self.head_dim < 2 or self.head_dim % 2:
            raise ValueError(f"Heads are {self.head_dim} wide, and RoPE takes pairs; take a model with an even width.")
        if not set(self.layer_types) <= {LINEAR, SOFTMAX}:
            raise ValueError(f"layer_types has other names than {LINEAR} and {SOFTMAX}; correct it.")


__all__ = ["LinearizedConfig"]
