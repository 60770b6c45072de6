"""A checkpoint that trains in no time: the overthinker's tokenizer and a few thousand random parameters."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """Its folder; read only."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from efficient_reasoning.checkpoint import load_tokenizer, resolve_model

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = load_tokenizer(resolve_model("overthinker"))
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
