"""A random checkpoint of recurrent depth."""

from __future__ import annotations

import pytest
import torch

from efficient_reasoning.checkpoint import ReasoningMetadata, load_tokenizer
from efficient_reasoning.recurrent import RecurrentConfig, RecurrentForCausalLM


@pytest.fixture(scope="session")
def checkpoint(tiny_model, tmp_path_factory) -> str:
    """Its folder; read only."""
    folder = tmp_path_factory.mktemp("recurrent") / "model"
    tokenizer = load_tokenizer(str(tiny_model))
    torch.manual_seed(1)
    config = RecurrentConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_prelude_layers=1,
        num_core_layers=2,
        num_coda_layers=1,
        num_attention_heads=4,
        head_dim=8,
        mean_depth=4,
        initializer_range=0.1,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    RecurrentForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ReasoningMetadata(method="pretrain", stage="pretrain", depth=4, seed=1).save(folder)
    return str(folder)
