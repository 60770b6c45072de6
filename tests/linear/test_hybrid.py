"""A Qwen3 becomes a hybrid: layers that stay compute what they did, the others begin from their projections."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import kl_div, softplus

from efficient_reasoning.errors import BadInput
from efficient_reasoning.linear import hybrid
from efficient_reasoning.linear.hybrid import to_hybrid
from efficient_reasoning.linear.losses import mutual_kl_loss
from tests.linear.models import softmax_model


def ids_of(rows: int, tokens: int) -> torch.Tensor:
    return torch.randint(2, 50, (rows, tokens), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_layers_that_stay_compute_what_they_did(monkeypatch, tied):
    teacher = softmax_model("qwen3", tie_word_embeddings=tied, rms_norm_eps=1e-5)
    for name, weight in teacher.named_parameters():
        if "norm" in name:
            weight.uniform_(0.5, 2)
    monkeypatch.setattr(hybrid, "check_hybrid", lambda *_: None)  # which wants a layer replaced
    ids, mask = ids_of(2, 40), torch.ones(2, 40, dtype=torch.long)
    mask[0, :7] = 0
    same = to_hybrid(teacher, range(4))
    wanted, got = (model(ids, attention_mask=mask).logits[mask.bool()] for model in (teacher, same))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_others_begin_from_the_projections_of_attention():
    teacher = softmax_model("qwen3")
    student = to_hybrid(teacher, [1, 3])
    assert student.config.layer_types == ["linear_attention", "full_attention"] * 2
    new, old = student.model.layers[0].linear_attn, teacher.model.layers[0].self_attn
    hidden = torch.randn(1, 3, 32)
    query, key, value = new.in_proj_qkv(hidden).view(1, 3, 3, 4, 8).unbind(2)
    torch.testing.assert_close(query.flatten(2), old.q_proj(hidden))
    for mine, projection in ((key, old.k_proj), (value, old.v_proj)):
        torch.testing.assert_close(mine, projection(hidden).view(1, 3, 2, 8).repeat_interleave(2, 2))
    assert torch.equal(new.out_proj.weight, old.o_proj.weight)
    decay = new.A_log.exp() * softplus(new.dt_bias)
    torch.testing.assert_close(decay, torch.tensor([1e-3, 4.64e-3, 2.15e-2, 1e-1]), rtol=1e-2, atol=0)
    assert student(ids_of(2, 30)).logits.isfinite().all()


def test_the_loss_is_half_of_either_divergence():
    teacher = softmax_model("qwen3")
    student, ids = to_hybrid(teacher, [0]), ids_of(2, 12)
    labels = ids.clone()
    labels[0, :5] = -100
    loss, parts = mutual_kl_loss(student, teacher, ids, torch.ones_like(ids), labels)
    loss.backward()
    assert all(weight.grad is not None for weight in student.model.layers[1].linear_attn.parameters())
    assert all(weight.grad is None for weight in teacher.parameters())
    with torch.no_grad():
        own, wanted = (
            model(ids).logits[:, :-1].log_softmax(-1)[labels[:, 1:] != -100] for model in (student, teacher)
        )
    both = {"forward_kl": (own, wanted), "reverse_kl": (wanted, own)}
    both = {name: kl_div(*pair, reduction="batchmean", log_target=True) for name, pair in both.items()}
    torch.testing.assert_close(parts, both)
    torch.testing.assert_close(loss.detach(), sum(both.values()) / 2)
    assert min(both.values()) > 0.01 and both["forward_kl"] != both["reverse_kl"]


@pytest.mark.parametrize(
    ("kind", "layers", "sentence"),
    [
        ("llama", [0], "is no Qwen3 with full attention"),
        ("qwen3", [0, 1, 2, 3], "has layers 0 to 3, of which one at least must become a state"),
        ("qwen3", [4], "has layers 0 to 3"),
    ],
)
def test_what_cannot_be_converted_is_refused(kind, layers, sentence):
    with pytest.raises(BadInput, match=sentence):
        to_hybrid(softmax_model(kind), layers)
