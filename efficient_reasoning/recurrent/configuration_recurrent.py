"""Config of language models of recurrent depth.

This file ships inside checkpoints: it imports nothing but torch, transformers, and its neighbour by relative name.
"""

from __future__ import annotations

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

_VERSION = 1  # of what weights and fields mean


@strict
class RecurrentConfig(PreTrainedConfig):
    """Config of `RecurrentForCausalLM`; what is not named below is as in a Qwen3.

    Attributes:
        num_prelude_layers, num_core_layers, num_coda_layers: layers before the recurrence, in it, and behind it.
        mean_depth: mean number of iterations of the core in a training step.
        depth_sigma: of the log-normal distribution that the rate of a step's depth comes from; None trains every step
            at `mean_depth`.
        backprop_depth: the last iterations of a training step, which gradients flow through.
        depth: iterations in inference; `mean_depth` by default.
        exit_kl: adaptive exit: a decoded token takes no further iteration when the Kullback-Leibler divergence of its
            output distribution from that of the iteration before falls below it, in nats; None runs all of them.
        format_version: of this config.

    Raises:
        ValueError: depths, layers or heads that make no model, or a version that this code does not know.
    """

    model_type = "recurrent_depth"
    keys_to_ignore_at_inference: ClassVar = ["past_key_values", "iterations"]

    vocab_size: int = 32000
    hidden_size: int = 1024
    intermediate_size: int = 2816
    num_prelude_layers: int = 2
    num_core_layers: int = 4
    num_coda_layers: int = 2
    num_attention_heads: int = 16
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 4096
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    rope_parameters: dict | None = None
    attention_bias: bool = False
    attention_dropout: float | int = 0.0
    tie_word_embeddings: bool = True
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    mean_depth: int = 32
    depth_sigma: float | int | None = 0.5
    backprop_depth: int = 8
    depth: int | None = None
    exit_kl: float | int | None = None
    format_version: int = _VERSION

    def __post_init__(self, **kwargs):
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.hidden_size // max(1, self.num_attention_heads)
        if self.depth is None:
            self.depth = self.mean_depth
        super().__post_init__(**kwargs)

    @property
    def num_hidden_layers(self) -> int:
        """Layers that a token passes in inference, each iteration's counted; each has its own entries in a cache."""
        return self.num_prelude_layers + self.depth * self.num_core_layers + self.num_coda_layers

    def validate_architecture(self):
        if self.format_version != _VERSION:
            raise ValueError(
                f"format_version is {self.format_version}, and this code knows {_VERSION}; update "
                "efficient-reasoning, or load the folder with trust_remote_code=True."
            )
        for name in ("mean_depth", "backprop_depth", "depth", "num_core_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1.")
        for name in ("num_prelude_layers", "num_coda_layers", "depth_sigma", "exit_kl"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give 0 or more.")
        if min(self.num_attention_heads, self.num_key_value_heads) < 1 or (
            self.num_attention_heads % self.num_key_value_heads
        ):
            raise ValueError(
                f"{self.num_attention_heads} query heads do not share {self.num_key_value_heads} key-value heads "
                "evenly; correct them."
            )


__all__ = ["RecurrentConfig"]
