"""Config of language models whose attention is a window and a few global tokens.

This file ships inside checkpoints: it imports nothing but torch, transformers, and its neighbour by relative name.
"""

from __future__ import annotations

from huggingface_hub.dataclasses import strict
from transformers import Qwen3Config


@strict
class WindowGlobalConfig(Qwen3Config):
    """Config of `WindowGlobalForCausalLM`: that of a Qwen3 whose layers all attend alike.

    Attributes:
        window_tokens: the last tokens that a query sees, itself included; at least 1.
        num_global_tokens: the first tokens of a text, which every query behind them sees; 0 leaves the window alone.

    Raises:
        ValueError: fewer of them, or layers of Qwen3 with a window of their own.
    """

    model_type = "window_global"

    window_tokens: int = 1024
    num_global_tokens: int = 4
    sliding_window: int | None = None

    def __post_init__(self, **kwargs):
        self.use_sliding_window |= self.sliding_window is not None  # a Qwen3 would forget the one without the other
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        super().validate_architecture()
        if self.window_tokens < 1:
            raise ValueError(f"window_tokens is {self.window_tokens}; give at least 1.")
        if self.num_global_tokens < 0:
            raise ValueError(f"num_global_tokens is {self.num_global_tokens}; give 0 or more.")
        if self.use_sliding_window or set(self.layer_types) != {"full_attention"}:
            raise ValueError("All layers have a window of window_tokens; leave out sliding_window and layer_types.")


__all__ = ["WindowGlobalConfig"]
