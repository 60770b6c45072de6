"""Merged weights: each method by hand on tiny tensors, then whole checkpoints, one tensor at a time."""

from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from efficient_reasoning import merging
from efficient_reasoning.checkpoint import ReasoningMetadata, load_tokenizer
from efficient_reasoning.contamination import TrainingProblems, training_problems
from efficient_reasoning.errors import BadInput
from efficient_reasoning.merging import Merge, check_parents, load_parent, merge_tensors, write_merged

LONG = torch.tensor([1.0, 2.0, 3.0, -4.0, 0.0])
SHORT = torch.tensor([2.0, 0.0, 3.5, -4.0, -1.0])
BASE = torch.tensor([0.0, 1.0, 3.0, -2.0, 2.0])
# Task vectors: the long model's is [1, 1, 0, -2, -2], the short one's [2, -1, 0.5, -2, -3].


def merged(method: str, weight: float, base: torch.Tensor | None = None, **settings) -> torch.Tensor:
    merge = Merge(method, weight, **settings)
    return merge_tensors(LONG, SHORT, base, merge=merge, name="w")


# ---- methods ----


@pytest.mark.parametrize(
    ("method", "base", "settings", "expected"),
    [
        ("average", None, {}, SHORT.tolist()),
        ("task_arithmetic", BASE, {}, [3, 1, 3.5, -6, -3]),
        ("task_arithmetic", LONG, {}, SHORT.tolist()),
        # Signs of the sum [3, 0, 0.5, -4, -5]: means of what agrees are [1.5, 0, 0.5, -2, -2.5].
        ("ties", BASE, {"density": 1.0}, [1.5, 1, 3.5, -4, -0.5]),
        # The two largest of each: [0, 0, 0, -2, -2] and [2, 0, 0, -2, -3] (-2 ties with 2, and both stay).
        ("ties", BASE, {"density": 0.4}, [2, 1, 3, -4, -0.5]),
        # What training changed is [1, -2, 0.5, 0, -1]; its largest entry alone.
        ("ties", LONG, {"density": 0.2}, [1, 0, 3, -4, 0]),
        # What the long model learnt from the short one is [-1, 2, -0.5, 0, 1].
        ("ties", SHORT, {"density": 0.2}, [2, 2, 3.5, -4, -1]),
        ("dare", BASE, {"drop_rate": 0.0}, [3, 1, 3.5, -6, -3]),
        ("dare", LONG, {"drop_rate": 0.0}, SHORT.tolist()),
    ],
)
@pytest.mark.parametrize("weight", [0, 0.25, 1, 1.5, -0.5])
def test_a_method_by_hand(method, base, settings, expected, weight):
    point = LONG + weight * (torch.tensor(expected) - LONG)
    torch.testing.assert_close(merged(method, weight, base, **settings), point)


def test_opposite_changes_of_one_size_cancel():
    one, other = torch.tensor([1.0, 5.0]), torch.tensor([-1.0, 5.0])
    found = merge_tensors(one, other, torch.zeros(2), merge=Merge("ties", 1, density=1.0), name="w")
    assert found.tolist() == [0, 5]


@pytest.mark.parametrize("density", [0.001, 0.1, 0.25, 0.5, 1.0])
def test_ties_keeps_the_largest_changes_of_a_tensor(density):
    changes = torch.randn(40, 25, generator=torch.Generator().manual_seed(0))
    found = merge_tensors(
        torch.zeros(40, 25), changes, torch.zeros(40, 25), merge=Merge("ties", 1, density=density), name="w"
    )
    kept = found != 0
    assert int(kept.sum()) == density * 1000
    assert torch.equal(found[kept], changes[kept])
    assert changes[kept].abs().min() > changes[~kept].abs().max() if density < 1 else kept.all()


def test_dare_drops_by_lot_and_keeps_the_sum():
    zeros, ones = torch.zeros(200, 200), torch.ones(200, 200)

    def drop(seed=0, name="w", weight=1, short=ones):
        return merge_tensors(zeros, short, zeros, merge=Merge("dare", weight, drop_rate=0.75, seed=seed), name=name)

    found = drop()
    assert set(found.unique().tolist()) == {0, 4}
    assert found.mean() == pytest.approx(1, abs=0.05)
    assert torch.equal(found, drop())
    assert torch.equal(found / 2, drop(weight=0.5))  # a sweep goes along one line
    assert not torch.equal(found, drop(seed=1)) and not torch.equal(found, drop(name="v"))


def test_dare_drops_of_both_models_apart():
    zeros, ones = torch.zeros(100, 100), torch.ones(100, 100)
    found = merge_tensors(ones, ones, zeros, merge=Merge("dare", 1, drop_rate=0.5), name="w")
    assert set(found.unique().tolist()) == {0, 2, 4}  # one mask for both would leave 0 and 4


# ---- numbers ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("method", "base_is_long"), [("average", False), ("task_arithmetic", True)])
def test_the_ends_are_the_models_to_the_bit(dtype, method, base_is_long):
    """Also where long - (long - short) would lose short: tiny beside large numbers, zeros with a sign."""
    torch.manual_seed(0)
    scales = 10.0 ** torch.randint(-6, 4, (2, 1000))
    long, short = (torch.randn(2, 1000) * scales).to(dtype)
    short[:4], long[:4] = torch.tensor([-0.0, 0.0, -0.0, 0.0]), torch.tensor([1.0, 1.0, -0.0, -0.0])
    base = long if base_is_long else None
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    for weight, end in ((0, long), (1, short)):
        found = merge_tensors(long, short, base, merge=Merge(method, weight), name="w")
        assert found.dtype == dtype and torch.equal(found.view(bits), end.view(bits))


def test_the_result_is_rounded_once():
    long, short = torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([1.01], dtype=torch.float32)
    found = merge_tensors(long, short, merge=Merge("average", 0.5), name="w")
    assert found.dtype == torch.bfloat16
    assert found.item() == torch.tensor(1.005).to(torch.bfloat16).item() == 1.0078125
    # Rounded before, the short model's 1.01 would be 1.0078125, and the mean 1.0.


def test_whole_numbers_have_no_mean():
    one = torch.tensor([1, 2])
    assert merge_tensors(one, one.clone(), merge=Merge("average", 0.5), name="ids") is one
    with pytest.raises(BadInput, match="ids holds whole numbers that differ"):
        merge_tensors(one, one + 1, merge=Merge("average", 0.5), name="ids")


def test_a_number_alone_is_merged():
    found = merge_tensors(torch.tensor(1.0), torch.tensor(3.0), merge=Merge("average", 0.5), name="scale")
    assert found.shape == () and found.item() == 2


@pytest.mark.parametrize("method", ["average", "task_arithmetic", "ties"])
@pytest.mark.parametrize("block", [1, 7, 30])
def test_blocks_make_no_difference(method, block, monkeypatch):
    long, short, base = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))
    merge = Merge(method, 0.7, density=0.3)

    def found():
        return merge_tensors(long, short[:4], None if method == "average" else base, merge=merge, name="w")

    whole = found()
    assert torch.equal(whole[4:], long[4:]) and not torch.equal(whole[:4], long[:4])
    monkeypatch.setattr(merging, "_BLOCK", block)
    assert torch.equal(found(), whole)


def test_dare_has_new_luck_in_every_block(monkeypatch):
    monkeypatch.setattr(merging, "_BLOCK", 100)
    zeros, ones = torch.zeros(3, 100), torch.ones(3, 100)
    one, two, three = merge_tensors(zeros, ones, zeros, merge=Merge("dare", 1, drop_rate=0.5), name="w")
    assert not torch.equal(one, two) and not torch.equal(two, three)


def test_rows_of_tokens_that_only_one_has():
    long, short = torch.zeros(6, 2), torch.ones(4, 2)
    found = merge_tensors(long, short, merge=Merge("average", 1), name="embed", own_ids=[1, 4, 9])
    assert found.tolist() == [[1, 1], [0, 0], [1, 1], [1, 1], [0, 0], [0, 0]]
    assert short.eq(1).all()  # what was read is not written to
    found = merge_tensors(short, long, merge=Merge("average", 1), name="embed", own_ids=[4])
    assert found.tolist() == [[0, 0]] * 4


# ---- checkpoints ----


@pytest.fixture(scope="module")
def saved(tiny_model, tmp_path_factory) -> Path:
    """A long, a short and a base model: one config and tokenizer, other weights."""
    folder = tmp_path_factory.mktemp("parents")
    for seed, name in enumerate(("long", "short", "base")):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny_model))
        model.save_pretrained(folder / name)
        load_tokenizer(str(tiny_model)).save_pretrained(folder / name)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(saved, tmp_path / "parents"))


def in_shards(folder: Path) -> Path:
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="4KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def write(out: Path, merge: Merge, *folders: Path) -> Path:
    parents = [load_parent(str(folder)) for folder in folders]
    out.mkdir()
    write_merged(out, merge, *parents, own_ids=check_parents(*parents))
    return out


@pytest.mark.parametrize("sharded", [(), ("long",), ("short",), ("long", "short", "base")])
def test_a_checkpoint_is_split_as_the_long_one(folder, tmp_path, sharded):
    for name in sharded:
        in_shards(folder / name)
    long, short, base = (folder / name for name in ("long", "short", "base"))
    out = write(tmp_path / "out", Merge("ties", 0.5, density=0.5), long, short, base)
    names = {path.name for path in long.glob("*.safetensors*")}
    assert {path.name for path in out.glob("*.safetensors*")} == names
    given = [tensors_of(one) for one in (long, short, base)]
    found = tensors_of(out)
    assert found.keys() == given[0].keys()
    for name in found:
        expected = merge_tensors(*(one[name] for one in given), merge=Merge("ties", 0.5, density=0.5), name=name)
        assert torch.equal(found[name], expected)
    model, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(report.values())
    assert model.lm_head.weight is model.model.embed_tokens.weight  # still tied


def test_weight_zero_is_the_long_models_files(folder, tmp_path):
    in_shards(folder / "long")
    out = write(tmp_path / "out", Merge("dare", 0), *(folder / name for name in ("long", "short", "base")))
    for path in (folder / "long").glob("*.safetensors*"):
        assert (out / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("names", "models"), [(("long", "short", "base"), 3), (("long", "short", "long"), 2)])
def test_one_tensor_of_each_model_is_in_memory_at_a_time(folder, tmp_path, monkeypatch, names, models):
    parents = [load_parent(str(folder / name)) for name in names]
    live, most, reads = {}, 0, []

    class Watched:
        def __init__(self, file, framework):
            self.file, self.inside = file, safetensors._safetensors_rust.safe_open(file, framework=framework)

        def __enter__(self):
            return self

        def __exit__(self, *details):
            return None

        def get_tensor(self, name):
            nonlocal most
            tensor = self.inside.get_tensor(name)
            reads.append((self.file, name))
            live[len(reads)] = name
            weakref.finalize(tensor, live.pop, len(reads))
            most = max(most, len(live))
            assert len(set(live.values())) == 1
            return tensor

    monkeypatch.setattr(safetensors, "safe_open", Watched)
    (tmp_path / "out").mkdir()
    write_merged(tmp_path / "out", Merge("task_arithmetic", 0.5), *parents, own_ids={})
    assert len(reads) == len(set(reads)) == models * len(parents[0].tensors)
    assert most == models


def test_progress_counts_every_parameter(folder, tmp_path):
    parents = [load_parent(str(folder / name)) for name in ("long", "short")]
    told = []
    write_merged(folder / "base", Merge("average", 0.5), *parents, own_ids={}, progress=told.append)
    model = AutoModelForCausalLM.from_pretrained(folder / "long")
    assert sum(told) == parents[0].parameters == model.num_parameters()


def test_what_belongs_to_the_long_model_comes_along_and_what_tells_of_it_does_not(folder, tmp_path):
    long, short = folder / "long", folder / "short"
    (long / "chat_template.jinja").write_text("{{ messages[0].content }}<think>")
    (long / "additional_chat_templates").mkdir()
    (long / "additional_chat_templates" / "tools.jinja").write_text("tools")
    (long / "adapter").mkdir()
    for name in ("adapter/adapter_config.json", "recipe.yaml", "optimizer.pt", "LICENSE"):
        (long / name).write_text("of the long model")
    save_file({}, long / "adapter" / "adapter_model.safetensors")
    ReasoningMetadata("pretrain", "pretrain", open_text="<think>").save(long)
    out = write(tmp_path / "out", Merge("average", 0.5), long, short)
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert names == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "additional_chat_templates/tools.jinja", "LICENSE", "reasoning.json", "README.md",
    }  # fmt: skip
    for name in ("config.json", "tokenizer.json", "generation_config.json", "LICENSE"):
        assert (out / name).read_bytes() == (long / name).read_bytes()


def test_the_metadata_goes_on_from_both(folder, tmp_path):
    ReasoningMetadata("kimi", "rl", base_model="tiny", earlier_methods=["sft"], controls=["<|a|>"]).save(
        folder / "short"
    )
    ReasoningMetadata("sft", "sft", base_model="tiny", latent_steps=0, controls=["<|b|>"]).save(folder / "long")
    out = write(tmp_path / "out", Merge("dare", 0.3, seed=4), *(folder / name for name in ("long", "short", "base")))
    metadata = ReasoningMetadata.load(out)
    assert (metadata.method, metadata.stage, metadata.seed) == ("merge dare 0.3", "merge", 4)
    assert (metadata.base_model, metadata.earlier_methods) == ("tiny", ["sft", "kimi"])
    assert metadata.merged_from == ["long", "short"] and metadata.adapter is None
    assert metadata.controls == ["<|b|>"]  # whose tokenizer it is
    card = (out / "README.md").read_text()
    assert "# tiny + sft + kimi + merge dare 0.3" in card
    assert "weights between **long** and **short**" in card


@pytest.mark.parametrize(("known", "unknown"), [(("long", "short"), ()), (("short",), ("long",))])
def test_the_problems_of_both_are_remembered(folder, tmp_path, known, unknown):
    for name in known:
        training_problems([{"question": f"What is {name}?"}, {"question": "What is 1 + 1?"}]).save(folder / name)
    record = TrainingProblems.load(write(tmp_path / "out", Merge("average", 0.5), folder / "long", folder / "short"))
    assert (len(record.hashes), record.unknown) == (len(known) + 1, unknown)


def test_what_nobody_knows_is_not_remembered(folder, tmp_path):
    out = write(tmp_path / "out", Merge("average", 0.5), folder / "long", folder / "short")
    assert TrainingProblems.load(out) is None


# ---- tokens ----


def with_control_tokens(folder: Path, tokens: list[str], fill: float) -> Path:
    """The checkpoint with tokens added at the end, whose rows hold one number."""
    tokenizer, model = load_tokenizer(str(folder)), AutoModelForCausalLM.from_pretrained(folder)
    tokenizer.add_tokens(tokens)
    model.resize_token_embeddings(len(tokenizer))
    model.get_input_embeddings().weight.data[-len(tokens) :] = fill
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", ["average", "ties"])
def test_control_tokens_of_the_long_model_keep_their_rows(folder, tmp_path, method):
    long = with_control_tokens(folder / "long", ["<|short|>", "<|long|>"], 7.0)
    parents = [load_parent(str(one)) for one in (long, folder / "short", folder / "base")][: 2 + (method == "ties")]
    own_ids = check_parents(*parents)
    assert list(own_ids.values()) == ["<|short|>", "<|long|>"]
    (tmp_path / "out").mkdir()
    write_merged(tmp_path / "out", Merge(method, 1, density=1.0), *parents, own_ids=own_ids)
    name = "model.embed_tokens.weight"
    found = tensors_of(tmp_path / "out")[name]
    assert found.shape == parents[0].tensors[name] and found[-2:].eq(7).all()
    assert not torch.equal(found[:-2], tensors_of(long)[name][:-2])
    assert "<|short|>" in load_tokenizer(str(tmp_path / "out")).get_vocab()


def test_control_tokens_of_the_short_model_are_left_out(folder, tmp_path):
    short = with_control_tokens(folder / "short", ["<|short|>"], 7.0)
    out = write(tmp_path / "out", Merge("average", 1), folder / "long", short)
    found = tensors_of(out)["model.embed_tokens.weight"]
    assert torch.equal(found, tensors_of(short)["model.embed_tokens.weight"][:-1])
    assert "<|short|>" not in load_tokenizer(str(out)).get_vocab()


def test_one_id_with_two_meanings_is_not_mixed(folder, tmp_path):
    long = with_control_tokens(folder / "long", ["<|user|>"], 7.0)
    short = with_control_tokens(folder / "short", ["<|im_start|>"], 5.0)
    out = write(tmp_path / "out", Merge("average", 0.5), long, short)
    assert tensors_of(out)["model.embed_tokens.weight"][-1].eq(7).all()


def test_rows_of_other_tensors_are_no_tokens(folder, tmp_path):
    """The first tokens are others in the short model; of each tensor but the embedding, the first rows are merged."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = folder / "short" / name
        path.write_text(path.read_text().replace("<|end|>", "<|stop|>"))
    parents = [load_parent(str(folder / name)) for name in ("long", "short")]
    [(id_, token)] = check_parents(*parents).items()
    assert token == "<|end|>" and id_ < 8
    out = write(tmp_path / "out", Merge("average", 1), folder / "long", folder / "short")
    long, short, found = (tensors_of(one) for one in (folder / "long", folder / "short", out))
    for name, tensor in found.items():
        expected = short[name].clone()
        if name == "model.embed_tokens.weight":
            expected[id_] = long[name][id_]
        assert torch.equal(tensor, expected)


# ---- what cannot be merged ----


def change_config(**changes):
    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(content | changes))

    return change


def change_tensors(change):
    def spoil(folder: Path) -> None:
        save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})

    return spoil


def another_token(folder: Path) -> None:
    content = (folder / "tokenizer.json").read_text(encoding="utf-8")
    vocabulary = json.loads(content)
    words = vocabulary["model"]["vocab"]
    word = next(word for word, id_ in words.items() if id_ == 300)
    words["another"] = words.pop(word)
    vocabulary["model"]["merges"] = []
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary))


UP = "model.layers.0.mlp.up_proj.weight"
WITHOUT_UP = change_tensors(lambda tensors: {name: tensor for name, tensor in tensors.items() if name != UP})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change_config(model_type="llama"), r"long and short differ in model_type \(qwen3 and llama\)"),
        (change_config(num_attention_heads=1), r"differ in num_attention_heads \(2 and 1\); merge models of one arch"),
        (change_config(rope_parameters={"rope_theta": 5.0, "rope_type": "default"}), "differ in rope_parameters"),
        (change_config(tie_word_embeddings=False), "differ in tie_word_embeddings"),
        (another_token, r"long and short: token 300 is '.*' and 'another'; merge models of one tokenizer"),
        (WITHOUT_UP, rf"long and short: short has no tensor {UP}; save both models with save_pretrained"),
        (change_tensors(lambda tensors: {**tensors, "extra": torch.zeros(2)}), "long has no tensor extra; save both"),
        (
            change_tensors(lambda tensors: {**tensors, UP: torch.zeros(18, 16)}),
            rf"{UP} is \(16, 16\) and \(18, 16\); merge models of one size",
        ),
    ],
)
def test_models_that_do_not_belong_together_are_named(folder, spoil, message):
    spoil(folder / "short")
    long, short = (load_parent(str(folder / name)) for name in ("long", "short"))
    with pytest.raises(BadInput, match=message):
        check_parents(long, short)


def test_the_base_is_checked_as_well(folder):
    WITHOUT_UP(folder / "base")
    with pytest.raises(BadInput, match=f"long and base: base has no tensor {UP}"):
        check_parents(*(load_parent(str(folder / name)) for name in ("long", "short", "base")))


def adapter_alone(folder: Path) -> None:
    for path in folder.glob("*"):
        path.unlink()
    (folder / "adapter_config.json").write_text("{}")


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (adapter_alone, "short: holds a LoRA adapter; merge it into its model first"),
        (as_pickle, "short: its weights are not in safetensors; save it again"),
        (change_config(quantization_config={"quant_method": "fp8"}), "short: its weights are quantised; merge the"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"half"), "truncated safetensors file"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (
            lambda folder: ReasoningMetadata("coconut", "sft", latent_steps=3).save(folder),
            "short: thinks in latents or pauses, which a merge would lose; merge before latent training",
        ),
    ],
)
def test_a_model_that_cannot_be_read_is_named(folder, spoil, message):
    spoil(folder / "short")
    with pytest.raises(BadInput, match=message):
        load_parent(str(folder / "short"))
