"""What a checkpoint lacks is said in one sentence; what it holds comes back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from efficient_reasoning import checkpoint
from efficient_reasoning.checkpoint import (
    ReasoningMetadata,
    check_checkpoint,
    load_model,
    load_tokenizer,
    resolve_model,
    thinking_format,
    weights_fingerprint,
)
from efficient_reasoning.errors import BadInput


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A model of a few hundred parameters, as `save_pretrained` leaves it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("saved")
    words = ["<unk>", "<eos>", "<think>", "</think>", "[T]", "[/T]", *map(str, range(10))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>").save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        dtype="bfloat16",
    )
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


# ---- loading ----


def test_a_whole_checkpoint_loads(folder):
    check_checkpoint(str(folder))
    model, tokenizer = load_model(str(folder), device="cpu"), load_tokenizer(str(folder))
    assert model.dtype == torch.float32 and not model.training
    assert load_model(str(folder), device="cpu", dtype="bfloat16").dtype == torch.bfloat16
    # Decoding a batch needs both: the tokenizer came without a padding token.
    assert tokenizer.padding_side == "left" and tokenizer.pad_token == "<eos>"
    batch = tokenizer(["1 2 3", "4"], padding=True, return_tensors="pt")
    assert model(**batch).logits.shape == (2, 3, 16)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "no config.json, so this is no model folder"),
        ("tokenizer.json", "the checkpoint has no tokenizer; copy tokenizer.json from the base model"),
        ("model.safetensors", r"the checkpoint has no weights \(\*\.safetensors\)"),
    ],
)
def test_a_missing_file_is_named(folder, name, message):
    (folder / name).unlink()
    for load in (check_checkpoint, load_model, load_tokenizer):
        with pytest.raises(BadInput, match=rf"model: {message}"):
            load(str(folder))


@pytest.mark.parametrize("kept_share", [0.0, 0.001, 0.3, 0.999])
def test_truncated_weights_are_named(folder, kept_share):
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    kept = int(len(content) * kept_share)
    weights.write_bytes(content[:kept])
    with pytest.raises(BadInput, match=rf"model\.safetensors: truncated safetensors file \({kept:,} bytes\); copy or"):
        load_model(str(folder))


@pytest.mark.parametrize(
    "spoil", [lambda content: bytes(len(content)), lambda content: content + b"more", bytes.swapcase]
)
def test_overwritten_weights_are_named(folder, spoil):
    """Zeros are what a file holds whose blocks never reached the disk before a power cut."""
    weights = folder / "model.safetensors"
    weights.write_bytes(spoil(weights.read_bytes()))
    with pytest.raises(BadInput, match=r"model\.safetensors: truncated safetensors file"):
        check_checkpoint(str(folder))


def test_the_shard_that_is_cut_is_named(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model-00002-of-00002.safetensors").write_bytes(content[:-1])
    with pytest.raises(BadInput, match=r"model-00002-of-00002\.safetensors: truncated"):
        check_checkpoint(str(folder))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(("content", "message"), [('{"a": 1', "not valid JSON"), ("[]", "expected an object")])
def test_a_file_that_was_cut_is_named(folder, name, content, message):
    (folder / name).write_text(content)
    with pytest.raises(BadInput, match=f"{name}: {message}"):
        check_checkpoint(str(folder))


def test_a_shard_that_the_index_names_is_missed(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    with pytest.raises(BadInput, match=r"model-1\.safetensors is missing, though model\.safetensors\.index\.json"):
        check_checkpoint(str(folder))


def test_weights_without_tensors_are_whole(folder):
    from safetensors.torch import save_file

    save_file({}, folder / "extra.safetensors")
    check_checkpoint(str(folder))


@pytest.mark.parametrize("name", ["/none/such", "./none", "../none", "~/none", "runs/none/checkpoint-3"])
def test_a_path_that_is_not_there_is_no_hub_id(name):
    with pytest.raises(BadInput, match="no such checkpoint folder; check the path"):
        check_checkpoint(name)


def test_hub_ids_pass_unchecked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("gpt2", "Qwen/Qwen3-0.6B"):
        check_checkpoint(name)
    # The same words as a folder are the folder.
    (tmp_path / "Qwen/Qwen3-0.6B").mkdir(parents=True)
    with pytest.raises(BadInput, match="this is no model folder"):
        check_checkpoint("Qwen/Qwen3-0.6B")


def test_the_embedded_model_has_a_short_name(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "ASSETS", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "overthinker").mkdir()
    assert resolve_model("overthinker") == str(tmp_path / "overthinker")
    for name in ("other", "Qwen/Qwen3-0.6B", "./overthinker", "overthinker/", "..", ""):
        assert resolve_model(name) == name


def test_a_hub_id_is_downloaded_for_its_files(folder, monkeypatch):
    import huggingface_hub

    from efficient_reasoning.checkpoint import local_folder

    asked = {}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **how: asked.update(how) or folder)
    assert local_folder("ORG/NAME") == folder
    assert {"*.json", "*.safetensors"} <= set(asked["allow_patterns"]) and "*.bin" not in asked["allow_patterns"]
    monkeypatch.undo()
    assert local_folder(str(folder)) == folder
    with pytest.raises(BadInput, match=r"no-such/model: cannot be downloaded \(.*\); download it, then name its"):
        local_folder("no-such/model")


# ---- reasoning.json ----


def test_metadata_comes_back(tmp_path):
    metadata = ReasoningMetadata(
        method="grpo kimi",
        stage="rl",
        base_model="overthinker",
        merged_from=["overthinker", "sft"],
        open_text="[T]",
        close_text="[/T]",
        latent_steps=2,
        adapter="adapter",
        trained_budget_range=(64, 256),
        operating_points=[{"strategy": "budget-forcing", "budget_tokens": 96, "accuracy": 0.9, "total_tokens": 80.5}],
        data_fingerprint="0123abcd",
        seed=0,
    )
    metadata.save(tmp_path)
    assert ReasoningMetadata.load(tmp_path) == metadata
    assert set(metadata.versions) == {"torch", "transformers", "trl"}
    ReasoningMetadata("pretrain", "pretrain").save(tmp_path)
    assert ReasoningMetadata.load(tmp_path) == ReasoningMetadata("pretrain", "pretrain")


def test_a_model_of_another_making_has_no_metadata(folder):
    assert ReasoningMetadata.load(folder) is None


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "null",
        '{"method": "sft"}',
        '{"method": "sft", "stage": "sft", "colour": "red"}',
        '{"method": "sft", "stage": "sft", "trained_budget_range": 5}',
        '{"method": "sft", "stage": "sft", "controls": null}',
        '{"method": "coconut", "stage": "sft", "latent_steps": "three"}',
        '{"method": "coconut", "stage": "sft", "latent_steps": null}',
        '{"method": "coconut", "stage": "sft", "latent_steps": 3, "latent_norm": "long"}',
        '{"method": "pause", "stage": "sft", "pause_steps": -1}',
        b"\xff\xfe",
    ],
)
def test_metadata_that_is_not_ours_is_named(tmp_path, content):
    path = tmp_path / "reasoning.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(
        BadInput, match=r"reasoning\.json: not a valid reasoning\.json .*restore the file or delete it"
    ):
        ReasoningMetadata.load(tmp_path)


def test_metadata_that_cannot_be_written_leaves_the_old_file(tmp_path):
    ReasoningMetadata("sft", "sft").save(tmp_path)
    with pytest.raises(TypeError):
        ReasoningMetadata("sft", "sft", operating_points=[{"accuracy": object()}]).save(tmp_path)
    assert json.loads((tmp_path / "reasoning.json").read_text())["method"] == "sft"
    assert len(list(tmp_path.iterdir())) == 1


def test_delimiters_come_from_the_metadata_else_from_the_tokenizer(folder):
    tokenizer = load_tokenizer(str(folder))
    assert thinking_format(str(folder), tokenizer).open_text == "<think>"
    ReasoningMetadata("sft", "sft", open_text="[T]", close_text="[/T]").save(folder)
    assert thinking_format(str(folder), tokenizer).open_text == "[T]"


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_what_ends_a_response_comes_from_the_generation_config_else_from_the_config(folder, name):
    tokenizer = load_tokenizer(str(folder))
    (folder / "generation_config.json").unlink()
    content = json.loads((folder / name).read_text()) if name == "config.json" else {}
    (folder / name).write_text(json.dumps(content | {"eos_token_id": [7, 8]}))
    assert thinking_format(str(folder), tokenizer).eos_ids == {1, 7, 8}


def test_a_fingerprint_follows_the_weights_alone(folder):
    before = weights_fingerprint(str(folder))
    (folder / "reasoning.json").write_text("{}")
    assert weights_fingerprint(str(folder)) == before
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert weights_fingerprint(str(folder)) != before
    assert weights_fingerprint("ORG/NAME") is None


def test_a_name_that_is_neither_folder_nor_hub_model(monkeypatch):
    from transformers import AutoTokenizer

    def unreachable(*arguments, **options):
        raise OSError("We couldn't connect to the Hub")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", unreachable)
    with pytest.raises(BadInput, match="no-such/model: neither a folder nor a model"):
        load_tokenizer("no-such/model")
