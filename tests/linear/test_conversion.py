"""What is converted, and what is refused."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from efficient_reasoning.errors import BadInput
from efficient_reasoning.linear.conversion import ARCHITECTURES, check_convertible, linearize
from tests.linear.models import softmax_model


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ARCHITECTURES)
@torch.no_grad()
def test_all_but_attention_stays_as_it_was(kind, tied):
    ids = torch.randint(2, 50, (2, 12))
    model = softmax_model(kind, tie_word_embeddings=tied)
    student = linearize(model, 12, [0, 1, 2])  # all keys stand in the window
    torch.testing.assert_close(student(ids).logits, model(ids).logits, atol=1e-5, rtol=0)
    assert student.lm_head.weight.data_ptr() == model.lm_head.weight.data_ptr()
    assert (student.lm_head.weight is student.model.embed_tokens.weight) == tied


def test_scaled_positions_and_biases_come_along():
    rope = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope["original_max_position_embeddings"] = 16
    model = softmax_model("llama", rope_parameters=rope, attention_bias=True, mlp_bias=True)
    ids = torch.randint(2, 50, (2, 40))
    torch.testing.assert_close(linearize(model, 40)(ids).logits, model(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("gemma2", {}, "caps its scores"),
        ("gpt_oss", {}, "attention sinks"),
        ("mistral", {"sliding_window": 16}, "sliding_window 16"),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0}, "sliding_attention"),
        ("gpt2", {}, "is a gpt2; models of llama, mistral, qwen2, qwen3"),
        ("linearized", {}, "is linearized already"),
    ],
)
def test_other_attention_is_refused(kind, settings, message):
    with pytest.raises(BadInput, match=message):
        check_convertible("teacher", AutoConfig.for_model(kind, **settings))


@pytest.mark.parametrize(
    ("window", "layers", "message"),
    [
        (1, [], "window_tokens is 1; give at least 2"),
        (8, [4], "has layers 0 to 3"),
        (8, [-1], "has layers 0 to 3"),
        (8, [0, 1, 2, 3], "one at least must be linearized"),
    ],
)
def test_windows_and_layers_that_mean_nothing_are_refused(window, layers, message):
    with pytest.raises(BadInput, match=message):
        linearize(softmax_model(), window, layers)


def test_heads_that_do_not_fit_are_refused():
    model = softmax_model("llama")
    model.config.num_key_value_heads = 3
    with pytest.raises(BadInput, match="4 query heads do not share 3 key-value heads evenly"):
        linearize(model, 8)
    model = softmax_model("llama")
    model.model.layers[0].self_attn.head_dim = 7
    with pytest.raises(BadInput, match="Heads are 7 wide"):
        linearize(model, 8)
