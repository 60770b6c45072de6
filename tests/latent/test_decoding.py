from __future__ import annotations

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Qwen3Config

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import prefill
from efficient_reasoning.inference.engine import Request, Sampling
from efficient_reasoning.inference.graph_engine import GraphEngine
from efficient_reasoning.latent.decoding import Latents

VOCABULARY, BOT, LATENT, END = 50, 47, 48, 49
LATENTS = Latents(BOT, LATENT)
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "head_dim": 8}


# Gemma's first layer attends to a window that is shorter than some prompts.
WINDOW = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}


@pytest.fixture(params=[(Qwen3Config, {}), (LlamaConfig, {}), (Gemma3TextConfig, WINDOW)])
def model(request):
    config, window = request.param
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config(**SMALL, **HEADS, **window), dtype=torch.float32).eval()


def prompt(rng: random.Random, before: int, latents: int, after: int) -> list[int]:
    def draw(count: int) -> list[int]:
        return [rng.randrange(BOT) for _ in range(count)]

    return [*draw(before - 1), BOT, *[LATENT] * latents, *draw(after)]


@torch.no_grad()
def slowly(model, ids: list[int], new_tokens: int) -> list[int]:
    """Greedy tokens, everything from the beginning each time."""
    embed, states = model.get_input_embeddings(), []
    inputs = torch.zeros(1, 0, 32)
    for token in ids:
        latent = states[-1] if token == LATENT else embed(torch.tensor([[token]]))
        inputs = torch.cat([inputs, latent], 1)
        states.append(model.base_model(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, -1:])
    decoded = []
    while len(decoded) < new_tokens and END not in decoded:
        decoded.append(int(model.get_output_embeddings()(states[-1])[0, 0].argmax()))
        inputs = torch.cat([inputs, embed(torch.tensor([[decoded[-1]]]))], 1)
        states.append(model.base_model(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, -1:])
    return decoded


def engine(model, **settings) -> GraphEngine:
    return GraphEngine(model, frozenset({END}), pad_id=0, latents=LATENTS, **settings)


@pytest.mark.parametrize("rows", [2, 16])
def test_a_batch_decodes_what_each_decodes_slowly(model, rows):
    rng = random.Random(0)
    prompts = [prompt(rng, *sizes) for sizes in ((5, 3, 1), (9, 0, 2), (2, 6, 1), (1, 1, 4), (7, 2, 1), (4, 0, 1))]
    expected = [slowly(model, ids, 9) for ids in prompts]
    requests = [Request(ids, 9, Sampling(0)) for ids in prompts]
    assert [one.ids for one in engine(model, rows=rows).generate(requests)] == expected
    assert len({tuple(ids) for ids in expected}) > 3


def test_rounded_shapes_decode_the_same(model, monkeypatch):
    captured = []

    def capture(run, inputs, pool):  # what CUDA would, as it is
        captured.append([tensor.shape for tensor in inputs])
        return run

    make = prefill.Prefill.__init__
    monkeypatch.setattr(prefill.Prefill, "__init__", lambda self, engine, pool: make(self, engine, (0, 0)))
    monkeypatch.setattr(prefill, "Captured", capture)
    rng = random.Random(4)
    prompts = [prompt(rng, rng.randrange(1, 70), rng.choice((0, 3, 5)), rng.choice((1, 2))) for _ in range(12)]
    decoder = engine(model, rows=16)
    for _ in range(2):
        completions = decoder.generate([Request(ids, 5, Sampling(0)) for ids in prompts])
        assert [one.ids for one in completions] == [slowly(model, ids, 5) for ids in prompts]
    assert {len(shapes) for shapes in captured} == {2, 3}  # without latents, and with them
    assert all(shapes[0][0] == 16 for shapes in captured)


@pytest.mark.gpu
def test_captured_passes_on_a_gpu(model):
    rng = random.Random(3)
    prompts = [prompt(rng, rng.randrange(1, 90), 3, 1) for _ in range(40)]
    expected = [slowly(model, ids, 9) for ids in prompts]
    decoder = engine(model.cuda(), rows=16)
    for count in (40, 1, 1, 2):  # a shape that comes again is captured
        requests = [Request(ids, 9, Sampling(0)) for ids in prompts[-count:]]
        assert [one.ids for one in decoder.generate(requests)] == expected[-count:]


def test_an_engine_charges_latents_as_part_of_prompts(model):
    rng = random.Random(1)
    requests = [Request(prompt(rng, 5, 3, 1), 4, Sampling(0), offset=offset) for offset in (0, 1)]
    for completion in engine(model).generate([*requests, Request(prompt(rng, 5, 0, 4), 4, Sampling(0))]):
        spend = completion.spend
        assert (spend.prompt_tokens, spend.computed_prompt_tokens, spend.decoded_tokens) == (9, 9, len(completion.ids))


def test_latents_are_read_once_for_all_who_go_on_behind_them(model):
    rng = random.Random(2)
    prompts = [prompt(rng, *sizes) for sizes in ((5, 3, 1), (9, 0, 2), (2, 6, 1), (1, 1, 4))]
    expected = [slowly(model, ids, 9) for ids in prompts]
    graph, responses = engine(model), [[] for _ in prompts]
    with graph.keeping():
        for tokens in (3, 1, 5):
            asked = [i for i, ids in enumerate(responses) if END not in ids]
            requests = [
                Request([*prompts[i], *responses[i]], tokens, Sampling(0), offset=len(responses[i])) for i in asked
            ]
            for i, completion in zip(asked, graph.generate(requests), strict=True):
                assert completion.spend.computed_prompt_tokens == (1 if responses[i] else len(prompts[i]))
                responses[i] += completion.ids
    assert responses == expected


def test_what_looks_like_latents_in_a_response_is_not_held(model):
    """Read anew, it would be taken for latents where the problem has none."""
    graph, response = engine(model), [9, BOT, LATENT, LATENT, 11]
    with graph.keeping():
        for _ in range(2):
            [completion] = graph.generate([Request([4, 5, 6, *response], 3, Sampling(0), offset=len(response))])
            assert completion.spend.computed_prompt_tokens == 8


def test_a_placeholder_elsewhere_is_a_token_like_any_other(model):
    """A question may hold its text, and a model may write it; a probe then goes on from there."""
    question, response = [5, LATENT, 7, BOT], [BOT, LATENT, LATENT, 9, LATENT, 11]
    inputs = model.get_input_embeddings()(torch.tensor([question]))
    for _ in range(2):
        inputs = torch.cat([inputs, model.base_model(inputs_embeds=inputs).last_hidden_state[:, -1:]], 1)
    inputs = torch.cat([inputs, model.get_input_embeddings()(torch.tensor([[3, *response]]))], 1)
    expected = int(model(inputs_embeds=inputs).logits[0, -1].argmax())
    [completion] = engine(model).generate([Request([*question, LATENT, LATENT, 3, *response], 1, Sampling(0))])
    assert completion.ids == [expected]
    assert (completion.spend.prompt_tokens, completion.spend.decoded_tokens) == (13, 1)


def test_something_stands_behind_latents(model):
    with pytest.raises(BadInput, match="Latents end a prompt; put a token behind them"):
        engine(model).generate([Request([1, BOT, LATENT], 3, Sampling(0))])
