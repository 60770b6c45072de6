"""Tokens, operations and memory of a training, counted beside PyTorch's own counter."""

from __future__ import annotations

import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3Config, Qwen3ForCausalLM, Trainer, TrainingArguments

from efficient_reasoning.training import speed
from efficient_reasoning.training.speed import Speed, SpeedMeter

ROWS, COLUMNS, STEPS = 4, 24, 3
ATTENTION = 2 * 4 * (8 + 8) * 2  # of a token that looks at one, in both layers


def model(**changes) -> Qwen3ForCausalLM:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "head_dim": 8, "vocab_size": 48}
    config = Qwen3Config(**sizes, num_attention_heads=4, num_key_value_heads=2, **changes)
    return Qwen3ForCausalLM._from_config(config, attn_implementation="eager")


def train(folder, trained: torch.nn.Module, kind: type[Trainer] = Trainer, **changes) -> Speed:
    row = {"input_ids": torch.arange(COLUMNS), "labels": torch.arange(COLUMNS)}
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=ROWS,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **changes,
    )
    trainer = kind(model=trained, args=arguments, train_dataset=[row] * 64)
    meter = SpeedMeter(trainer)
    trainer.add_callback(meter)
    trainer.train()
    return meter.speed


def test_operations_are_those_of_the_products(tmp_path):
    trained = model()
    measured = train(tmp_path, trained)
    batch = torch.arange(COLUMNS).repeat(ROWS, 1)
    with FlopCounterMode(display=False) as counter:
        trained(input_ids=batch, labels=batch).loss.backward()
    assert measured.steps == STEPS
    assert measured.tokens == STEPS * ROWS * COLUMNS
    masked = COLUMNS**2 - COLUMNS * (COLUMNS + 1) // 2  # PyTorch counts what no token sees, too
    counted = STEPS * (counter.get_total_flops() - 3 * ROWS * masked * ATTENTION)
    assert measured.flops == pytest.approx(counted, rel=1e-4)  # some versions turn positions to angles by a product
    assert measured.mfu is None  # of a CPU


def test_frozen_weights_get_no_gradient(tmp_path):
    trained = model()
    whole = train(tmp_path, trained).flops
    for parameter in trained.model.layers.parameters():
        parameter.requires_grad_(False)
    share = sum(each.numel() for each in trained.parameters() if each.requires_grad) / trained.num_parameters()
    assert train(tmp_path, trained).flops == pytest.approx(whole * (2 + share) / 3)


def test_accumulated_batches_and_checkpointing_count_once(tmp_path):
    plain = train(tmp_path, model())
    twice = train(tmp_path, model(), gradient_accumulation_steps=2, gradient_checkpointing=True)
    assert twice.tokens == 2 * plain.tokens
    assert twice.flops == pytest.approx(2 * plain.flops)


def test_a_window_is_all_that_is_looked_at(tmp_path):
    kinds = {"layer_types": ["sliding_attention"] * 2, "use_sliding_window": True, "sliding_window": 4}
    full, windowed = train(tmp_path, model()), train(tmp_path, model(**kinds))
    looks = sum(range(1, COLUMNS + 1)) - sum(min(place, 4) for place in range(1, COLUMNS + 1))
    assert full.flops - windowed.flops == pytest.approx(3 * STEPS * ROWS * looks * ATTENTION, rel=1e-3)


def test_rollouts_are_timed_apart(tmp_path):
    class Online(Trainer):
        def _generate_and_score_completions(self, inputs):
            time.sleep(0.1)
            with torch.no_grad():
                self.model(inputs["input_ids"])  # what is only read is no training
            return inputs

        def _prepare_inputs(self, inputs):
            return super()._prepare_inputs(self._generate_and_score_completions(inputs))

    measured = train(tmp_path, model(), Online)
    assert STEPS * 0.1 <= measured.rollout_seconds < measured.seconds
    assert measured.tokens == STEPS * ROWS * COLUMNS
    assert "rollouts" in str(measured)


def test_layers_that_run_one_by_one_are_counted_by_what_is_embedded(tmp_path):
    class OneByOne(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return model.lm_head(model.model.embed_tokens(inputs["input_ids"])).float().pow(2).mean()

    measured = train(tmp_path, model(), OneByOne)
    assert measured.tokens == STEPS * ROWS * COLUMNS
    assert measured.flops is None and "MFU" not in str(measured)


def test_a_line_says_it_all():
    line = str(Speed(1200, 3e6, 130.0, 30.0, 2e15, 1e14, 3 * 2**30))
    assert line == (
        "1,200 steps in 130 s: 30,000 tokens/s in training, MFU 20.0%, rollouts 23% of the time, peak memory 3.00 GiB"
    )


def test_peaks_are_of_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    assert speed._peak_flops(torch.device("cuda")) == 9.89e14
    assert speed._peak_flops(torch.device("cpu")) is None
