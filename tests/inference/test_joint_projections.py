"""Joined projections compute, learn, change and are saved as before."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from efficient_reasoning.inference import Request
from efficient_reasoning.inference.graph_engine import GraphEngine
from efficient_reasoning.inference.joint_projections import join_projections
from tests.inference.test_engine import EOS, GREEDY, PAD, generated, prompts, tiny

CLASSES = {
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),  # with biases
}


@pytest.fixture(params=CLASSES)
def models(request):
    """The same model twice, the second one joined."""
    plain, joined = (tiny(*CLASSES[request.param], 2) for _ in range(2))
    assert join_projections(joined) == 2 * joined.config.num_hidden_layers
    return plain, joined


def test_greedy_tokens_stay_the_same(models):
    plain, joined = models
    rows = prompts(20)
    requests = [Request(row, 30, GREEDY) for row in rows]
    completions = GraphEngine(joined, frozenset(EOS), PAD, rows=8).generate(requests)
    assert [completion.ids for completion in completions] == generated(plain, rows, 30)


def test_a_refresh_reaches_the_product(models):
    plain, joined = models
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    engine = GraphEngine(joined, frozenset(EOS), PAD, rows=8)
    engine.refresh(plain)
    rows = prompts(8)
    completions = engine.generate([Request(row, 30, GREEDY) for row in rows])
    assert [completion.ids for completion in completions] == generated(plain, rows, 30)


def test_gradients_are_the_same(models):
    ids = torch.tensor(prompts(1))
    for model in models:
        model(input_ids=ids).logits.square().sum().backward()
    plain, joined = (dict(model.named_parameters()) for model in models)
    assert plain.keys() == joined.keys()
    for name, parameter in plain.items():
        torch.testing.assert_close(joined[name].grad, parameter.grad, msg=name)


def test_a_saved_folder_is_the_same(models, tmp_path):
    plain, joined = models
    joined.save_pretrained(tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert saved.keys() == plain.state_dict().keys()
    assert all(torch.equal(saved[name], weight) for name, weight in plain.state_dict().items())


def test_projections_that_differ_stay_apart():
    model = tiny(*CLASSES["qwen3"], 2)
    attention = model.model.layers[0].self_attn
    attention.k_proj = torch.nn.Linear(attention.k_proj.in_features, attention.k_proj.out_features, bias=True)
    assert join_projections(model) == 2 * model.config.num_hidden_layers - 1
