"""The model decodes through transformers' own cache what it computes at once."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from efficient_reasoning.inference.flops import DecodingFlops
from efficient_reasoning.linear.conversion import linearize
from tests.linear.models import softmax_model, trained

CLOSE = {"atol": 1e-5, "rtol": 0}


def ids_of(rows: int, tokens: int) -> torch.Tensor:
    return torch.randint(2, 50, (rows, tokens), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("lengths", [[1] * 40, [30] + [1] * 10, [7, 20, 1, 12]])
@torch.no_grad()
def test_cached_logits_are_those_of_one_pass(student, lengths):
    ids = ids_of(2, 40)
    cache, pieces, begin = DynamicCache(config=student.config), [], 0
    for length in lengths:
        pieces.append(student(ids[:, begin : begin + length], past_key_values=cache).logits)
        begin += length
    torch.testing.assert_close(torch.cat(pieces, 1), student(ids).logits, **CLOSE)


@torch.no_grad()
def test_greedy_decoding_is_full_recomputation(student):
    ids = ids_of(3, 12)
    expected = ids
    for _ in range(30):
        expected = torch.cat([expected, student(expected).logits[:, -1:].argmax(-1)], 1)
    found = student.generate(ids, max_new_tokens=30, min_new_tokens=30, do_sample=False, eos_token_id=[])
    assert torch.equal(found, expected)


@torch.no_grad()
def test_padding_on_either_side_changes_nothing(student):
    ids = ids_of(1, 20)
    alone = student(ids).logits
    for left, right in ((9, 0), (0, 9), (3, 4)):
        padded = torch.nn.functional.pad(ids, (left, right))
        mask = torch.nn.functional.pad(torch.ones_like(ids), (left, right))
        logits = student(padded, attention_mask=mask).logits
        assert logits.isfinite().all()
        torch.testing.assert_close(logits[:, left : left + 20], alone, **CLOSE)


@torch.no_grad()
def test_rows_of_a_batch_decode_as_they_do_alone(student):
    prompts = [ids_of(1, tokens)[0] for tokens in (3, 11, 25)]
    batch = torch.stack([torch.nn.functional.pad(each, (25 - len(each), 0)) for each in prompts])
    settings = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": [], "pad_token_id": 0}
    found = student.generate(batch, attention_mask=(batch != 0).long(), **settings)[:, 25:]
    for row, prompt in zip(found, prompts, strict=True):
        assert torch.equal(row, student.generate(prompt[None], **settings)[0, len(prompt) :])


@pytest.mark.parametrize("settings", [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}])
@torch.no_grad()
def test_beams_are_those_without_a_cache(student, settings):
    ids = ids_of(2, 9)
    settings = settings | {"max_new_tokens": 15, "do_sample": False, "eos_token_id": 1, "pad_token_id": 0}
    assert torch.equal(student.generate(ids, **settings), student.generate(ids, use_cache=False, **settings))


@torch.no_grad()
def test_several_samples_of_a_prompt_are_those_without_a_cache(student):
    settings = {"max_new_tokens": 15, "do_sample": True, "num_return_sequences": 4, "eos_token_id": []}
    found = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        found.append(student.generate(ids_of(2, 9), use_cache=use_cache, **settings))
    assert torch.equal(*found)


@torch.no_grad()
def test_a_conversation_goes_on_from_its_cache(student):
    first, second = ids_of(1, 11), ids_of(1, 30)[:, 11:]
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": [], "return_dict_in_generate": True}
    turn = student.generate(first, **settings)
    ids = torch.cat([turn.sequences, second], 1)
    found = student.generate(ids, past_key_values=turn.past_key_values, **settings).sequences
    assert torch.equal(found, student.generate(ids, **settings).sequences)


@torch.no_grad()
def test_a_pure_model_keeps_a_cache_that_does_not_grow_and_can_be_reset():
    student, sizes = trained(linearize(softmax_model(), 5)), []
    for tokens in (20, 200):
        cache = student(ids_of(1, tokens), use_cache=True).past_key_values
        sizes.append(sum(each.keys.numel() + each.values.numel() for each in cache.layers))
        sizes[-1] += sum(state.numel() for each in cache.layers for state in each.recurrent_states.values())
    assert sizes[0] == sizes[1]
    cache.reset()
    ids = ids_of(1, 17)
    torch.testing.assert_close(student(ids, past_key_values=cache).logits, student(ids).logits, **CLOSE)


@pytest.mark.parametrize("tokens", [10, 90])
def test_gradient_checkpointing_gives_the_same_gradients(student, tokens):
    ids, found = ids_of(2, tokens), []
    student.train()
    for checkpointing in (False, True):
        student.zero_grad()
        if checkpointing:
            student.gradient_checkpointing_enable({"use_reentrant": False})
        student(ids, labels=ids).loss.backward()
        found.append({name: weight.grad.clone() for name, weight in student.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, **CLOSE)


def test_caches_that_do_not_fit_are_refused(student):
    ids = ids_of(1, 10)
    kinds = student.config.layer_types
    other = linearize(softmax_model(), 7, [number for number, kind in enumerate(kinds) if kind == "full_attention"])
    cache = other(ids, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="window of 7 tokens and the model has one of 5"):
        student(ids, past_key_values=cache, attention_mask=torch.ones(1, 20))
    with pytest.raises(ValueError, match="leave out cache_implementation"):
        student.generate(ids, cache_implementation="static", max_new_tokens=4)
    with pytest.raises(ValueError, match="pass DynamicCache"):
        student(ids, past_key_values=DynamicCache())
    with pytest.raises(ValueError, match="shape"):
        student(ids, attention_mask=torch.ones(1, 9))


def test_hidden_states_are_those_of_each_layer(student):
    outputs = student(ids_of(1, 10), output_hidden_states=True)
    assert len(outputs.hidden_states) == 5
    torch.testing.assert_close(student.lm_head(outputs.hidden_states[-1]), outputs.logits)
    kept = student(ids_of(1, 10), logits_to_keep=3).logits
    torch.testing.assert_close(kept, outputs.logits[:, -3:])


@torch.no_grad()
def test_flops_of_a_step_are_what_torch_counts(student):
    student.set_attn_implementation("eager")  # torch counts nothing inside the fused kernel of a CPU
    ids = ids_of(1, 41)
    cache = student(ids[:, :40], use_cache=True).past_key_values
    with FlopCounterMode(display=False) as counter:
        student(ids[:, 40:], past_key_values=cache)
    flops = DecodingFlops.of(student)
    assert flops.body + flops.head + 41 * flops.attention == pytest.approx(counter.get_total_flops(), rel=0.001)


@torch.no_grad()
def test_states_stay_in_float32_where_the_model_is_not(student):
    student.bfloat16()
    ids = ids_of(2, 40)
    whole = student(ids, use_cache=True)
    for layer in whole.past_key_values.layers:
        assert layer.keys.dtype == torch.bfloat16
        assert {state.dtype for state in getattr(layer, "recurrent_states", {}).values()} <= {torch.float32}
    cache = DynamicCache(config=student.config)
    steps = [student(ids[:, place : place + 1], past_key_values=cache).logits for place in range(40)]
    assert (torch.cat(steps, 1).argmax(-1) == whole.logits.argmax(-1)).float().mean() > 0.9
