"""Models of recurrent depth: caches, padding and truncated gradients change nothing that they should not."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from efficient_reasoning.recurrent import RecurrentConfig, RecurrentForCausalLM

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
TINY = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_prelude_layers": 1,
    "num_core_layers": 2,
    "num_coda_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "mean_depth": 3,
    "initializer_range": 0.1,  # logits far enough apart for beams and draws to differ
    "pad_token_id": 0,
    "eos_token_id": 49,
}
LAYOUTS = [(1, 2, 1), (0, 1, 0), (2, 1, 0), (0, 2, 2)]  # prelude, core, coda


def tiny(**changes) -> RecurrentForCausalLM:
    torch.manual_seed(0)
    return RecurrentForCausalLM(RecurrentConfig(**TINY | changes)).eval()


def ids(rows: int, tokens: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(1, 49, (rows, tokens), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@torch.no_grad()
def test_decoding_with_a_cache_equals_computing_everything_again(depth, layout):
    names = ("num_prelude_layers", "num_core_layers", "num_coda_layers")
    model, rows = tiny(depth=depth, **dict(zip(names, layout, strict=True))), ids(2, 9)
    expected = model(rows, use_cache=False).logits
    cache = DynamicCache(config=model.config)
    cuts = [model(rows[:, begin:end], past_key_values=cache).logits for begin, end in [(0, 4), (4, 5), (5, 8), (8, 9)]]
    torch.testing.assert_close(torch.cat(cuts, 1), expected, **TOLERANCE)
    assert len(cache) == model.config.num_hidden_layers == layout[0] + depth * layout[1] + layout[2]
    assert {layer.get_seq_length() for layer in cache.layers} == {9}


@torch.no_grad()
def test_depth_changes_what_is_said_and_1_is_an_ordinary_model():
    model, rows = tiny(), ids(1, 6)
    logits = []
    for depth in (1, 2, 8):
        model.config.depth = depth
        logits.append(model(rows).logits)
        assert model(rows).iterations.tolist() == [depth]
    assert not torch.allclose(logits[0], logits[1]) and not torch.allclose(logits[1], logits[2])


@pytest.mark.parametrize("exit_kl", [None, 0.01])
def test_left_padding_and_the_company_of_other_rows_change_nothing(exit_kl):
    model = tiny(depth=6, exit_kl=exit_kl)
    prompts = [ids(1, length, seed=length)[0] for length in (3, 7, 5)]
    alone = [model.generate(prompt[None], max_new_tokens=12, do_sample=False)[0, len(prompt) :] for prompt in prompts]
    padded = torch.zeros(3, 7, dtype=torch.long)
    mask = torch.zeros_like(padded)
    for row, prompt in enumerate(prompts):
        padded[row, 7 - len(prompt) :], mask[row, 7 - len(prompt) :] = prompt, 1
    together = model.generate(padded, attention_mask=mask, max_new_tokens=12, do_sample=False)[:, 7:]
    for row, expected in enumerate(alone):
        assert together[row, : len(expected)].tolist() == expected.tolist()
    logits = model(padded, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    for row, prompt in enumerate(prompts):
        torch.testing.assert_close(logits[row, 7 - len(prompt) :], model(prompt[None]).logits[0], **TOLERANCE)


def test_beams_and_draws_need_no_cache():
    model, rows = tiny(depth=2), ids(2, 5)
    for settings in ({"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}):
        said = []
        for use_cache in (True, False):
            torch.manual_seed(3)
            said.append(model.generate(rows, max_new_tokens=8, use_cache=use_cache, **settings).tolist())
        assert said[0] == said[1]


# ---- adaptive exit ----


def settle(model: RecurrentForCausalLM, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, DynamicCache]:
    """Logits of all but the first three columns, decoded one by one, their iterations, and the cache."""
    cache = DynamicCache(config=model.config)
    model(rows[:, :3], past_key_values=cache)
    outputs = [model(rows[:, [column]], past_key_values=cache) for column in range(3, rows.shape[1])]
    return torch.cat([o.logits for o in outputs], 1), torch.stack([o.iterations for o in outputs], 1), cache


@torch.no_grad()
def test_a_threshold_that_nothing_reaches_leaves_everything_as_it_is():
    model, rows = tiny(depth=4), ids(3, 9)
    expected = settle(model, rows)
    model.config.exit_kl = 0.0
    logits, iterations, cache = settle(model, rows)
    torch.testing.assert_close(logits, expected[0], **TOLERANCE)
    assert iterations.tolist() == [[4] * 6] * 3
    for layer, other in zip(cache.layers, expected[2].layers, strict=True):
        torch.testing.assert_close(layer.keys, other.keys, **TOLERANCE)


@torch.no_grad()
def test_rows_exit_on_their_own_and_leave_entries_in_every_iteration():
    model, rows = tiny(depth=8, exit_kl=0.01), ids(4, 12)
    logits, iterations, cache = settle(model, rows)
    assert len({*iterations.flatten().tolist()}) > 2 and iterations.min() >= 2
    assert (iterations[0] != iterations[2]).any()
    assert {layer.get_seq_length() for layer in cache.layers} == {12}
    core = range(1, 17)
    for row in range(4):
        alone = settle(model, rows[[row]])
        torch.testing.assert_close(logits[[row]], alone[0], **TOLERANCE)
        assert iterations[row].tolist() == alone[1][0].tolist()
        for column, count in enumerate(iterations[row].tolist(), 3):
            for place in core:
                last = min(place, (place - 1) % 2 + 1 + 2 * (count - 1))
                assert cache.layers[place].keys[row, :, column].equal(cache.layers[last].keys[row, :, column])


@torch.no_grad()
def test_what_exits_at_once_costs_two_iterations():
    model, rows = tiny(depth=8, exit_kl=1e9), ids(2, 6)
    _, iterations, _ = settle(model, rows)
    assert iterations.unique().tolist() == [2]


# ---- training ----


def gradients(model: RecurrentForCausalLM, depth: int) -> dict[str, torch.Tensor]:
    model.train()
    model.model.training_depth = depth
    model.zero_grad()
    rows = ids(2, 8)
    torch.manual_seed(7)  # of the noise that states start as
    model(rows, labels=rows).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_truncated_gradients_are_the_whole_ones_up_to_their_depth(depth):
    whole, truncated = (gradients(tiny(backprop_depth=reach), depth) for reach in (100, 4))
    for name in whole:
        torch.testing.assert_close(truncated[name], whole[name], **TOLERANCE)


def test_truncation_drops_what_lies_further_back_and_nothing_else():
    whole, truncated = (gradients(tiny(backprop_depth=reach), 5) for reach in (100, 2))
    assert not torch.allclose(truncated["model.adapter.weight"], whole["model.adapter.weight"])
    torch.testing.assert_close(
        truncated["model.coda.0.mlp.up_proj.weight"], whole["model.coda.0.mlp.up_proj.weight"], **TOLERANCE
    )
    # Every parameter gets a gradient at every depth: processes that wait for each other's do not wait for ever.
    for depth in (1, 9):
        assert all(gradient.abs().sum() > 0 for gradient in gradients(tiny(backprop_depth=1), depth).values())


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(use_reentrant):
    model = tiny(backprop_depth=2)
    expected = gradients(model, 5)
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    for name, gradient in gradients(model, 5).items():
        torch.testing.assert_close(gradient, expected[name], **TOLERANCE)


def test_a_compiled_model_is_compiled_once_for_all_depths():
    from torch._dynamo.testing import CompileCounter

    model, rows = tiny(backprop_depth=2).train(), ids(2, 8)
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter)
    frames = []
    for depth in (3, 5, 1, 2, 7, 12):
        model.model.training_depth = depth
        logits = []
        for each in (compiled, model):
            torch.manual_seed(7)
            logits.append(each(rows).logits)
        torch.testing.assert_close(*logits, **TOLERANCE)
        frames.append(counter.frame_count)
    assert frames[1:] == [frames[1]] * 5


def test_training_starts_from_noise_and_inference_does_not():
    model, rows = tiny(), ids(1, 6)
    assert model(rows).logits.equal(model(rows).logits)
    model.train()
    assert not model(rows).logits.equal(model(rows).logits)
    assert model(rows).past_key_values is None


# ---- what is refused ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean_depth": 0}, "mean_depth is 0; give at least 1"),
        ({"depth": 0}, "depth is 0; give at least 1"),
        ({"backprop_depth": 0}, "backprop_depth is 0; give at least 1"),
        ({"num_core_layers": 0}, "num_core_layers is 0; give at least 1"),
        ({"num_coda_layers": -1}, "num_coda_layers is -1; give 0 or more"),
        ({"exit_kl": -1.0}, "exit_kl is -1.0; give 0 or more"),
        ({"num_key_value_heads": 3}, "4 query heads do not share 3 key-value heads evenly"),
        ({"format_version": 2}, "format_version is 2, and this code knows 1; update efficient-reasoning"),
    ],
)
def test_configs_that_make_no_model_are_named(changes, message):
    from huggingface_hub.errors import StrictDataclassError

    with pytest.raises(StrictDataclassError, match=message):
        RecurrentConfig(**TINY | changes)


@torch.no_grad()
def test_a_cache_of_another_depth_is_refused():
    model, rows = tiny(depth=2), ids(1, 4)
    cache = model(rows).past_key_values
    model.config.depth = 3
    with pytest.raises(ValueError, match="The cache has 6 layers, and 3 iterations take 8"):
        model(rows[:, :1], past_key_values=cache)


def test_adaptive_exit_is_refused_with_a_cache_that_is_laid_out_beforehand():
    model, options = tiny(), {"max_new_tokens": 4, "do_sample": False}
    expected = model.generate(ids(2, 5), **options)
    assert torch.equal(model.generate(ids(2, 5), cache_implementation="static", **options), expected)
    model.config.exit_kl = 1e-3
    with pytest.raises(ValueError, match="takes a cache that grows; leave out cache_implementation"):
        model.generate(ids(2, 5), cache_implementation="static", **options)
