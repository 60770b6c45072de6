"""Fixed rows that are refilled decode what `generate` decodes, whoever was in a row before."""

from __future__ import annotations

import gc
import random
import weakref
from dataclasses import replace

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from efficient_reasoning.inference import Request, Sampling
from efficient_reasoning.inference.graph_engine import GraphEngine
from efficient_reasoning.inference.transformers_engine import TransformersEngine
from tests.inference.test_engine import EOS, GREEDY, PAD, generated, prompts, tiny

CLASSES = {"qwen3": (Qwen3Config, Qwen3ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}


@pytest.fixture(params=[("qwen3", 4), ("qwen3", 2), ("llama", 4), ("llama", 1)], ids=str)
def models(request):
    """The same model twice: the engine replaces the attention of its own."""
    name, key_value_heads = request.param
    return tiny(*CLASSES[name], key_value_heads), tiny(*CLASSES[name], key_value_heads)


@pytest.fixture(scope="module")
def qwen3():
    return tiny(Qwen3Config, Qwen3ForCausalLM, key_value_heads=2)


def decode(model, requests: list[Request], **settings):
    return GraphEngine(model, frozenset(EOS), PAD, **settings).generate(requests)


@pytest.mark.parametrize("stride", [1, 5])
def test_greedy_tokens_are_those_of_generate(models, stride, monkeypatch):
    """More requests than rows, in a buffer so short that it is moved again and again."""
    monkeypatch.setattr("efficient_reasoning.inference.graph_engine._COLUMNS_APART", 3)
    plain, model = models
    rows = prompts(40)
    expected = generated(plain, rows, 60)
    completions = decode(model, [Request(row, 60, GREEDY) for row in rows], rows=8, stride=stride)
    assert [completion.ids for completion in completions] == expected
    assert [completion.finished for completion in completions] == [ids[-1] in EOS for ids in expected]
    assert len({len(ids) for ids in expected}) > 4  # rows are refilled at different times


def test_samples_are_those_of_the_reference(qwen3):
    requests = [
        Request(row, 5 + 4 * seed, Sampling(temperature, top_p, top_k), seed)
        for seed, row in enumerate(prompts(12))
        for temperature, top_p, top_k in ((0.7, 0.9, 5), (1.5, 1.0, 0), (0, 1.0, 0))
    ]
    expected = TransformersEngine(qwen3, frozenset(EOS), PAD).generate(requests)
    engine = GraphEngine(qwen3, frozenset(EOS), PAD, rows=5)
    order = random.Random(0).sample(range(len(requests)), len(requests))
    for chosen in (range(len(requests)), order):  # the second time in the loops that the first one left
        completions = engine.generate([requests[index] for index in chosen])
        assert [completion.ids for completion in completions] == [expected[index].ids for index in chosen]
        for completion, index in zip(completions, chosen, strict=True):
            assert completion.finished == expected[index].finished
            assert completion.spend.decoded_tokens == len(completion.ids)
            assert completion.spend.seconds > 0


def test_a_prompt_is_prefilled_once_for_all_of_its_samples(qwen3, monkeypatch):
    seen = []
    forward = qwen3.forward
    monkeypatch.setattr(qwen3, "forward", lambda **inputs: seen.append(inputs["input_ids"].shape) or forward(**inputs))
    few = prompts(3, shortest=4)
    requests = [Request(row, 12, Sampling(1.0, 1.0, 0), seed) for row in few for seed in range(16)]
    completions = decode(qwen3, requests, rows=4)  # fewer rows than samples of one prompt
    prefilled = [shape for shape in seen if shape[1] > 1]
    assert sum(rows for rows, _ in prefilled) == 3
    spends = [completion.spend for completion in completions]
    assert sum(spend.computed_prompt_tokens for spend in spends) == sum(map(len, few))
    assert sum(spend.prompt_tokens for spend in spends) == 16 * sum(map(len, few))
    assert len({tuple(completion.ids) for completion in completions}) > 24


def test_prompts_that_take_several_passes_over_ever_longer_ones(qwen3, monkeypatch):
    """The second pass finds no room in front of the column, and moves what the first has placed."""
    monkeypatch.setattr("efficient_reasoning.inference.prefill._MOST_PROMPTS", 4)
    rows = sorted(prompts(16), key=len)
    assert len(rows[3]) < len(rows[7]) < len(rows[15])
    plain = tiny(Qwen3Config, Qwen3ForCausalLM, key_value_heads=2)
    completions = decode(qwen3, [Request(row, 30, GREEDY) for row in rows], rows=16)
    assert [completion.ids for completion in completions] == generated(plain, rows, 30)


def test_limits_of_one_token_and_one_request(qwen3):
    [row] = prompts(1)
    expected = generated(qwen3, [row], 30)[0]
    for limits in ([1], [1, 2, 5, 30], [30]):
        completions = decode(qwen3, [Request(row, limit, GREEDY) for limit in limits])
        assert [completion.ids for completion in completions] == [expected[:limit] for limit in limits]
    assert decode(qwen3, []) == []


def test_new_weights_are_taken_in_place(qwen3):
    other = tiny(Qwen3Config, Qwen3ForCausalLM, key_value_heads=2)
    for parameter in other.parameters():
        parameter.data.mul_(1.1)
    requests = [Request(row, 20, GREEDY) for row in prompts(6)]
    engine = GraphEngine(tiny(Qwen3Config, Qwen3ForCausalLM, key_value_heads=2), frozenset(EOS), PAD)
    before = engine.generate(requests)
    addresses = [parameter.data_ptr() for parameter in engine.model.parameters()]
    engine.refresh(other)
    assert addresses == [parameter.data_ptr() for parameter in engine.model.parameters()]
    after = [completion.ids for completion in engine.generate(requests)]
    assert after == [completion.ids for completion in decode(other, requests)]
    assert after != [completion.ids for completion in before]


def test_a_run_that_was_interrupted_leaves_nothing_behind(qwen3, monkeypatch):
    requests = [Request(row, 30, GREEDY) for row in prompts(20)]
    engine = GraphEngine(qwen3, frozenset(EOS), PAD, rows=4)
    expected = [completion.ids for completion in engine.generate(requests)]
    [loop] = engine._loops.values()
    step, calls = loop.step, []

    def interrupted() -> None:
        calls.append(1)
        if len(calls) == 12:
            raise KeyboardInterrupt
        step()

    monkeypatch.setattr(loop, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.generate(requests)
    assert [*engine._loops.values()] == [loop]
    assert [completion.ids for completion in engine.generate(requests)] == expected
    assert [completion.ids for completion in engine.generate([replace(requests[0], max_new_tokens=4)])] == [
        expected[0][:4]
    ]


@pytest.mark.parametrize(
    ("changes", "decodable"),
    [
        ({}, True),
        ({"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}, True),
        ({"layer_types": ["linear_attention", "full_attention"]}, False),
        ({"attn_logit_softcapping": 30.0}, False),
    ],
)
def test_it_knows_what_it_can_decode(qwen3, monkeypatch, changes, decodable):
    for name, value in changes.items():
        monkeypatch.setattr(qwen3.config, name, value, raising=False)
    assert GraphEngine.can_decode(qwen3.config) == decodable


def test_layers_that_look_back_over_a_window_only(monkeypatch):
    monkeypatch.setattr("efficient_reasoning.inference.graph_engine._COLUMNS_APART", 3)
    settings = {
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 5,
        "use_sliding_window": True,
    }
    plain, model = (tiny(Qwen3Config, Qwen3ForCausalLM, 2, **settings) for _ in range(2))
    rows = prompts(20)
    assert GraphEngine.can_decode(model.config)
    expected = generated(plain, rows, 40)
    assert [one.ids for one in decode(model, [Request(row, 40, GREEDY) for row in rows], rows=6)] == expected
    assert expected != generated(tiny(Qwen3Config, Qwen3ForCausalLM, 2), rows, 40)  # the window matters


def test_fewer_rows_where_memory_is_short(qwen3, monkeypatch):
    requests = [Request(row, 9, GREEDY) for row in prompts(12)]
    expected = [completion.ids for completion in decode(qwen3, requests)]
    engine = GraphEngine(qwen3, frozenset(EOS), PAD, rows=8)
    monkeypatch.setattr("efficient_reasoning.inference.memory.free_bytes", lambda device: 0)
    for _ in range(2):
        assert [completion.ids for completion in engine.generate(requests)] == expected
        assert next(iter(engine._loops.values())).rows == 1


def test_a_loop_that_is_replaced_gives_its_memory_back_at_once(qwen3):
    engine = GraphEngine(qwen3, frozenset(EOS), PAD, rows=8)
    engine.generate([Request(row, 9, GREEDY) for row in prompts(2)])
    held = weakref.ref(next(iter(engine._loops.values())).cache)
    gc.disable()
    try:
        engine.generate([Request(row, 200, GREEDY) for row in prompts(2)])
    finally:
        gc.enable()
    assert held() is None


@pytest.mark.gpu
@pytest.mark.parametrize("compile_step", [False, True])
def test_captured_steps_on_a_gpu(models, compile_step):
    plain, model = (one.cuda() for one in models)
    rows = prompts(200)
    expected = generated(plain, rows, 60)
    completions = decode(model, [Request(row, 60, GREEDY) for row in rows], rows=32, compile_step=compile_step)
    assert [completion.ids for completion in completions] == expected
