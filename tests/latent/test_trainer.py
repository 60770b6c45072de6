from __future__ import annotations

import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from efficient_reasoning.errors import BadInput
from efficient_reasoning.latent.curriculum import Curriculum, Example, Markers
from efficient_reasoning.latent.trainer import LatentTrainer

MARKERS = Markers([40], [41], 42, 43, 44)
END = 45


def examples(count: int = 64) -> list[Example]:
    """Copy the first token behind as many steps as it says."""
    rng = random.Random(0)
    firsts = [rng.randrange(1, 4) for _ in range(count)]
    return [Example([first], [[10 + step] for step in range(first)], [20 + first, END]) for first in firsts]


def build(folder, curriculum: Curriculum, positions: int = 64, **settings) -> LatentTrainer:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
    )
    defaults = {
        "max_steps": 12,
        "per_device_train_batch_size": 8,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    args = TrainingArguments(str(folder), **defaults | settings)
    return LatentTrainer(LlamaForCausalLM(config), args, examples(), curriculum, MARKERS, pad_id=0)


def logged(trainer: LatentTrainer, name: str) -> list[float]:
    return [row[name] for row in trainer.state.log_history if name in row]


@pytest.mark.parametrize("method", ["coconut", "pause", "icot", "cot", "no_cot"])
def test_every_method_learns(tmp_path, method):
    trainer = build(tmp_path, Curriculum(method, 20, max_stage=2, removed_tokens=1), max_steps=80)
    trainer.train()
    losses = logged(trainer, "loss")
    assert losses[-1] < 0.3 < losses[0]
    last = trainer.curriculum.last_stage
    assert logged(trainer, "stage")[-1] == last == {"coconut": 3, "pause": 3, "icot": 2}.get(method, 0)
    assert logged(trainer, "latents")[-1] == (2 if method == "coconut" else 0)


def test_the_optimizer_starts_anew_with_each_stage(tmp_path):
    trainer = build(tmp_path, Curriculum("coconut", 3, max_stage=2))
    steps = []
    step = torch.optim.AdamW.step
    weight = next(trainer.model.parameters())

    def counted(optimizer, *arguments, **named):
        done = step(optimizer, *arguments, **named)
        steps.append(int(optimizer.state[weight]["step"]))
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", counted)
        trainer.train()
    assert steps == [1, 2, 3] * 4


@pytest.mark.parametrize("cut", [3, 4])  # at the end of a stage, and in the middle of one
def test_a_run_that_goes_on_is_the_run_that_was_not_cut(tmp_path, cut):
    curriculum = Curriculum("coconut", 3, max_stage=2, uniform_prob=0.3)
    settings = {"max_steps": 8, "save_strategy": "steps", "save_steps": cut}
    whole = build(tmp_path / "whole", curriculum, **settings)
    whole.train()
    again = build(tmp_path / "whole", curriculum, **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{cut}"))
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_bad_settings_are_named(tmp_path):
    curriculum = Curriculum("coconut", 3, max_stage=4, latents_per_step=8)
    with pytest.raises(BadInput, match="up to 42 tokens and latents, and the model has 16 positions"):
        build(tmp_path, curriculum, positions=16)
    with pytest.raises(BadInput, match="set gradient_checkpointing to false"):
        build(tmp_path, curriculum, gradient_checkpointing=True)
