"""However a sequence is cut, padded or batched, each token gets what the definition says."""

from __future__ import annotations

import pytest
import torch

from efficient_reasoning.linear.modeling_linearized import HedgehogFeatureMap, hybrid_attention

HEAD_DIM, KEY_HEADS = 8, 2


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def parts(tokens: int, groups: int = 2, rows: int = 2) -> dict:
    heads = KEY_HEADS * groups
    maps = HedgehogFeatureMap(heads, HEAD_DIM), HedgehogFeatureMap(KEY_HEADS, HEAD_DIM)
    for each in maps:
        torch.nn.init.normal_(each.weight)
    return {
        "query": torch.randn(rows, heads, tokens, HEAD_DIM),
        "key": torch.randn(rows, KEY_HEADS, tokens, HEAD_DIM),
        "value": torch.randn(rows, KEY_HEADS, tokens, HEAD_DIM),
        "query_map": maps[0],
        "key_map": maps[1],
        "gate": torch.randn(heads),
        "scaling": HEAD_DIM**-0.5,
    }


def by_definition(query, key, value, query_map, key_map, gate, scaling, window, valid=None):
    """Every pair of tokens, in float64."""
    groups, tokens = query.shape[1] // key.shape[1], query.shape[2]
    features = query_map(query).double(), key_map(key).double().repeat_interleave(groups, 1)
    query, key, value = query.double(), *(each.double().repeat_interleave(groups, 1) for each in (key, value))
    distance = torch.arange(tokens)[:, None] - torch.arange(tokens)
    valid = torch.ones(len(query), tokens, dtype=torch.bool) if valid is None else valid
    near = (distance >= 0) & (distance < window) & (valid[:, None, None] | (distance == 0))
    scores = (query @ key.transpose(-1, -2) * scaling).masked_fill(~near, -torch.inf)
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    old = features[0] @ features[1].transpose(-1, -2) * ((distance >= window) & valid[:, None, None])
    gate = gate.double().sigmoid()[:, None, None]
    weights = (1 - gate) * weights + gate * old
    return (weights @ value / weights.sum(-1, keepdim=True)).float()


def in_pieces(inputs: dict, window: int, lengths: list[int], valid=None) -> torch.Tensor:
    """As decoding does it: each call gets the last W - 1 keys before it, and the state of those before them."""
    rest = {name: inputs[name] for name in ("query_map", "key_map", "gate", "scaling")}
    outputs, state, begin = [], None, 0
    for length in lengths:
        first, end = max(0, begin - window + 1), begin + length
        output, state = hybrid_attention(
            query=inputs["query"][:, :, begin:end],
            key=inputs["key"][:, :, first:end],
            value=inputs["value"][:, :, first:end],
            valid=None if valid is None else valid[:, first:end],
            window=window,
            state=state,
            **rest,
        )
        outputs.append(output)
        begin = end
    return torch.cat(outputs, 2)


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("window", [2, 5, 64, 200])
@pytest.mark.parametrize("tokens", [1, 3, 64, 150])
def test_a_whole_sequence_is_what_the_definition_says(tokens, window, groups):
    inputs = parts(tokens, groups)
    output, _ = hybrid_attention(valid=None, window=window, **inputs)
    torch.testing.assert_close(output, by_definition(window=window, **inputs), atol=1e-5, rtol=0)


@pytest.mark.parametrize("window", [2, 7, 64])
@pytest.mark.parametrize("lengths", [[150], [1] * 150, [100] + [1] * 50, [3, 70, 1, 65, 11], [64, 64, 22]])
def test_pieces_give_what_the_whole_gives(lengths, window):
    inputs = parts(150)
    torch.testing.assert_close(
        in_pieces(inputs, window, lengths), by_definition(window=window, **inputs), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("lengths", [[100], [1] * 100, [40] + [1] * 60])
def test_padding_is_not_seen(lengths):
    window, begin = 6, 17
    inputs = parts(100)
    alone = {name: inputs[name] for name in ("query_map", "key_map", "gate", "scaling")}
    alone |= {name: inputs[name][:, :, begin:] for name in ("query", "key", "value")}
    valid = torch.ones(2, 100, dtype=torch.bool)
    valid[:, :begin] = False
    padded = in_pieces(inputs, window, lengths, valid)
    assert padded.isfinite().all()
    torch.testing.assert_close(padded[:, :, begin:], by_definition(window=window, **alone), atol=1e-5, rtol=0)


def test_the_state_does_not_grow_and_is_in_float32():
    states = []
    for tokens in (10, 300):
        inputs = parts(tokens)
        inputs |= {name: inputs[name].bfloat16() for name in ("query", "key", "value")}
        output, state = hybrid_attention(valid=None, window=4, **inputs)
        assert output.dtype == torch.bfloat16
        states.append(state)
    assert [each.shape for each in states[0]] == [each.shape for each in states[1]]
    assert {each.dtype for each in states[1]} == {torch.float32}
    assert states[1][0].shape == (2, KEY_HEADS, 2 * HEAD_DIM, HEAD_DIM)


@pytest.mark.parametrize("gate", [-30.0, 0.0, 30.0])
def test_large_activations_stay_finite(gate):
    inputs = parts(100)
    inputs["gate"].fill_(gate)
    inputs["query"], inputs["key"] = inputs["query"] * 1e3, inputs["key"] * 1e3
    for each in (inputs["query"], inputs["key"], inputs["value"]):
        each.requires_grad_()
    output, _ = hybrid_attention(valid=None, window=8, **inputs)
    output.sum().backward()
    assert output.isfinite().all() and inputs["query"].grad.isfinite().all() and inputs["key"].grad.isfinite().all()


def test_autocast_changes_nothing():
    inputs = parts(100)
    plain, _ = hybrid_attention(valid=None, window=8, **inputs)
    with torch.autocast("cpu", torch.bfloat16):
        cast, _ = hybrid_attention(valid=None, window=8, **inputs)
    assert torch.equal(plain, cast)
