"""Rows of constant size decode what `generate` decodes, whoever was in a row before, and however long they get."""

from __future__ import annotations

import copy
import os
import random

import pytest
import torch
from transformers import DynamicCache

from efficient_reasoning.inference import Request, Sampling, state_attention
from efficient_reasoning.inference.graph_engine import GraphEngine
from efficient_reasoning.inference.reasoner import torch_engine
from efficient_reasoning.inference.slots import KeyValues
from efficient_reasoning.inference.state_attention import WindowState
from efficient_reasoning.linear.conversion import linearize
from tests.linear.models import softmax_model, trained

EOS, PAD = frozenset({1}), 0
GREEDY = Sampling(0.0, 1.0, 0)


def prompts(count: int) -> list[list[int]]:
    """From shorter than the window of 5 to several times as long."""
    rng = random.Random(0)
    return [[rng.randrange(2, 50) for _ in range(rng.randint(1, 23))] for _ in range(count)]


def generated(model, ids: list[int], new_tokens: int) -> list[int]:
    out = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=new_tokens)
    return out[0, len(ids) :].tolist()


def test_greedy_tokens_are_those_of_generate(student, monkeypatch):
    monkeypatch.setattr("efficient_reasoning.inference.graph_engine._COLUMNS_APART", 3)
    rows = prompts(24)
    limits = [random.Random(number).randint(1, 40) for number in range(24)]
    expected = [generated(student, row, limit) for row, limit in zip(rows, limits, strict=True)]
    engine = GraphEngine(copy.deepcopy(student), EOS, PAD, rows=5)
    requests = [Request(row, limit, GREEDY) for row, limit in zip(rows, limits, strict=True)]
    for _ in range(2):  # the second time in the rows that the first one left
        assert [completion.ids for completion in engine.generate(requests)] == expected
    assert len({len(ids) for ids in expected}) > 8


def test_a_row_decodes_alone_what_it_decodes_among_others(student):
    requests = [Request(row, 30, Sampling(1.0, 0.9, 20), seed) for seed, row in enumerate(prompts(9))]
    alone = [GraphEngine(student, EOS, PAD).generate([request])[0].ids for request in requests]
    assert [one.ids for one in GraphEngine(student, EOS, PAD, rows=4).generate(requests)] == alone


def test_a_state_is_not_held_for_who_goes_on():
    """It cannot be cut to a beginning; keys and values of the other layers alone are of no use."""
    student = trained(linearize(softmax_model(), 5, [1, 3]))
    engine, rows = GraphEngine(student, EOS, PAD), prompts(6)
    with engine.keeping():
        begun = engine.generate([Request(row, 4, GREEDY) for row in rows])
        asked = [[*row, *one.ids] for row, one in zip(rows, begun, strict=True) if not one.finished]
        assert asked
        offsets = [len(one.ids) for one in begun if not one.finished]
        requests = [Request(ids, 9, GREEDY, offset=offset) for ids, offset in zip(asked, offsets, strict=True)]
        completions = engine.generate(requests)
    assert [one.ids for one in completions] == [generated(student, ids, 9) for ids in asked]
    assert [one.spend.computed_prompt_tokens for one in completions] == [len(ids) for ids in asked]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("key_value_heads", [1, 4])
def test_architectures_and_groups(kind, key_value_heads):
    student = trained(linearize(softmax_model(kind, num_key_value_heads=key_value_heads), 6, [0]))
    rows = prompts(6)
    expected = [generated(student, row, 25) for row in rows]
    completions = GraphEngine(student, EOS, PAD, rows=3).generate([Request(row, 25, GREEDY) for row in rows])
    assert [completion.ids for completion in completions] == expected


def test_the_states_of_a_row_are_those_of_transformers_cache(student):
    ids = prompts(3)[1] * 3
    engine = GraphEngine(copy.deepcopy(student), EOS, PAD, rows=1)
    [completion] = engine.generate([Request(ids, 17, GREEDY)])
    seen = [*ids, *completion.ids[:-1]]
    cache = DynamicCache(config=student.config)
    with torch.no_grad():
        student(torch.tensor([seen]), past_key_values=cache)
    [loop] = engine._loops.values()
    for ours, theirs, kind in zip(loop.cache.layers, cache.layers, student.config.layer_types, strict=True):
        if kind == "full_attention":
            assert isinstance(ours, KeyValues)
            torch.testing.assert_close(ours.keys[0, :, loop.cache.at - len(seen) : loop.cache.at], theirs.keys[0])
            continue
        torch.testing.assert_close(ours.sums[0], theirs.recurrent_states[0][0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.norms[0], theirs.recurrent_states[1][0], rtol=1e-4, atol=1e-4)
        for place in range(len(seen) - 4, len(seen)):  # the last W - 1
            torch.testing.assert_close(ours.values[0, :, place % 5], theirs.values[0, :, place - len(seen)])


def test_what_a_linearized_layer_keeps_does_not_grow():
    student = linearize(softmax_model(), 5)
    engine = GraphEngine(student, EOS, PAD)
    of_column, of_row = engine.cache_bytes
    window, state = 2 * 5 * 8 * 4, (16 * 8 + 16) * 4
    assert (of_column, of_row) == (0, 4 * 2 * (window + state))
    engine.generate([Request([5, 6, 7], 90, GREEDY)])
    [loop] = engine._loops.values()
    assert all(isinstance(layer, WindowState) for layer in loop.cache.layers)
    assert sum(states.nbytes for layer in loop.cache.layers for states in layer) == of_row * loop.rows
    mixed = GraphEngine(linearize(softmax_model(), 5, [1, 3]), EOS, PAD).cache_bytes
    assert mixed == (2 * 2 * 2 * 8 * 4, of_row // 2)  # two layers of two heads


def test_it_is_the_backend_of_choice_but_for_latents(student):
    name, engine = torch_engine(student, EOS, PAD)
    assert name == "graph" and isinstance(engine, GraphEngine)
    assert not GraphEngine.can_decode(student.config, with_latents=True)


# On a CPU: TRITON_INTERPRET=1 pytest, with Triton installed.
@pytest.mark.skipif(
    state_attention.triton is None or not (torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET")),
    reason="needs Triton, and a GPU or TRITON_INTERPRET=1",
)
@pytest.mark.parametrize(("key_value_heads", "window", "head_dim"), [(2, 5, 8), (1, 16, 16), (4, 7, 8)])
@torch.no_grad()
def test_the_kernel_is_the_step(key_value_heads, window, head_dim):
    model = softmax_model(num_key_value_heads=key_value_heads, head_dim=head_dim)
    layer = trained(linearize(model, window)).model.layers[0].self_attn
    rows, features = 6, 2 * head_dim
    lengths = torch.tensor([1, 2, window - 1, window, window + 1, 3 * window + 2])
    query = torch.randn(rows, 4, 1, head_dim)
    key, value = torch.randn(2, rows, key_value_heads, 1, head_dim)
    window_states = torch.randn(2, rows, key_value_heads, window, head_dim)
    sums, norms = (torch.rand(rows, key_value_heads, features, *rest) + 1 for rest in ((head_dim,), ()))
    before, after = (WindowState(*window_states.clone(), sums.clone(), norms.clone()) for _ in range(2))
    wanted = state_attention.attend_step(layer, query, key, value, after, lengths)
    # What a step does before the kernel: its own key and value in place, and the features of the one that leaves.
    row, leaving = torch.arange(rows), lengths % window
    for states, new in ((before.keys, key), (before.values, value)):
        states[row, :, (lengths - 1) % window] = new[:, :, 0]
    old = layer.key_map(before.keys[row, :, leaving][:, :, None])[:, :, 0] * (lengths >= window)[:, None, None]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    held = WindowState(*(states.to(device) for states in before))
    inputs = (layer.query_map(query)[:, :, 0], old, lengths, layer.gate)
    got = state_attention._attend_on_gpu(
        query.to(device), held, *(tensor.to(device) for tensor in inputs), layer.scaling
    )
    torch.testing.assert_close(got.cpu(), wanted)
    torch.testing.assert_close(tuple(states.cpu() for states in held), tuple(after))
