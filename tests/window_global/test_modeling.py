"""Attention to a window and a few global tokens: each query sees these keys and no others, however a text is read."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, Qwen3Config, Qwen3ForCausalLM
from transformers.masking_utils import flex_attention_mask, sdpa_mask, sliding_window_causal_mask_function

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.flops import DecodingFlops
from efficient_reasoning.linear.conversion import linearize
from efficient_reasoning.window_global import WindowGlobalConfig, WindowGlobalForCausalLM, modeling_window_global
from efficient_reasoning.window_global.modeling_window_global import window_global_mask

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
SHAPE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.2,  # attention is anything but even
    "pad_token_id": 0,
    "eos_token_id": None,
}


def tiny(window: int = 4, num_global: int = 2, **changes) -> WindowGlobalForCausalLM:
    torch.manual_seed(0)
    sparse = {"window_tokens": window, "num_global_tokens": num_global}
    return WindowGlobalForCausalLM(WindowGlobalConfig(**SHAPE | sparse | changes)).eval()


def full_twin(model: WindowGlobalForCausalLM, **changes) -> Qwen3ForCausalLM:
    """The same weights under Qwen3's own attention."""
    twin = Qwen3ForCausalLM(Qwen3Config(**SHAPE | changes)).eval()
    twin.load_state_dict(model.state_dict())
    return twin


def ids(rows: int, tokens: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(1, 50, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def mask_of(window: int, num_global: int, tokens: int) -> torch.Tensor:
    return window_global_mask(tiny(window, num_global).config, torch.zeros(1, tokens, 0), None)[0, 0]


@pytest.mark.parametrize("window", [1, 2, 5, 9, 30])
@pytest.mark.parametrize("num_global", [0, 1, 3, 9, 30])
def test_a_query_sees_its_window_and_the_first_tokens(window, num_global):
    expected = [[k <= q and (q - k < window or k < num_global) for k in range(9)] for q in range(9)]
    assert mask_of(window, num_global, 9).tolist() == expected


def test_without_global_tokens_it_is_the_sliding_window_of_transformers():
    sliding = sdpa_mask(1, 12, 12, mask_function=sliding_window_causal_mask_function(5), local_size=5)
    assert mask_of(5, 0, 12).equal(sliding[0, 0])
    model, rows = tiny(5, 0), ids(2, 12)
    windows = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0}
    torch.testing.assert_close(model(rows).logits, full_twin(model, **windows)(rows).logits, **TOLERANCE)


@pytest.mark.parametrize(("window", "num_global"), [(12, 0), (40, 3), (1, 12), (3, 40)])
def test_what_spans_the_text_is_full_attention_and_gets_its_gradients(window, num_global):
    model, rows = tiny(window, num_global), ids(2, 12)
    twin = full_twin(model)
    for each in (model, twin):
        each.train()(rows, labels=rows).loss.backward()
    torch.testing.assert_close(model(rows).logits, twin(rows).logits, **TOLERANCE)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, **TOLERANCE)


def test_no_gradient_reaches_a_token_that_is_not_seen():
    model = tiny(3, 2, num_hidden_layers=1)
    embedded = model.get_input_embeddings()(ids(1, 10)).detach().requires_grad_()
    model(inputs_embeds=embedded).logits[0, 8].sum().backward()
    assert embedded.grad[0].any(1).nonzero().flatten().tolist() == [0, 1, 6, 7, 8]


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_changes_nothing(side):
    model = tiny()
    rows, mask = torch.zeros(3, 11, dtype=torch.long), torch.zeros(3, 11, dtype=torch.long)
    places = []
    for row, length in enumerate((3, 7, 11)):
        places.append(slice(11 - length, 11) if side == "left" else slice(0, length))
        rows[row, places[-1]], mask[row, places[-1]] = ids(1, length)[0], 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(rows, attention_mask=mask, position_ids=positions).logits
    for row, place in enumerate(places):
        torch.testing.assert_close(logits[row, place], model(rows[[row], place]).logits[0], **TOLERANCE)


@torch.no_grad()
def test_packed_texts_have_global_tokens_of_their_own():
    model, lengths = tiny(), (7, 9, 1)
    texts = [ids(1, length, seed=length) for length in lengths]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    logits = model(torch.cat(texts, 1), position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(logits, torch.cat([model(text).logits for text in texts], 1), **TOLERANCE)


@torch.no_grad()
def test_reading_in_parts_equals_reading_at_once():
    model, rows = tiny(), ids(2, 14)
    cache = DynamicCache(config=model.config)
    cuts = [(0, 3), (3, 4), (4, 9), *((place, place + 1) for place in range(9, 14))]
    parts = [model(rows[:, begin:end], past_key_values=cache).logits for begin, end in cuts]
    torch.testing.assert_close(torch.cat(parts, 1), model(rows, use_cache=False).logits, **TOLERANCE)


@pytest.mark.parametrize(
    "settings", [{}, {"cache_implementation": "static"}, {"num_beams": 3}, {"prompt_lookup_num_tokens": 3}], ids=str
)
@torch.no_grad()
def test_generating_says_what_recomputing_says(settings):
    model, prompts = tiny(), [ids(1, length, seed=length)[0] for length in (3, 9)]
    settings = {"max_new_tokens": 12, "do_sample": False} | settings
    if "prompt_lookup_num_tokens" in settings:  # takes one row
        prompts = prompts[1:]
    width = max(map(len, prompts))
    rows = torch.stack([torch.nn.functional.pad(prompt, (width - len(prompt), 0)) for prompt in prompts])
    said = model.generate(rows, attention_mask=(rows > 0).long(), **settings)[:, width:]
    for row, prompt in enumerate(prompts):
        if "num_beams" in settings:
            expected = model.generate(prompt[None], use_cache=False, **settings)[0, len(prompt) :]
        else:
            text = prompt
            for _ in range(12):
                text = torch.cat([text, model(text[None], use_cache=False).logits[0, -1:].argmax(1)])
            expected = text[len(prompt) :]
        assert said[row].tolist() == expected.tolist()


@torch.no_grad()
def test_flops_are_those_of_what_is_seen():
    """As torch counts what is executed: from token to token no more, once more stands before them than is seen."""
    model, counted = tiny(8, 3), []
    positions = (6, 10, 12, 30)
    for position in positions:
        rows, cache = ids(1, position), DynamicCache(config=model.config)
        model(rows[:, :-1], past_key_values=cache)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # a fused one counts nothing
            model(rows[:, -1:], past_key_values=cache)
        counted.append(counter.get_total_flops())
    charged = [DecodingFlops.of(model).of_token(position) for position in positions]
    assert [one - charged[0] for one in charged] == [one - counted[0] for one in counted]
    assert charged[0] < charged[1] < charged[2] == charged[3]


@torch.no_grad()
def test_flex_attention_sees_the_same_keys_and_leaves_blocks_out(monkeypatch):
    """On a CPU, in CUDA's place: forward, and not compiled, which torch does for some of these masks only."""
    model, rows = tiny(30, 3), ids(2, 700)
    positions = torch.cat([torch.arange(370), torch.arange(330)])[None]
    padding = torch.ones(2, 700, dtype=torch.long)
    padding[0, :340] = 0
    calls = [{}, {"position_ids": positions}, {"attention_mask": padding}, {"attention_mask": padding.flip(1)}]
    mask_of_call = partial(window_global_mask, model.config, torch.zeros(2, 700, 0))
    expected = [model(rows, use_cache=False, **call).logits for call in calls]
    masks = [mask_of_call(**{"attention_mask": None} | call) for call in calls]

    monkeypatch.setattr(modeling_window_global, "sdpa_mask", flex_attention_mask)
    with torch.compiler.set_stance("force_eager"):
        for call, logits, mask in zip(calls, expected, masks, strict=True):
            blocks = mask_of_call(**{"attention_mask": None} | call).to_dense()[:, 0]  # (2, 6, 6)
            padded = torch.nn.functional.pad(mask[:, 0], (0, 68, 0, 68)).unflatten(1, (6, 128)).unflatten(3, (6, 128))
            assert blocks.bool().equal(padded.any(4).any(2)) and blocks[1].sum() < 21  # of a triangle of six
            is_token = call.get("attention_mask", padding | 1).bool()
            found = model(rows, use_cache=False, **call).logits
            torch.testing.assert_close(found[is_token], logits[is_token], **TOLERANCE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_tokens": 0}, "window_tokens is 0; give at least 1"),
        ({"num_global_tokens": -1}, "num_global_tokens is -1; give 0 or more"),
        ({"sliding_window": 8}, "All layers have a window of window_tokens; leave out sliding_window"),
        ({"use_sliding_window": True}, "All layers have a window of window_tokens"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "All layers have a window of window_tokens"),
    ],
)
def test_what_makes_no_model_is_named(changes, message):
    with pytest.raises(StrictDataclassError, match=message):
        WindowGlobalConfig(**SHAPE | changes)


@pytest.mark.parametrize("name", ["sdpa", "eager", "flex_attention"])
def test_another_attention_function_is_refused(name):
    model = AutoModelForCausalLM.from_config(tiny().config, attn_implementation=name)
    with pytest.raises(ValueError, match=f"cannot attend by {name}; leave out attn_implementation"):
        model(ids(1, 4))


def test_a_mask_that_says_what_is_seen_is_refused():
    with pytest.raises(ValueError, match=r"makes its own masks; give an attention_mask \(rows, tokens\)"):
        tiny()(ids(1, 4), attention_mask=torch.ones(1, 1, 4, 4, dtype=torch.bool).tril())


@pytest.mark.parametrize("kind", ["qwen3", "gemma2", "gpt_oss", "qwen3_5_text", "linearized"])
def test_another_architecture_is_refused(kind):
    """Those with soft-capping, sinks or states of their own, too: a config.json would not say what they attend to."""
    layers = {"layer_types": ["linear_attention", "full_attention"]} if kind == "qwen3_5_text" else {}
    layers |= {"layer_types": ["hybrid_sliding", "full_attention"]} if kind == "linearized" else {}
    config = AutoConfig.for_model(kind, **SHAPE | layers)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="window_global")
    with pytest.raises(ValueError, match=f"window_global is not of {kind}; leave out attn_implementation"):
        model(ids(1, 4))


def test_it_is_not_linearized():
    with pytest.raises(BadInput, match="is a window_global; models of llama"):
        linearize(tiny(), 8)
