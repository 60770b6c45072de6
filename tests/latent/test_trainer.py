from __future__ import annotations

import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from efficient_reasoning.errors import BadInput
from efficient_reasoning.latent.curriculum import Curriculum, Example, Markers
from efficient_reasoning.latent.objectives import LossWeights
from efficient_reasoning.latent.projection import LatentProjection
from efficient_reasoning.latent.trainer import LatentTrainer, check_lengths

MARKERS = Markers([40], [41], 42, 43, 44)
END = 45


def examples(count: int = 64) -> list[Example]:
    """Copy the first token behind as many steps as it says."""
    rng = random.Random(0)
    firsts = [rng.randrange(1, 4) for _ in range(count)]
    return [Example([first], [[10 + step] for step in range(first)], [20 + first, END]) for first in firsts]


def build(folder, curriculum: Curriculum, positions: int = 64, weights=None, **settings) -> LatentTrainer:
    """With weights of losses, there is a projection, too."""
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
    projection = LatentProjection(32, True, 0.6) if weights is not None else None
    return LatentTrainer(LlamaForCausalLM(config), args, examples(), curriculum, MARKERS, 0, projection, weights)


def logged(trainer: LatentTrainer, name: str) -> list[float]:
    return [row[name] for row in trainer.state.log_history if name in row]


@pytest.mark.parametrize("method", ["coconut", "sim_cot", "codi", "pause", "icot", "cot", "no_cot"])
def test_every_method_learns(tmp_path, method):
    trainer = build(tmp_path, Curriculum(method, 20, max_stage=2, removed_tokens=1), max_steps=80)
    trainer.train()
    losses = logged(trainer, "loss")
    assert losses[-1] < (0.6 if method == "codi" else 0.3) < losses[0]  # of which distillation is most
    last = trainer.curriculum.last_stage
    assert logged(trainer, "stage")[-1] == last == {"coconut": 3, "sim_cot": 3, "pause": 3, "icot": 2}.get(method, 0)
    assert logged(trainer, "latents")[-1] == (2 if method in ("coconut", "sim_cot", "codi") else 0)


@pytest.mark.parametrize("bf16", [True, False])
def test_it_computes_in_the_precision_that_is_asked_for(tmp_path, bf16):
    trainer = build(tmp_path, Curriculum("codi", 1), weights=LossWeights(step=1.0), max_steps=1, bf16=bf16)
    found = set()
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda module, inputs, output: found.add(output.dtype))
    trainer.train()
    assert found == {torch.bfloat16 if bf16 else torch.float32}
    assert {weight.dtype for weight in trainer.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("method", ["sim_cot", "codi"])
def test_what_is_beside_the_model_learns_with_it(tmp_path, method):
    curriculum = Curriculum(method, 20, max_stage=2)
    trainer = build(tmp_path, curriculum, weights=LossWeights(step=1.0), max_steps=80)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    unmoved = [name for name, weight in trainer.model.named_parameters() if torch.equal(weight, before[name])]
    assert not unmoved and {name.split(".")[0] for name in before} == {"model", "step_decoder", "latent_projection"}
    for name in ("step_loss", "teacher_loss", "distillation_loss") if method == "codi" else ("step_loss",):
        assert logged(trainer, name)[-1] < 0.5 * logged(trainer, name)[0]


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


@pytest.mark.parametrize("weights", [None, LossWeights(step=1.0)])
@pytest.mark.parametrize("cut", [3, 4])  # at the end of a stage, and in the middle of one
def test_a_run_that_goes_on_is_the_run_that_was_not_cut(tmp_path, cut, weights):
    curriculum = Curriculum("coconut" if weights is None else "sim_cot", 3, max_stage=2, uniform_prob=0.3)
    settings = {"max_steps": 8, "save_strategy": "steps", "save_steps": cut, "weights": weights}
    whole = build(tmp_path / "whole", curriculum, **settings)
    whole.train()
    again = build(tmp_path / "whole", curriculum, **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{cut}"))
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", ["coconut", "codi", "pause", "icot", "cot"])
@pytest.mark.parametrize(("steps", "latents_per_step"), [((1, 1, 1), 1), ((1, 1, 1), 2), ((4, 1, 5), 2), ((7,), 1)])
def test_a_model_needs_as_many_positions_as_its_longest_row(method, steps, latents_per_step):
    curriculum = Curriculum(method, 1, max_stage=3, latents_per_step=latents_per_step)
    example = Example([1, 2], [[10] * length for length in steps], [20, END])
    rows = [curriculum.row(example, stage, MARKERS, random.Random(0)) for stage in range(curriculum.last_stage + 1)]
    rows += [] if method != "codi" else [curriculum.teacher_row(example, MARKERS)]
    longest = max(len(row.prompt_ids) + row.latents + len(row.completion_ids) for row in rows)
    check_lengths([example], curriculum, MARKERS, LlamaConfig(max_position_embeddings=longest))
    with pytest.raises(BadInput, match=f"up to {longest} tokens and latents, and the model has {longest - 1} pos"):
        check_lengths([example], curriculum, MARKERS, LlamaConfig(max_position_embeddings=longest - 1))


def test_what_lies_beside_the_model_is_not_shared_out(tmp_path, monkeypatch):
    monkeypatch.setattr("efficient_reasoning.latent.trainer.is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(BadInput, match="not trained under ZeRO-3; use ZeRO-2"):
        build(tmp_path, Curriculum("sim_cot", 3), weights=LossWeights(step=1.0))


def test_bad_settings_are_named(tmp_path):
    curriculum = Curriculum("coconut", 3, max_stage=4, latents_per_step=8)
    with pytest.raises(BadInput, match="up to 39 tokens and latents, and the model has 16 positions"):
        build(tmp_path, curriculum, positions=16)
    with pytest.raises(BadInput, match="set gradient_checkpointing to false"):
        build(tmp_path, curriculum, gradient_checkpointing=True)
