from __future__ import annotations

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.engine import Request, Sampling
from efficient_reasoning.inference.graph_engine import GraphEngine
from efficient_reasoning.latent.decoding import Latents

VOCABULARY, LATENT, END = 50, 48, 49
LATENTS = Latents(LATENT)
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "head_dim": 8}


@pytest.fixture(params=[Qwen3Config, LlamaConfig])
def model(request):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(request.param(**SMALL, **HEADS), dtype=torch.float32).eval()


def prompt(rng: random.Random, before: int, latents: int, after: int) -> list[int]:
    def draw(count: int) -> list[int]:
        return [rng.randrange(LATENT) for _ in range(count)]

    return [*draw(before), *[LATENT] * latents, *draw(after)]


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


def test_latents_count_as_decoded(model):
    rng = random.Random(1)
    [with_latents, without] = engine(model).generate(
        [Request(prompt(rng, 5, 3, 1), 4, Sampling(0)), Request(prompt(rng, 5, 0, 4), 4, Sampling(0))]
    )
    assert (with_latents.spend.prompt_tokens, with_latents.spend.decoded_tokens) == (6, 3 + len(with_latents.ids))
    assert (without.spend.prompt_tokens, without.spend.decoded_tokens) == (9, len(without.ids))


@pytest.mark.parametrize("ids", [[1, LATENT, 2, LATENT, 3], [1, 2, LATENT], [LATENT, 1]])
def test_latents_stand_side_by_side_within_a_prompt(model, ids):
    with pytest.raises(BadInput, match="side by side, with a token before and a token behind"):
        engine(model).generate([Request(ids, 3, Sampling(0))])
