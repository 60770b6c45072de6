from __future__ import annotations

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, Gemma3TextConfig, GPT2Config, LlamaConfig, Qwen3Config

from efficient_reasoning.errors import BadInput
from efficient_reasoning.latent.passes import IGNORED, Row, collate, completion_loss, read

VOCABULARY = 50
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
CONFIGS = {
    "qwen3": Qwen3Config(**SMALL, **HEADS, head_dim=8, tie_word_embeddings=True),
    "llama": LlamaConfig(**SMALL, **HEADS, tie_word_embeddings=False),
    "gemma3": Gemma3TextConfig(  # its windows are shorter than the rows
        **SMALL, **HEADS, head_dim=8, sliding_window=4, layer_types=["sliding_attention"] * 2 + ["full_attention"]
    ),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=128),
}


@pytest.fixture(params=CONFIGS)
def model(request):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[request.param], dtype=torch.float32).eval()
    with torch.no_grad():  # so that a wrong mask or position shows
        for weight in model.parameters():
            weight.mul_(1.5) if weight.ndim > 1 else weight
    return model


def row(rng: random.Random, prompt: int, latents: int, completion: int, given: int = 0) -> Row:
    def draw(count: int) -> list[int]:
        return [rng.randrange(VOCABULARY) for _ in range(count)]

    return Row(draw(prompt), latents, draw(completion), given)


def plain_logprobs(model, row: Row) -> torch.Tensor:
    """Of the labelled tokens (N,): no cache, no padding, everything from the beginning for every latent."""
    embed = model.get_input_embeddings()

    def states(inputs: torch.Tensor) -> torch.Tensor:
        return model.base_model(inputs_embeds=inputs, use_cache=False).last_hidden_state

    inputs = embed(torch.tensor([row.prompt_ids]))
    for _ in range(row.latents):
        inputs = torch.cat([inputs, states(inputs)[:, -1:]], 1)
    start = inputs.shape[1]
    inputs = torch.cat([inputs, embed(torch.tensor([row.completion_ids]))], 1)
    logits = model.get_output_embeddings()(states(inputs)[0, start - 1 : -1])
    chosen = logits.log_softmax(-1).gather(1, torch.tensor(row.completion_ids)[:, None])[:, 0]
    return chosen[row.given :]


def gradients(model) -> list[torch.Tensor]:
    found = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
    model.zero_grad()
    return found


ROWS = [(7, 3, 5, 1), (2, 0, 4, 0), (11, 5, 1, 0), (1, 1, 6, 1), (4, 5, 3, 1)]  # prompt, latents, completion, given


@pytest.mark.parametrize("columns", [None, 9])
def test_loss_and_gradients_are_those_of_passes_without_a_cache(model, columns):
    rng = random.Random(0)
    rows = [row(rng, *sizes) for sizes in ROWS]
    batch = collate(rows, pad_id=0, columns=columns)
    loss = completion_loss(model, batch)
    loss.backward()
    found = gradients(model)
    plain = -torch.cat([plain_logprobs(model, each) for each in rows]).mean()
    plain.backward()
    expected = gradients(model)
    torch.testing.assert_close(loss, plain, atol=1e-5, rtol=1e-5)
    assert len(found) == len(expected) == len(list(model.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_row_is_the_same_in_any_batch(model):
    rng = random.Random(1)
    rows = [row(rng, *sizes) for sizes in ROWS]
    for index in range(len(rows)):
        alone = collate([rows[index]], pad_id=0)
        mixed = collate([*rows[index:], *rows[:index]], pad_id=7, columns=6, first_columns_apart=16)
        assert mixed.first_column == 16
        width = alone.labels.shape[1]
        found = read(model, mixed).states[0, : width + 1]
        torch.testing.assert_close(found, read(model, alone).states[0], atol=1e-5, rtol=1e-4)


def test_without_latents_it_is_the_plain_model(model):
    rng = random.Random(2)
    rows = [row(rng, prompt, 0, completion) for prompt, completion in ((5, 4), (3, 6))]
    batch = collate(rows, pad_id=0)
    assert batch.first_column == batch.end_column == 5
    states = read(model, batch).states
    for number, each in enumerate(rows):
        ids = torch.tensor([[*each.prompt_ids, *each.completion_ids]])
        logits = model(ids).logits[0, len(each.prompt_ids) - 1 : -1]
        found = model.get_output_embeddings()(states[number, : len(each.completion_ids)])
        torch.testing.assert_close(found, logits, atol=1e-5, rtol=1e-4)


def test_the_last_latent_is_read_with_what_follows_and_nothing_twice(model, monkeypatch):
    widths = []
    forward = model.base_model.forward
    monkeypatch.setattr(
        model.base_model, "forward", lambda **named: widths.append(named["inputs_embeds"].shape[1]) or forward(**named)
    )
    batch = collate([row(random.Random(3), 6, 4, 5)], pad_id=0)
    read(model, batch)
    assert widths == [6, 1, 1, 1, 1 + 5]


def test_what_is_given_is_not_learnt():
    batch = collate([Row([1, 2], 1, [3, 4, 5], given=2), Row([1], 0, [6])], pad_id=0)
    assert batch.labels.tolist() == [[IGNORED, IGNORED, 5], [6, IGNORED, IGNORED]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0]]
    assert batch.is_latent.tolist() == [[False, False, True], [False, False, False]]


def test_bad_batches_are_refused(model):
    with pytest.raises(BadInput, match="2 latents of 1 columns"):
        collate([Row([1], 2, [3])], pad_id=0, columns=1)
    with pytest.raises(BadInput, match="no token before them"):
        collate([Row([], 2, [3])], pad_id=0)
    model.train()
    model.gradient_checkpointing_enable()
    with pytest.raises(BadInput, match="set gradient_checkpointing to false"):
        read(model, collate([Row([1], 2, [3])], pad_id=0))


def test_logits_that_are_scaled_behind_the_head_are_refused():
    model = AutoModelForCausalLM.from_config(
        CohereConfig(**SMALL, **HEADS, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    )
    with pytest.raises(BadInput, match="A cohere scales its logits behind the head; take another model"):
        completion_loss(model, collate([Row([1], 2, [3])], pad_id=0))
