"""Packing: which models keep rows apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM
from trl import SFTConfig

from efficient_reasoning.errors import BadInput
from efficient_reasoning.scratch import build_config, make_tokenizer
from efficient_reasoning.training import packing
from efficient_reasoning.training.packing import check_packing, keeps_rows_apart

CONFIGS = Path(__file__).parents[2] / "configs" / "pretrain"


def config(**changes) -> SFTConfig:
    return SFTConfig("unused", bf16=False, use_cpu=True, report_to="none", **changes)


@pytest.fixture
def recurrent() -> MambaForCausalLM:
    torch.manual_seed(0)
    return MambaForCausalLM(MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, state_size=4))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_keeps_rows_apart(tiny_model, attention):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation=attention).train()
    assert keeps_rows_apart(model)
    assert model.training
    check_packing(model, config(packing=True))


def test_a_recurrent_state_does_not(recurrent):
    assert not keeps_rows_apart(recurrent)
    check_packing(recurrent, config())
    for setting in ("packing", "padding_free"):
        with pytest.raises(BadInput, match="packing: mamba would read packed rows as one text"):
            check_packing(recurrent, config(**{setting: True}))


def test_flash_attention_is_believed(recurrent):
    """It runs on CUDA alone, where the model is not yet."""
    recurrent.config._attn_implementation_internal = "flash_attention_2"
    check_packing(recurrent, config(packing=True))


def test_weights_that_zero_3_hides_are_refused(tiny_model, monkeypatch):
    monkeypatch.setattr("transformers.integrations.is_deepspeed_zero3_enabled", lambda: True)
    model = AutoModelForCausalLM.from_config(AutoModelForCausalLM.from_pretrained(tiny_model).config)
    with pytest.raises(BadInput, match="would read packed rows as one text"):
        check_packing(model, config(packing=True))
    assert packing.keeps_rows_apart(model) is False


@pytest.mark.parametrize(
    ("name", "apart"),
    [
        ("overthinker", True),
        ("local_global_overthinker", True),
        ("recurrent_overthinker", True),
        ("gated_deltanet_overthinker", False),
        ("mamba2_overthinker", False),
    ],
)
def test_which_shipped_architectures_keep_rows_apart(name, apart):
    shape = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["architecture"]
    torch.manual_seed(0)
    config = build_config(shape, make_tokenizer("bpe", ["a"], 260))
    assert keeps_rows_apart(AutoModelForCausalLM.from_config(config)) is apart
