"""The engine decodes what transformers decodes, whatever stands beside a request in its batch."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import Request, Sampling
from efficient_reasoning.inference.sampling import SamplingTable, sampling_groups, uniforms
from efficient_reasoning.inference.transformers_engine import TransformersEngine

PAD, EOS, VOCABULARY = 0, (3, 7), 150
GREEDY = Sampling(temperature=0)


def tiny(config_class, model_class, key_value_heads: int, **settings):
    """A random model; its large weights make it say something different after every token."""
    torch.manual_seed(0)
    config = config_class(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=key_value_heads,
        head_dim=8,
        initializer_range=0.6,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=list(EOS),
        **settings,
    )
    return model_class(config).eval()


@pytest.fixture(scope="module", params=["qwen3", "qwen3-grouped", "llama", "llama-grouped"])
def model(request):
    classes = (Qwen3Config, Qwen3ForCausalLM) if "qwen3" in request.param else (LlamaConfig, LlamaForCausalLM)
    return tiny(*classes, key_value_heads=2 if "grouped" in request.param else 4)


@pytest.fixture(scope="module")
def qwen3():
    return tiny(Qwen3Config, Qwen3ForCausalLM, key_value_heads=2)


def prompts(count: int, longest: int = 20, shortest: int = 1) -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(VOCABULARY) for _ in range(rng.randint(shortest, longest))] for _ in range(count)]


def generated(model, rows: list[list[int]], max_new_tokens: int) -> list[list[int]]:
    """Greedy tokens of `model.generate` for rows padded to one length, cut behind EOS."""
    longest = max(map(len, rows))
    ids = torch.tensor([[PAD] * (longest - len(row)) + row for row in rows], device=model.device)
    # Given outright: the rows are random, so a pad id may be one of their tokens.
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=model.device)
    with torch.inference_mode():
        output = model.generate(ids, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False)
    tails = output[:, longest:].tolist()
    ends = [next((i + 1 for i, token in enumerate(tail) if token in EOS), len(tail)) for tail in tails]
    return [tail[:end] for tail, end in zip(tails, ends, strict=True)]


def decode(model, requests: list[Request], batch_size: int = 256):
    return TransformersEngine(model, frozenset(EOS), PAD, batch_size=batch_size).generate(requests)


def test_greedy_tokens_are_those_of_generate(model):
    rows = prompts(24)
    steps = 150
    expected = generated(model, rows, steps)
    completions = decode(model, [Request(row, steps, GREEDY) for row in rows])
    assert [completion.ids for completion in completions] == expected
    # The case is one in which rows leave the batch at different steps, and some stay to the end.
    lengths = {len(ids) for ids in expected}
    assert len(lengths) > 4
    assert max(lengths) == steps
    assert [completion.finished for completion in completions] == [ids[-1] in EOS for ids in expected]


def test_greedy_tokens_without_padding(model):
    rows = prompts(4, longest=70, shortest=70)
    alone = [generated(model, [row], 20)[0] for row in rows]
    assert [completion.ids for completion in decode(model, [Request(row, 20, GREEDY) for row in rows])] == alone


def test_every_request_stops_at_its_own_limit(qwen3):
    [row] = prompts(1)
    expected = generated(qwen3, [row], 30)[0]
    completions = decode(qwen3, [Request(row, limit, GREEDY) for limit in (1, 2, 5, 30)])
    assert [completion.ids for completion in completions] == [expected[:limit] for limit in (1, 2, 5, 30)]
    assert [completion.spend.decoded_tokens for completion in completions] == [
        len(completion.ids) for completion in completions
    ]
    assert all(completion.spend.prompt_tokens == len(row) for completion in completions)


def test_samples_depend_on_nothing_but_their_own_request(qwen3):
    requests = [
        Request(row, 5 + 4 * seed, Sampling(temperature, 0.9, top_k), seed)
        for seed, row in enumerate(prompts(12))
        for temperature, top_k in ((0.7, 5), (1.5, 0))
    ]
    alone = [completion.ids for completion in decode(qwen3, requests, batch_size=1)]
    assert [completion.ids for completion in decode(qwen3, requests)] == alone
    order = random.Random(1).sample(range(len(requests)), len(requests))
    shuffled = decode(qwen3, [requests[index] for index in order], batch_size=7)
    assert [completion.ids for completion in shuffled] == [alone[index] for index in order]


def test_seeds_make_different_samples(qwen3):
    [row] = prompts(1)
    requests = [Request(row, 10, Sampling(1.5, 1.0, 0), seed) for seed in range(8)]
    assert len({tuple(completion.ids) for completion in decode(qwen3, requests)}) == 8


def test_greedy_rows_stay_greedy_among_sampled_ones(qwen3):
    rows = prompts(8)
    requests = [Request(row, 30, GREEDY if i % 2 else Sampling(1.5, 1.0, 0), i) for i, row in enumerate(rows)]
    mixed = [completion.ids for completion in decode(qwen3, requests)]
    expected = generated(qwen3, rows, 30)
    assert mixed[1::2] == expected[1::2]
    assert mixed[::2] != expected[::2]


def test_nothing_asked_nothing_decoded(qwen3):
    assert decode(qwen3, []) == []


# ---- the sampler against transformers' own logits warpers ----

DRAWS = 20_000


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1.0, 1.0, 0),
        Sampling(0.6, 1.0, 0),
        Sampling(1.0, 1.0, 5),
        Sampling(1.0, 0.8, 0),
        Sampling(0.6, 0.95, 20),
        Sampling(1.7, 0.5, 10),
        Sampling(1.0, 0.01, 0),
        Sampling(0.05, 0.95, 20),
        Sampling(1.0, 0.9, 1000),
    ],
    ids=str,
)
def test_draws_follow_the_distribution_of_transformers(sampling):
    logits = 2 * torch.randn(1, 60, generator=torch.Generator().manual_seed(1))
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    expected = warpers(None, logits)[0].softmax(-1)

    requests = [Request([1], 1, sampling)]
    table = SamplingTable.of(requests, "cpu").of_rows(torch.zeros(DRAWS, dtype=torch.long))
    [(candidates, _)] = sampling_groups(requests)
    uniform = (torch.arange(DRAWS) + 0.5) / DRAWS  # every quantile once
    shares = table.draw(logits.expand(DRAWS, -1), uniform, candidates).bincount(minlength=60) / DRAWS

    assert shares[expected == 0].sum() == 0  # nothing outside the set that transformers keeps
    torch.testing.assert_close(shares, expected, atol=2 / DRAWS, rtol=0)


def test_settings_of_one_row_leave_the_others_alone():
    logits = 2 * torch.randn(1, 60, generator=torch.Generator().manual_seed(2)).expand(4, -1)
    settings = [Sampling(1.0, 1.0, 0), Sampling(0.6, 0.95, 20), Sampling(1.7, 0.5, 3), GREEDY]
    requests = [Request([1], 1, sampling, seed) for seed, sampling in enumerate(settings)]

    def draw(requests: list[Request]) -> dict[int, int]:
        drawn = {}
        for candidates, group in sampling_groups(requests):
            chosen = [requests[index] for index in group]
            uniform = uniforms(chosen, 1)[:, 0]
            tokens = SamplingTable.of(chosen, "cpu").draw(logits[: len(chosen)], uniform, candidates)
            drawn |= dict(zip(group, tokens.tolist(), strict=True))
        return drawn

    together = draw(requests)
    assert together == {index: draw([request])[0] for index, request in enumerate(requests)}
    assert together[3] == logits[3].argmax()
    # Whole vocabulary or best token: nothing to sort. The others look at the most that one of them needs.
    assert sampling_groups(requests) == [(None, [0, 3]), (20, [1, 2])]


def test_the_last_quantile_is_not_outside_what_is_kept():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0, -1.0]])
    for sampling in (Sampling(1.0, 0.5, 4), Sampling(1.0, 1.0, 2), Sampling(1.0, 1.0, 0)):
        requests = [Request([1], 1, sampling)]
        [(candidates, _)] = sampling_groups(requests)
        drawn = SamplingTable.of(requests, "cpu").draw(logits, torch.ones(1), candidates).item()
        assert drawn == {(0.5, 4): 0, (1.0, 2): 1, (1.0, 0): 4}[sampling.top_p, sampling.top_k]


@pytest.mark.parametrize(
    ("sampling", "sentence"),
    [
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_k": -1}, "top_k is -1"),
    ],
)
def test_settings_that_cannot_be_sampled_with_are_refused(sampling, sentence):
    with pytest.raises(BadInput, match=sentence):
        Sampling(**sampling)
