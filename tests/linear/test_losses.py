"""What the two stages minimise, and what they leave alone."""

from __future__ import annotations

import contextlib

import pytest
import torch
from peft import LoraConfig, get_peft_model

from efficient_reasoning.linear.conversion import linearize
from efficient_reasoning.linear.losses import finetuning_loss, teacher_states, transfer_loss
from tests.linear.models import softmax_model, trained

OWN = ("query_map.weight", "key_map.weight", "gate")


@pytest.fixture
def batch():
    ids = torch.randint(2, 50, (3, 40), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 30:], mask[1, 25:] = 0, 0
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@torch.no_grad()
def test_the_teacher_is_the_model_as_it_was(batch, kind):
    model = softmax_model(kind)
    wanted = model.base_model(**batch).last_hidden_state
    found = teacher_states(linearize(model, 5, [2]).model, **batch)
    kept = batch["attention_mask"].bool()
    torch.testing.assert_close(found[kept], wanted[kept], atol=1e-5, rtol=0)


def test_a_window_over_everything_has_nothing_to_learn(batch):
    student = trained(linearize(softmax_model(), 40))
    assert transfer_loss(student, **batch) < 1e-10
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    loss, parts = finetuning_loss(student, **batch, kl_coef=2.0, without_adapters=contextlib.nullcontext)
    assert parts["kl"].abs() < 1e-5 and torch.equal(parts["cross_entropy"] + 2 * parts["kl"], loss)
    wanted = student(**batch).loss
    torch.testing.assert_close(parts["cross_entropy"], wanted)


def test_the_transfer_reaches_feature_maps_and_gates_and_nothing_else(batch, student):
    student.train()
    transfer_loss(student, **batch).backward()
    gradients = {name: weight.grad for name, weight in student.named_parameters() if weight.grad is not None}
    linear = student.config.layer_types.count("hybrid_sliding")
    assert len(gradients) == 3 * linear and all(name.endswith(OWN) for name in gradients)
    assert all(gradient.abs().sum() > 0 for gradient in gradients.values())
    student.zero_grad()
    student.gradient_checkpointing_enable({"use_reentrant": False})
    transfer_loss(student, **batch).backward()
    for name, gradient in gradients.items():
        torch.testing.assert_close(student.get_parameter(name).grad, gradient)


def test_the_transfer_comes_closer(batch):
    student = linearize(softmax_model(), 5)
    own = [weight for name, weight in student.named_parameters() if name.endswith(OWN)]
    optimizer, losses = torch.optim.Adam(own, 3e-2), []
    for _ in range(30):
        loss = transfer_loss(student, **batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_padding_is_no_part_of_the_transfer(batch, student):
    loss = transfer_loss(student, **batch)
    wider = {name: torch.nn.functional.pad(each, (0, 9)) for name, each in batch.items()}
    torch.testing.assert_close(transfer_loss(student, **wider), loss, atol=1e-6, rtol=1e-5)


def test_the_teacher_stays_who_it_is_while_adapters_are_trained(batch, student):
    lora = LoraConfig(r=2, target_modules=["q_proj", "o_proj"], init_lora_weights=False)
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    with torch.no_grad():
        teacher = student.lm_head(teacher_states(student.model, batch["input_ids"], batch["attention_mask"]))
    adapted = get_peft_model(student, lora)
    plain, without = adapted.get_base_model(), adapted.disable_adapter
    loss, parts = finetuning_loss(plain, **batch, kl_coef=1.0, without_adapters=without)
    loss.backward()
    kept = batch["labels"][:, 1:] != -100
    logits = adapted(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    found, wanted = (each[:, :-1][kept].log_softmax(-1) for each in (logits, teacher))
    distance = torch.nn.functional.kl_div(found, wanted, reduction="batchmean", log_target=True)
    torch.testing.assert_close(parts["kl"], distance.detach(), atol=1e-5, rtol=1e-4)
    assert parts["kl"] > 1e-3
    assert all((weight.grad is not None) == ("lora_" in name) for name, weight in adapted.named_parameters())
