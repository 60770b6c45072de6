"""The DeepSpeed files that `--deepspeed zero2` and the like name."""

from __future__ import annotations

import json

import pytest

from efficient_reasoning.config import find_config

pytest.importorskip("deepspeed")


def autos(config: dict) -> list[str]:
    """The keys, at any depth, that the trainer has still to fill in."""
    nested = [key for value in config.values() if isinstance(value, dict) for key in autos(value)]
    return nested + [key for key, value in config.items() if value == "auto"]


@pytest.mark.parametrize(
    ("name", "stage", "offload"), [("zero1", 1, 0), ("zero2", 2, 0), ("zero3", 3, 0), ("zero3_offload", 3, 1)]
)
def test_the_trainer_fills_in_every_auto(name, stage, offload, tmp_path):
    from transformers import Qwen3Config, Qwen3ForCausalLM, TrainingArguments
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    path = find_config(name)
    assert "train_batch_size" in autos(json.loads(path.read_text()))
    config = HfTrainerDeepSpeedConfig(str(path))
    assert (config._stage, config.is_zero2(), config.is_offload()) == (stage, stage == 2, bool(offload))
    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=3, gradient_accumulation_steps=2, max_grad_norm=0.5, use_cpu=True
    )
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, head_dim=8
        )
    )
    config.trainer_config_process(arguments)
    config.trainer_config_finalize(arguments, model, num_training_steps=1)
    assert not autos(config.config)
    assert config.config["train_micro_batch_size_per_gpu"] == 3
    assert config.config["gradient_clipping"] == 0.5
