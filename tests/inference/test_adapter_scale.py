"""The adapter that a checkpoint keeps, at other scales than the one that its weights hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from efficient_reasoning.checkpoint import ReasoningMetadata, load_model, load_tokenizer, weights_fingerprint
from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import load_reasoner, solve

ALPHA, RANK, TOKENS = 6, 2, [5, 7]


def delta(adapter: dict[str, torch.Tensor], name: str, scaling: float) -> torch.Tensor:
    """B A scaling of the layer whose weight has this name; zeros where the adapter changes nothing."""
    layer = f"base_model.model.{name.removesuffix('.weight')}"
    if f"{layer}.lora_A.weight" not in adapter:
        return torch.zeros(())
    return adapter[f"{layer}.lora_B.weight"] @ adapter[f"{layer}.lora_A.weight"] * scaling


def save_with_adapter(base: Path, folder: Path, **settings) -> Path:
    """A checkpoint as training with `adapter: keep` leaves it."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules="all-linear", init_lora_weights=False, **settings
    )  # not initialised: B is not zero
    model = get_peft_model(load_model(str(base), device="cpu"), config)
    model.save_pretrained(folder / "adapter")
    model.merge_and_unload().save_pretrained(folder)
    load_tokenizer(str(base)).save_pretrained(folder)
    ReasoningMetadata("cot_valve", "sft", base_model="tiny", adapter="adapter").save(folder)
    return folder


@pytest.fixture(scope="module")
def saved(tiny_model, tmp_path_factory) -> Path:
    return save_with_adapter(tiny_model, tmp_path_factory.mktemp("kept") / "valve")


@pytest.fixture
def kept(saved, tmp_path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(saved, tmp_path / "valve"))


def weights(folder: Path, **settings) -> dict[str, torch.Tensor]:
    return load_model(str(folder), device="cpu", **settings).state_dict()


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("scale", [-0.5, 0, 0.5, 1, 1.5])
def test_the_weights_are_those_of_the_base_and_as_much_of_the_adapter(tiny_model, tmp_path, scale, rslora):
    folder = save_with_adapter(tiny_model, tmp_path / "valve", use_rslora=rslora)
    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    base, found = weights(tiny_model), weights(folder, adapter_scale=scale)
    assert found.keys() == base.keys()
    changes = {name: scale * delta(adapter, name, ALPHA / (RANK**0.5 if rslora else RANK)) for name in base}
    assert sum(bool(change.any()) for change in changes.values()) == (7 if scale else 0)
    for name, weight in base.items():
        torch.testing.assert_close(found[name], weight + changes[name], atol=1e-5, rtol=1e-5)


def test_scale_one_is_the_checkpoint_itself(kept):
    whole, found = weights(kept), weights(kept, adapter_scale=1)
    assert all(torch.equal(whole[name], found[name]) for name in whole)


def test_tokens_that_were_trained_beside_the_adapter_stay(tiny_model, tmp_path):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, trainable_token_indices=TOKENS)
    model = get_peft_model(load_model(str(tiny_model), device="cpu"), config)
    for name, parameter in model.named_parameters():
        if "trainable_tokens" in name:
            parameter.data.fill_(3.0)
    model.save_pretrained(tmp_path / "adapter")
    model.merge_and_unload().save_pretrained(tmp_path)
    load_tokenizer(str(tiny_model)).save_pretrained(tmp_path)
    ReasoningMetadata("cot_valve", "sft", adapter="adapter").save(tmp_path)
    found = weights(tmp_path, adapter_scale=0)["model.embed_tokens.weight"]
    expected = weights(tiny_model)["model.embed_tokens.weight"].clone()
    expected[TOKENS] = 3.0
    assert torch.equal(found, expected)


def test_merging_with_the_base_writes_a_scale_as_a_checkpoint(tiny_model, kept, tmp_path):
    from recipes import merge

    words = ["--long", str(kept), "--short", str(tiny_model), "--weights", "0.25", "--output_dir", str(tmp_path / "m")]
    merge.main(words)
    found, expected = weights(tmp_path / "m"), weights(kept, adapter_scale=0.75)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-5)
    assert not (tmp_path / "m" / "adapter").exists()


# ---- reasoners ----


@pytest.mark.parametrize("backend", ["auto", "graph", "transformers"])
def test_a_reasoner_thinks_with_the_scaled_weights(tiny_model, kept, backend):
    base = load_reasoner(str(tiny_model), backend, device="cpu")
    question, settings = "Compute 3 + 4.", {"budget_tokens": 40, "temperature": 0}
    said = {
        scale: solve(
            load_reasoner(str(kept), backend, device="cpu", adapter_scale=scale), question, **settings
        ).completion_ids
        for scale in (0, 1)
    }
    assert said[0] == solve(base, question, **settings).completion_ids != said[1]


def test_auto_takes_an_engine_that_scales(kept, monkeypatch):
    from efficient_reasoning.inference import reasoner

    monkeypatch.setattr(reasoner, "_has_vllm", lambda config, device: True)
    assert load_reasoner(str(kept), device="cpu", adapter_scale=0.5).backend == "graph"


def test_scales_are_told_apart(kept):
    plain, one, half, zero = (
        load_reasoner(str(kept), "transformers", device="cpu", adapter_scale=scale) for scale in (None, 1, 0.5, 0)
    )
    assert (plain.name, one.name, half.name, zero.name) == ("valve", "valve", "valve at scale 0.5", "valve at scale 0")
    assert plain.weights == one.weights == weights_fingerprint(str(kept))
    assert len({plain.weights, half.weights, zero.weights}) == 3


def test_the_fingerprint_of_a_scale_follows_the_adapter(kept):
    whole, half = weights_fingerprint(str(kept)), weights_fingerprint(str(kept), 0.5)
    path = kept / "adapter" / "adapter_config.json"
    path.write_text(path.read_text().replace(f'"lora_alpha": {ALPHA}', '"lora_alpha": 1'))
    assert weights_fingerprint(str(kept)) == whole
    assert weights_fingerprint(str(kept), 0.5) != half


def test_runs_of_two_scales_do_not_mix(kept, tmp_path):
    from data_tools import sample

    argv = ["--model", str(kept), "--task", "sums", "--num_problems", "1", "--samples_per_problem", "1"]
    argv += ["--max_new_tokens", "4", "--out", str(tmp_path / "traces.jsonl")]
    sample.main([*argv, "--adapter_scale", "0.5"])
    [trace] = [json.loads(line) for line in (tmp_path / "traces.jsonl").read_text().splitlines()]
    assert trace["model"] == "valve at scale 0.5"
    with pytest.raises(BadInput, match=r"holds a run that differs in model, weights"):
        sample.main([*argv, "--adapter_scale", "0.25"])


# ---- what cannot be scaled ----


@pytest.mark.parametrize("backend", ["vllm", "openai", "mock"])
def test_only_our_own_weights_are_scaled(kept, backend):
    with pytest.raises(BadInput, match=rf"Backend {backend} cannot scale an adapter; use graph or transformers, or"):
        load_reasoner(str(kept), backend, adapter_scale=0.5)


@pytest.mark.parametrize("scale", [0, 0.5, 1])
def test_a_checkpoint_without_an_adapter_is_not_scaled(tiny_model, scale):
    with pytest.raises(BadInput, match="tiny: keeps no adapter to scale; train it with `adapter: keep`"):
        load_reasoner(str(tiny_model), device="cpu", adapter_scale=scale)


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_is_a_number(kept, scale):
    with pytest.raises(BadInput, match=f"adapter_scale is {scale}; give a number"):
        load_model(str(kept), adapter_scale=scale)


def without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(min(tensors))
    save_file(tensors, folder / "adapter_model.safetensors")


def with_config(**changes):
    def spoil(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "valve: its folder adapter/ is not whole; copy the checkpoint again"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "its folder adapter/ is not whole"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"12"), "truncated safetensors file"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), r"adapter_config\.json: not valid JSON"),
        (without_a_tensor, r"adapter: does not fit the weights \(Found missing adapter keys"),
        (with_config(r=RANK + 1), r"adapter: does not fit the weights \(size mismatch"),
        (with_config(target_modules=["nose"]), r"adapter: does not fit the weights \(Target modules"),
        (with_config(r="two"), "adapter: does not fit the weights"),
        (with_config(peft_type="IA3"), "another kind than plain LoRA"),
        (with_config(use_dora=True), "another kind than plain LoRA"),
    ],
)
def test_an_adapter_that_does_not_fit_is_named(kept, spoil, message):
    spoil(kept / "adapter")
    with pytest.raises(BadInput, match=message):
        load_model(str(kept), device="cpu", adapter_scale=0.5)
