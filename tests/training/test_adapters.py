"""LoRA: rows that scale it, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM
from trl import SFTConfig

from efficient_reasoning.checkpoint import load_tokenizer
from efficient_reasoning.errors import BadInput
from efficient_reasoning.training import adapters
from efficient_reasoning.training.adapters import ScaledSFTTrainer, hasten_controls, leave_fused_out, lora_config

SCALES = [0.0, 0.5, 1.0]


@pytest.fixture
def trainer(tiny_model, tmp_path):
    """`trainer(scales)`: LoRA that changes the model, and a row for each scale."""

    def build(scales: list[float], token_ids: Sequence[int] = (), **changes) -> ScaledSFTTrainer:
        rows = [{"input_ids": [5, 6, 7 + n], "labels": [-100, 6, 7 + n]} for n in range(len(scales))]
        rows = [row | {"adapter_scale": scale} for row, scale in zip(rows, scales, strict=True)]
        settings = {"bf16": False, "use_cpu": True, "report_to": "none", "gradient_checkpointing": False} | changes
        trainer = ScaledSFTTrainer(
            AutoModelForCausalLM.from_pretrained(tiny_model),
            args=SFTConfig(str(tmp_path), **settings),
            train_dataset=Dataset.from_list(rows),
            processing_class=load_tokenizer(str(tiny_model)),
            peft_config=lora_config(4, 32.0, 0.0, token_ids),
        )
        generator = torch.Generator().manual_seed(0)
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.data = torch.randn(parameter.shape, generator=generator) / 10
        return trainer

    return build


def loss_of(trainer: ScaledSFTTrainer, rows: list[int]) -> torch.Tensor:
    """Of these rows of its data, each counted as one."""
    trainer._set_signature_columns_if_needed()
    kept = [{name: row[name] for name in trainer._signature_columns if name in row} for row in trainer.train_dataset]
    batch = trainer.data_collator([kept[row] for row in rows])
    return trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=1)


def gradients(trainer: ScaledSFTTrainer, rows: list[int]) -> dict[str, torch.Tensor]:
    trainer.model.zero_grad()
    loss_of(trainer, rows).backward()
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


def test_controls_learn_faster_than_adapters(trainer):
    """Each as often as asked, whatever the schedule, and nothing is left out or trained twice."""
    scaled = trainer([0.0, 1.0], [5, 7], learning_rate=1e-3, weight_decay=0.1, max_steps=4, warmup_steps=2)
    hasten_controls(scaled)
    scaled.create_optimizer_and_scheduler(4)
    adapters, controls = scaled.optimizer.param_groups
    assert [weight.shape for weight in controls["params"]] == [(2, scaled.model.config.hidden_size)]
    assert (adapters["weight_decay"], controls["weight_decay"]) == (0.1, 0.0)
    trained = {id(weight) for weight in scaled.model.parameters() if weight.requires_grad}
    assert sorted(map(id, adapters["params"] + controls["params"])) == sorted(trained)
    for share in (0.0, 0.5, 1.0):
        assert (adapters["lr"], controls["lr"]) == pytest.approx((share * 1e-3, share * 1e-2))
        scaled.optimizer.step()
        scaled.lr_scheduler.step()


def test_without_controls_the_optimizer_is_the_usual_one(trainer):
    scaled = trainer([0.0, 1.0])
    hasten_controls(scaled)
    assert scaled.optimizer_cls_and_kwargs is None


def test_at_scale_0_the_model_is_the_base(trainer):
    scaled = trainer([0.0, 1.0])
    off, on = loss_of(scaled, [0]), loss_of(scaled, [1])
    with scaled.model.disable_adapter():
        for row, loss, same in ((0, off, True), (1, on, False)):
            base = loss_of(scaled, [row])
            assert torch.equal(base, loss) == same


def test_a_scale_is_that_of_its_row(trainer):
    """A batch costs what its rows cost alone, and half a scale is what half of alpha is."""
    scaled = trainer(SCALES)
    alone = [loss_of(scaled, [row]) for row in range(len(SCALES))]
    assert torch.allclose(loss_of(scaled, [0, 1, 2]), sum(alone))
    whole = trainer([1.0] * len(SCALES))
    for module in whole.model.modules():
        if isinstance(module, adapters.LoraLayer):
            module.scaling["default"] *= 0.5
    assert torch.allclose(loss_of(whole, [1]), alone[1])


def test_a_rows_gradient_is_scaled(trainer):
    """To first order: from up-projections of 0 the gradient is linear in the scale, and at scale 0 there is none."""
    scaled = trainer(SCALES)
    for name, parameter in scaled.model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    whole = trainer([1.0] * len(SCALES))
    whole.model.load_state_dict(scaled.model.state_dict())
    for row, scale in enumerate(SCALES):
        ours, theirs = gradients(scaled, [row]), gradients(whole, [row])
        assert ours.keys() == theirs.keys()
        assert max(gradient.abs().max() for gradient in theirs.values()) > 1e-4
        for name in ours:
            assert torch.allclose(ours[name], scale * theirs[name], atol=1e-7)


def test_checkpointing_computes_again_with_the_same_scales(trainer):
    plain, checkpointed = trainer(SCALES), trainer(SCALES, gradient_checkpointing=True)
    checkpointed.model.gradient_checkpointing_enable()
    checkpointed.model.train()
    ours, theirs = gradients(checkpointed, [0, 1, 2]), gradients(plain, [0, 1, 2])
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)


def test_layers_that_mix_the_rows_of_a_batch_are_refused():
    with pytest.raises(BadInput, match="adapter_scale: this architecture mixes the rows of a batch"):
        ScaledSFTTrainer._scale(SimpleNamespace(), None, (), torch.zeros(6, 4))


def test_adapters_are_refused_under_zero_3(monkeypatch):
    monkeypatch.setattr(adapters, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(BadInput, match="lora_rank: adapters cannot be merged under ZeRO-3; use deepspeed: zero2"):
        lora_config(4, 32.0, 0.0)


def test_every_linear_layer_but_the_output_has_one(tiny_model):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), lora_config(4, 32.0, 0.0))
    adapted = {name.split(".")[-1] for name, module in model.named_modules() if isinstance(module, adapters.LoraLayer)}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_mamba_gets_no_adapter_where_its_kernels_would_pass_it_over(capsys):
    settings = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    mamba = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "attn_layer_indices": [1]}
    config = AutoConfig.for_model("bamba", **settings | mamba)
    model, lora = AutoModelForCausalLM.from_config(config), lora_config(4, 8, 0.0)
    leave_fused_out(lora, model)
    with_adapter = {name.partition(".lora_A")[0] for name, _ in get_peft_model(model, lora).named_parameters()}
    assert not any(name.endswith("mamba.out_proj") for name in with_adapter)
    assert sum(name.endswith(("mamba.in_proj", "q_proj", "o_proj", "down_proj")) for name in with_adapter) == 5
    leave_fused_out(lora, AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", **settings, head_dim=8)))
    assert lora.exclude_modules is None
