"""Random models of each architecture, and what is made of them."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from efficient_reasoning.linear.modeling_linearized import HedgehogFeatureMap, LinearizedAttention


def softmax_model(kind: str = "qwen3", **changes):
    torch.manual_seed(0)
    settings = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "sliding_window": None,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }
    config = AutoConfig.for_model(kind, **settings | changes)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():  # large enough for attention to be anything but even
            weight.mul_(4) if weight.ndim == 2 else weight.add_(0.1 * torch.randn_like(weight))
    return model


def trained(student):
    """As if transferred: feature maps and gates are of no special kind."""
    with torch.no_grad():
        for module in student.modules():
            if isinstance(module, HedgehogFeatureMap):
                module.weight.normal_()
            elif isinstance(module, LinearizedAttention):
                module.gate.normal_()
    return student
