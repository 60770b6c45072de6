"""What `sft_compress` does beyond plain SFT: preferences, adapters, control tokens, general rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from efficient_reasoning.checkpoint import ReasoningMetadata, load_model, load_tokenizer
from efficient_reasoning.contamination import contamination
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl, write_jsonl
from efficient_reasoning.prompts import add_control
from efficient_reasoning.training import fingerprint
from tests.recipes.running import ROOT, check_output, launch, logged, run_twice, weights
from tests.recipes.running import run as run_recipe

SHORT, HALF = "<|short|>", "<|keep 0.5|>"
LORA = {"lora_rank": 4, "lora_dropout": 0.1}
KINDS = {
    "dpo": {"objective": "dpo"},
    "simpo": {"objective": "simpo"},
    "lora": LORA,
    "lora-dpo": {"objective": "dpo"} | LORA,
    "lora-simpo": {"objective": "simpo"} | LORA,
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def run(words: list[str]) -> None:
    run_recipe("sft_compress", words)


@pytest.fixture
def words(argv):
    return lambda **changes: argv("sft_compress", **changes)


@pytest.fixture
def controlled(data, tmp_path) -> Path:
    """Every second row asks for a short chain, every other for half of one."""
    rows = list(read_jsonl(data / "sft.jsonl"))
    controls = [SHORT, HALF] * (len(rows) // 2)
    path = tmp_path / "controlled.jsonl"
    write_jsonl(
        path,
        (
            row | {"prompt": add_control(row["prompt"], control), "control": control}
            for row, control in zip(rows, controls, strict=True)
        ),
    )
    return path


def logits(folder: Path, text: str, model=None) -> torch.Tensor:
    """(T, V), of a checkpoint or of a model with its tokenizer."""
    model = model or AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        return model.eval()(**load_tokenizer(str(folder))(text, return_tensors="pt")).logits[0]


# ---- every objective, with all weights and with LoRA ----


@each_kind
def test_from_end_to_end(words, tmp_path, tiny_model, data, capsys, kind):
    run(words(**KINDS[kind]))
    metadata = ReasoningMetadata.load(tmp_path / "run")
    pairs = "objective" in KINDS[kind]
    method = f"{KINDS[kind]['objective']} long2short_pairs" if pairs else "shortest_correct"
    assert (metadata.method, metadata.stage, metadata.base_model) == (method, "sft", "tiny")
    assert metadata.adapter is None
    assert weights(tmp_path / "run") != weights(tiny_model)
    tokenizer = load_tokenizer(str(tiny_model))
    rows = list(read_jsonl(data / ("pairs.jsonl" if pairs else "sft.jsonl")))
    lengths = [len(tokenizer(row["chosen" if pairs else "completion"])["input_ids"]) - 1 for row in rows]
    assert metadata.trained_tokens == pytest.approx(sum(lengths) / len(lengths))
    assert metadata.data_fingerprint == fingerprint(rows)
    assert f"24 rows of {'long2short_pairs, mean tokens 30.0 -> ' if pairs else ''}" in capsys.readouterr().out
    losses = [row["loss"] for row in logged(tmp_path / "run")]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("kind", ["dpo", "simpo", "lora"])
def test_a_cut_run_is_resumed_by_the_same_command(words, tmp_path, kind, monkeypatch):
    """To the same weights, which depend on nothing but the seed."""
    run(words(output_dir=tmp_path / "whole", max_steps=4, **KINDS[kind]))
    run_twice(monkeypatch, "sft_compress", words(max_steps=4, **KINDS[kind]))
    assert [row["step"] for row in logged(tmp_path / "run", 4)] == [1, 2, 3, 4]
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["dpo", "simpo", "lora"])
def test_a_dry_run_prints_what_the_run_then_does(words, tmp_path, capsys, tiny_model, kind):
    changes = {"max_steps": None, "num_train_epochs": 2, "per_device_train_batch_size": 8, "save_strategy": "epoch"}
    run([*words(**changes, **KINDS[kind]), "--dry_run"])
    table = {line[:8].strip(): line[9:] for line in capsys.readouterr().out.splitlines()[1:]}
    assert not (tmp_path / "run").exists()
    run(words(**changes, **KINDS[kind]))
    steps = max(int(path.name.split("-")[1]) for path in (tmp_path / "run").glob("checkpoint-*"))
    assert table["steps"].startswith(f"{steps} of 8 samples")
    parameters = AutoModelForCausalLM.from_pretrained(tiny_model).num_parameters()
    assert f"{parameters:,} parameters" in table["model"] or "lora" in kind
    assert ("trained" in table["model"]) == ("lora" in kind)


@pytest.mark.parametrize(
    "config", sorted((ROOT / "configs" / "sft_compress").glob("*_overthinker.yaml")), ids=lambda path: path.stem
)
def test_a_shipped_config_dry_runs(config, tmp_path, data, capsys):
    first_line, text = config.read_text().splitlines()[0], config.read_text()
    assert first_line.startswith(
        f"# efficient-reasoning train sft_compress --config configs/sft_compress/{config.name}"
    )
    rows = data / ("pairs.jsonl" if "objective: dpo" in text or "objective: simpo" in text else "sft.jsonl")
    run(["--config", str(config), "--data", str(rows), "--output_dir", str(tmp_path), "--dry_run"])
    assert "\nclipped  0.0% of the rows" in capsys.readouterr().out


def test_dpo_starts_from_a_reference_that_is_the_model(words, tmp_path):
    """Without a step behind them they agree: the loss is log 2."""
    for kind in ("dpo", "lora-dpo"):
        run(words(output_dir=tmp_path / kind, **KINDS[kind]))
        assert logged(tmp_path / kind)[0]["loss"] == pytest.approx(0.6931, abs=1e-4)


def test_simpo_has_no_likelihood_term(words, tmp_path, tiny_model, data):
    """The loss of the first step, from the paper's formula."""
    run(words(objective="simpo", per_device_train_batch_size=24))
    tokenizer = load_tokenizer(str(tiny_model))
    model = AutoModelForCausalLM.from_pretrained(tiny_model)

    def mean_logp(row: dict, side: str) -> torch.Tensor:
        prompt, ids = (tokenizer(text, return_tensors="pt")["input_ids"] for text in (row["prompt"], row[side]))
        with torch.no_grad():
            scores = model(torch.cat([prompt, ids], dim=1)).logits[0, prompt.shape[1] - 1 : -1].log_softmax(-1)
        return scores.gather(1, ids[0, :, None]).mean()

    rows = read_jsonl(data / "pairs.jsonl")
    margins = torch.stack([mean_logp(row, "chosen") - mean_logp(row, "rejected") for row in rows])
    expected = -torch.nn.functional.logsigmoid(2.0 * margins - 1.0).mean()
    assert logged(tmp_path / "run")[0]["loss"] == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize("objective", ["dpo", "simpo"])
def test_pairs_of_messages_are_trained_as_they_are_asked(words, tmp_path, tiny_model, data, objective, monkeypatch):
    from trl import DPOTrainer

    from efficient_reasoning.prompts import encode_prompt
    from efficient_reasoning.training.simpo import SimPOTrainer
    from tests.recipes.test_recipes import TEMPLATE

    model = shutil.copytree(tiny_model, tmp_path / "chat")
    tokenizer = load_tokenizer(str(model))
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(model)
    rows = [
        {"prompt": [{"role": "user", "content": row["prompt"]}]}
        | {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
        for row in read_jsonl(data / "pairs.jsonl")
    ]
    write_jsonl(tmp_path / "chat.jsonl", rows)
    datasets = []
    trainer = {"dpo": DPOTrainer, "simpo": SimPOTrainer}[objective]
    train = trainer.train
    monkeypatch.setattr(
        trainer, "train", lambda self, *a, **k: (datasets.append(self.train_dataset), train(self, *a, **k))[1]
    )
    run(words(model=model, data=tmp_path / "chat.jsonl", objective=objective, max_steps=1))
    [dataset] = datasets
    for row, encoded in zip(rows, dataset, strict=True):
        prompt_ids = encode_prompt(tokenizer, row["prompt"])
        assert encoded["prompt_ids" if objective == "dpo" else "prompt_input_ids"] == prompt_ids
        for side in ("chosen", "rejected"):
            ids = encoded[f"{side}_ids"] if objective == "dpo" else encoded[f"{side}_input_ids"][len(prompt_ids) :]
            assert tokenizer.decode(ids).startswith("<think>")
            assert ids[-1] == tokenizer.eos_token_id


# ---- adapters ----


def test_the_merged_model_is_the_base_with_its_adapter(words, tmp_path, tiny_model):
    from peft import PeftModel

    run(words(lora_rank=4, adapter="keep"))
    assert check_output(tmp_path / "run").adapter == "adapter"
    assert {path.name for path in (tmp_path / "run" / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert str(tmp_path) not in (tmp_path / "run" / "adapter" / "adapter_config.json").read_text()
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    applied = PeftModel.from_pretrained(base, tmp_path / "run" / "adapter")
    prompt = "Compute 3 + 4.\n<think>"
    merged = logits(tmp_path / "run", prompt)
    assert torch.allclose(merged, logits(tmp_path / "run", prompt, applied), atol=1e-5)
    assert not torch.allclose(merged, logits(tiny_model, prompt), atol=1e-3)
    for scale, expected in ((0.0, logits(tiny_model, prompt)), (1.0, merged)):
        scaled = load_model(str(tmp_path / "run"), "cpu", adapter_scale=scale)
        assert torch.allclose(logits(tiny_model, prompt, scaled), expected, atol=1e-5)
    with applied.disable_adapter():
        assert torch.equal(logits(tiny_model, prompt, applied), logits(tiny_model, prompt))


def test_a_checkpoint_that_was_merged_has_no_adapter(words, tmp_path):
    run(words(lora_rank=4))
    assert not (tmp_path / "run" / "adapter").exists()
    assert ReasoningMetadata.load(tmp_path / "run").adapter is None


def test_a_save_that_was_cut_off_is_repeated_with_its_adapter(words, tmp_path):
    """Killed between moving the adapter into place and moving the rest."""
    run(words(lora_rank=4, adapter="keep"))
    before = weights(tmp_path / "run")
    (tmp_path / "run" / ".unfinished").mkdir()
    (tmp_path / "run" / "reasoning.json").unlink()
    run(words(lora_rank=4, adapter="keep"))
    assert weights(tmp_path / "run") == before
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


def test_rows_scale_the_adapter(words, tmp_path, tiny_model, data):
    """Rows of scale 0 alone leave the base as it is; others do not."""
    rows = list(read_jsonl(data / "sft.jsonl"))
    for name, scale in (("off", 0.0), ("on", 0.5)):
        write_jsonl(tmp_path / f"{name}.jsonl", (row | {"adapter_scale": scale} for row in rows))
        run(words(lora_rank=4, data=tmp_path / f"{name}.jsonl", output_dir=tmp_path / name))
    assert weights(tmp_path / "off") == weights(tiny_model)
    assert weights(tmp_path / "on") != weights(tiny_model)


def test_rows_are_taken_in_the_order_of_the_file(words, tmp_path, data, monkeypatch):
    """CoT-Valve's progressive training: `train_sampling_strategy` is transformers' own."""
    from trl import SFTTrainer

    batches = []
    step = SFTTrainer.compute_loss
    monkeypatch.setattr(
        SFTTrainer, "compute_loss", lambda self, model, inputs, *a, **k: (
            batches.append(inputs["input_ids"]), step(self, model, inputs, *a, **k)
        )[1],
    )  # fmt: skip
    run(words(train_sampling_strategy="sequential", max_steps=6))
    tokenizer = load_tokenizer(str(tmp_path / "run"))
    seen = [text.replace("<|end|>", "") for batch in batches for text in tokenizer.batch_decode(batch)]
    rows = list(read_jsonl(data / "sft.jsonl"))
    assert [text.split("\n")[0] for text in seen] == [row["prompt"].strip() for row in rows]


# ---- control tokens ----


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 4}], ids=["all", "lora"])
def test_controls_become_trained_tokens(words, tmp_path, tiny_model, controlled, changes):
    run(words(data=controlled, **changes))
    before, tokenizer = load_tokenizer(str(tiny_model)), load_tokenizer(str(tmp_path / "run"))
    assert len(tokenizer) == len(before) + 2
    table = AutoModelForCausalLM.from_pretrained(tmp_path / "run").get_input_embeddings().weight
    start = AutoModelForCausalLM.from_pretrained(tiny_model).get_input_embeddings().weight
    assert table.shape == (len(tokenizer), start.shape[1])
    assert ReasoningMetadata.load(tmp_path / "run").controls == sorted([SHORT, HALF])
    for control in (SHORT, HALF):
        [token] = tokenizer.encode(control)
        assert tokenizer.decode([token], skip_special_tokens=True) == control
        mean = start[before.encode(control)].mean(0)
        assert 0 < (table[token] - mean).abs().max() < 0.2
    moved = (table[: len(before)] != start).any(1).sum()
    assert (moved == 0) == ("lora_rank" in changes)  # an adapter leaves the other embeddings alone


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 4}], ids=["all", "lora"])
def test_a_later_stage_finds_the_controls_in_place(words, argv, tmp_path, controlled, changes):
    run(words(data=controlled, output_dir=tmp_path / "one"))
    run(words(data=controlled, model=tmp_path / "one", output_dir=tmp_path / "two", **changes))
    run_recipe("rl_length", argv("rl_length", model=tmp_path / "two", output_dir=tmp_path / "three", max_steps=1))
    vocabularies = [load_tokenizer(str(tmp_path / name)).get_vocab() for name in ("one", "two", "three")]
    assert vocabularies[0] == vocabularies[1] == vocabularies[2]
    token = vocabularies[0][SHORT]
    tables = [
        AutoModelForCausalLM.from_pretrained(tmp_path / name).get_input_embeddings().weight for name in ("one", "two")
    ]
    assert not torch.equal(tables[0][token], tables[1][token])  # trained on


def test_a_padded_table_keeps_its_size(words, tmp_path, tiny_model, controlled):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.resize_token_embeddings(400)
    shutil.copytree(tiny_model, tmp_path / "padded")
    model.save_pretrained(tmp_path / "padded")
    run(words(model=tmp_path / "padded", data=controlled))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["vocab_size"] == 400


@pytest.mark.parametrize("kind", ["dpo", "lora-dpo", "simpo"])
def test_pairs_may_have_controls(words, tmp_path, data, kind):
    rows = [
        row | {"prompt": add_control(row["prompt"], SHORT), "control": SHORT}
        for row in read_jsonl(data / "pairs.jsonl")
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    run(words(data=tmp_path / "rows.jsonl", **KINDS[kind]))
    if kind == "simpo":
        check_output(tmp_path / "run")
    else:
        assert logged(tmp_path / "run")[0]["loss"] == pytest.approx(0.6931, abs=1e-4)


def test_a_control_is_no_part_of_the_problem(words, tmp_path, data, controlled):
    run(words(data=controlled, max_steps=1))
    problems = [{"id": str(n), "question": row["prompt"]} for n, row in enumerate(read_jsonl(data / "sft.jsonl"))]
    assert contamination(tmp_path / "run", problems)["trained_on"] == len(problems)


# ---- general rows ----


def test_general_rows_are_each_trained_once(words, tmp_path, data, capsys, monkeypatch):
    from trl import SFTTrainer

    datasets = []
    train = SFTTrainer.train
    monkeypatch.setattr(
        SFTTrainer, "train", lambda self, *a, **k: (datasets.append(self.train_dataset), train(self, *a, **k))[1]
    )
    turns = [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Red."}]
    write_jsonl(tmp_path / "general.jsonl", [{"messages": turns}] * 3)
    run(words(general_data=tmp_path / "general.jsonl"))
    assert "24 rows of shortest_correct, mean tokens 16.0, 3 general rows\n" in capsys.readouterr().out
    [dataset] = datasets
    is_general = [prompt == "Name a colour.\n" for prompt in dataset["prompt"]]
    assert [place for place, general in enumerate(is_general) if general] == [4, 13, 22]
    rows = list(read_jsonl(data / "sft.jsonl"))
    general = {"prompt": "Name a colour.\n", "completion": "Red."}
    assert ReasoningMetadata.load(tmp_path / "run").data_fingerprint == fingerprint([*rows, *[general] * 3])
    found = contamination(tmp_path / "run", [{"id": "colour", "question": "Name a colour."}])
    assert found["trained_on"] == 1


def test_general_rows_that_changed_are_refused(words, tmp_path, data):
    general = Path(shutil.copy(data / "sft.jsonl", tmp_path / "general.jsonl"))
    run(words(general_data=general, max_steps=2))
    general.write_text(general.read_text().splitlines()[0] + "\n")
    with pytest.raises(BadInput, match="differs in contents of general_data"):
        run(words(general_data=general, max_steps=2))


# ---- packing ----


def test_packed_rows_train_as_rows_do(words, tmp_path, tiny_model, data):
    """The first loss is that of the rows: attention keeps them apart."""
    run(words(output_dir=tmp_path / "one", per_device_train_batch_size=24, max_steps=1))
    packed = {"packing": True, "max_length": 2048, "per_device_train_batch_size": 1, "max_steps": 1}
    run(words(output_dir=tmp_path / "two", **packed))
    losses = [logged(tmp_path / name, 1)[0]["loss"] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    tokens = [ReasoningMetadata.load(tmp_path / name).trained_tokens for name in ("one", "two")]
    assert tokens[0] == tokens[1]


# ---- bad input ----


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"objective": "ppo"}, "objective must be one of sft, dpo, simpo, found 'ppo'"),
        ({"beta": 0.1}, "unknown key 'beta'"),
        ({"objective": "dpo", "packing": True}, "unknown key 'packing'"),
        ({"objective": "simpo", "loss_type": "ipo"}, "loss_type must be one of simpo, found 'ipo'"),
        ({"lora_rank": -1}, "lora_rank must be 0 or more"),
        ({"lora_rank": 1.5}, "lora_rank must be int"),
        ({"lora_rank": 2, "lora_dropout": 1}, r"lora_dropout in \[0, 1\)"),
        ({"adapter": "keep"}, "adapter is keep, and there is none; give lora_rank"),
        ({"adapter": "leave"}, "adapter must be one of merge, keep"),
        ({"general_data": "no.jsonl"}, r"no\.jsonl: no such file of training rows"),
        ({"objective": "dpo", "general_data": "no.jsonl"}, "general_data is for objective sft, not dpo"),
        ({"packing": True, "packing_strategy": "wrapped"}, "packing_strategy is wrapped, which joins and cuts rows"),
        ({"padding_free": True}, "`padding_free=True` without packing, `max_length` is not enforced"),
        ({"assistant_only_loss": True}, "`assistant_only_loss=True`, but the dataset is not conversational"),
        ({"objective": "dpo", "sync_ref_model": True} | LORA, "`sync_ref_model=True` while using a PEFT model"),
        ({"max_length": 4}, "max_length is 4, and every prompt is as long; raise it"),
        ({"objective": "dpo", "max_length": 4}, "max_length is 4, and every prompt is as long; raise it"),
        ({"objective": "simpo", "max_length": 4}, "max_length is 4, and every prompt is as long; raise it"),
    ],
)
def test_bad_values_get_one_sentence(words, changes, sentence):
    with pytest.raises(BadInput, match=sentence) as caught:
        run(words(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "changes", "sentence"),
    [
        ({"completion": "b"}, {"objective": "dpo"}, r"rows\.jsonl, line 1: no 'chosen'"),
        ({"chosen": "b"}, {"objective": "simpo"}, r"rows\.jsonl, line 1: no 'rejected'"),
        ({"chosen": "b", "rejected": "c"}, {}, r"rows\.jsonl, line 1: no 'completion'"),
        (
            {"chosen": [{"role": "assistant", "content": "b"}], "rejected": "c"},
            {"objective": "dpo"},
            "prompt is text, and the rest of prompt, chosen, rejected is not; write one kind",
        ),
        (
            {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
            {},
            "its rows are messages, and .* has no chat template",
        ),
        ({"completion": "b", "control": SHORT}, {}, "row 1: its control '<|short|>' does not stand in its prompt"),
        ({"completion": "b", "control": 3}, {}, "row 1: its control 3 does not stand in its prompt"),
        ({"completion": "b", "adapter_scale": 0.5}, {}, "adapter_scale, a column of data, scales LoRA's part"),
        ({"completion": "b", "adapter_scale": 0.5}, {"lora_rank": 2, "packing": True}, "neither packing nor padding"),
        (
            {"completion": "b", "adapter_scale": 1.5},
            {"lora_rank": 2},
            "row 1: its adapter_scale is 1.5; give a number",
        ),
        ({"completion": "b", "adapter_scale": None}, {"lora_rank": 2}, "row 1: its adapter_scale is None"),
        (
            {"chosen": "b", "rejected": "c", "adapter_scale": 0.5},
            {"objective": "dpo", "lora_rank": 2},
            "give objective: sft",
        ),
    ],
)
def test_bad_rows_get_one_sentence(words, tmp_path, row, changes, sentence):
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a"} | row])
    with pytest.raises(BadInput, match=sentence.replace("|", r"\|")) as caught:
        run(words(data=tmp_path / "rows.jsonl", **changes))
    assert "\n" not in str(caught.value)


# ---- two processes ----


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dpo", "simpo", "lora"])
def test_two_processes_under_zero_2(words, tmp_path, controlled, kind):
    data = {"data": controlled, "adapter": "keep"} if kind == "lora" else {}
    changes = KINDS[kind] | {"lora_dropout": 0} | data if kind == "lora" else KINDS[kind]
    done = launch("sft_compress", words(deepspeed="zero2", **changes), tmp_path)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    check_output(tmp_path / "run")
    run(words(output_dir=tmp_path / "one", per_device_train_batch_size=8, **changes))
    losses = [[row["loss"] for row in logged(tmp_path / name)] for name in ("run", "one")]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    prompt = "Compute 3 + 4.\n<think>"
    assert torch.allclose(logits(tmp_path / "run", prompt), logits(tmp_path / "one", prompt), atol=1e-2)
