"""Every recipe, from the command line to a checkpoint that others load."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from efficient_reasoning.checkpoint import ReasoningMetadata, load_tokenizer, resolve_model
from efficient_reasoning.contamination import TrainingProblems, contamination
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl, write_jsonl
from efficient_reasoning.problems import FAMILIES, MIXED
from efficient_reasoning.scratch import encode
from efficient_reasoning.training import fingerprint, load_rows
from efficient_reasoning.training.chains import write_chains, write_rows
from recipes import pretrain
from tests.recipes.running import ROOT, check_output, launch, logged, run, run_twice, weights

RECIPES = ("pretrain", "sft_compress", "rl_length")
FINETUNING = RECIPES[1:]


# ---- from end to end ----


def test_pretrain(argv, tmp_path):
    run("pretrain", argv("pretrain"))
    metadata = check_output(tmp_path / "run")
    assert (metadata.method, metadata.stage, metadata.base_model) == ("pretrain", "pretrain", None)
    record = TrainingProblems.load(tmp_path / "run")
    assert (len(record.hashes), record.unknown) == (60, ())
    assert metadata.data_fingerprint
    assert all(row["loss"] > 0 for row in logged(tmp_path / "run"))


needs_gym = pytest.mark.skipif(not importlib.util.find_spec("reasoning_gym"), reason="needs the extra gym")


@needs_gym
def test_pretrain_on_word_problems_in_shards(argv, tmp_path):
    run("pretrain", argv("pretrain", task="gsm_symbolic", num_shards=2, vocab_size=400, max_row_tokens=512))
    assert check_output(tmp_path / "run").method == "pretrain"
    assert all(row["loss"] > 0 for row in logged(tmp_path / "run"))


def test_pretrain_on_whole_words(argv, tmp_path):
    run("pretrain", argv("pretrain", task="graph_paths", tokenizer="words", max_row_tokens=512))
    assert "<unk>" in load_tokenizer(str(tmp_path / "run")).get_vocab()
    assert all(row["loss"] > 0 for row in logged(tmp_path / "run"))


def test_pretrain_with_the_tokenizer_of_a_model(argv, tmp_path):
    run("pretrain", argv("pretrain", tokenizer="overthinker"))
    assert (
        load_tokenizer(str(tmp_path / "run")).get_vocab() == load_tokenizer(resolve_model("overthinker")).get_vocab()
    )


def test_every_built_in_family_can_be_pretrained_on():
    for task in (MIXED, *FAMILIES):
        pretrain.PretrainArguments(task=task, architecture={})
        rows = write_rows(task, 4, {"plain": 1.0}, seed=0)
        assert all(row["prompt"].strip() and len(row["completion"]) > 20 for row in rows) and len(rows) == 4


PRETRAINED = [pytest.param(path, id=path.stem) for path in sorted((ROOT / "configs" / "pretrain").glob("*.yaml"))]


@needs_gym
@pytest.mark.parametrize("config", PRETRAINED)
def test_a_shipped_pretraining_config_dry_runs(config, tmp_path, capsys):
    first_line = config.read_text().splitlines()[0]
    assert first_line.startswith(f"# efficient-reasoning train pretrain --config configs/pretrain/{config.name}")
    settings = ["--bf16", "false", "--torch_compile", "false", "--num_shards", "1", "--output_dir", str(tmp_path)]
    if config.stem == "stream_overthinker":  # of traces, which another command writes
        write_jsonl(tmp_path / "traces.jsonl", write_rows(MIXED, 200, pretrain.CHAIN_SHARES, seed=0))
        settings += ["--data", str(tmp_path / "traces.jsonl")]
    run("pretrain", ["--config", str(config), *settings, "--dry_run"])
    table = {line[:8].strip(): line[9:] for line in capsys.readouterr().out.splitlines()}
    millions = {"overthinker": 0.9, "gsm_symbolic_3m": 3.1, "gsm_symbolic_15m": 13.8, "graph_paths": 12.9}
    millions |= {"multiplication_4": 12.9, "multiplication_5": 19.3, "recurrent_overthinker": 0.2}
    millions |= {
        "stream_overthinker": 0.2,
        "gated_deltanet_overthinker": 1.0,
        "mamba2_overthinker": 1.0,
        "local_global_overthinker": 0.9,
        "window_global_overthinker": 0.9,
        "list_functions": 0.3,
        "recurrent_passing_8": 3.3,
    }
    assert float(table["model"].split()[1].replace(",", "")) / 1e6 == pytest.approx(millions[config.stem], abs=0.1)
    assert float(table["clipped"].partition("%")[0]) < 3


def test_sft_compress(argv, tmp_path, tiny_model, data):
    run("sft_compress", argv("sft_compress"))
    metadata = check_output(tmp_path / "run")
    assert (metadata.method, metadata.stage, metadata.base_model) == ("shortest_correct", "sft", "tiny")
    assert metadata.data_fingerprint == fingerprint(load_rows(str(data / "sft.jsonl"), ("prompt",)))
    tokenizer = load_tokenizer(str(tiny_model))
    lengths = [len(tokenizer.encode(row["completion"])) - 1 for row in read_jsonl(data / "sft.jsonl")]  # without EOS
    assert metadata.trained_tokens == pytest.approx(sum(lengths) / len(lengths))
    assert weights(tmp_path / "run") != weights(tiny_model)


@pytest.mark.parametrize(("recipe", "rows"), [("sft_compress", "sft.jsonl"), ("rl_length", "rl.jsonl")])
def test_a_checkpoint_remembers_what_it_was_trained_on(argv, tmp_path, data, recipe, rows):
    """And what the checkpoint before it remembered."""
    run("pretrain", argv("pretrain", output_dir=tmp_path / "base", max_steps=1))
    run(recipe, argv(recipe, model=tmp_path / "base", max_steps=1))
    trained = [{"id": str(n), "question": row["prompt"]} for n, row in enumerate(read_jsonl(data / rows))]
    unseen = {"id": "unseen", "question": "Compute 3 - 24."}
    found = contamination(tmp_path / "run", [*trained, unseen])
    assert (found["checked"], found["trained_on"], found["unknown"]) == (True, len(trained), [])
    assert len(TrainingProblems.load(tmp_path / "run").hashes) == 60 + len(trained)


def test_rl_length(argv, tmp_path, data):
    run("rl_length", argv("rl_length"))
    metadata = check_output(tmp_path / "run")
    assert (metadata.method, metadata.stage, metadata.base_model) == ("grpo kimi", "rl", "tiny")
    assert metadata.data_fingerprint == fingerprint(load_rows(str(data / "rl.jsonl"), ("prompt",)))
    assert metadata.trained_tokens == logged(tmp_path / "run")[-1]["completions/mean_length"]


def test_a_reward_reads_its_columns_and_logs(argv, tmp_path, tiny_model):
    """A model that gets no sum right, against a reference accuracy of one half, loses at least that."""
    parameters = "{count: thinking, accuracy_weight: 3, high: 0}"
    run("rl_length", argv("rl_length", reward="o1_pruner", reward_parameters=parameters))
    for row in logged(tmp_path / "run"):
        assert row["accuracy"] == 0
        assert -2 <= row["rewards/o1_pruner/mean"] <= 0
        assert row["sampling/importance_sampling_ratio/max"] == pytest.approx(1, abs=1e-3)
    assert ReasoningMetadata.load(tmp_path / "run").method == "grpo o1_pruner"


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_same_seed_makes_the_same_checkpoint(argv, tmp_path, recipe):
    for name in ("one", "two"):
        run(recipe, argv(recipe, output_dir=tmp_path / name, max_steps=2))
    assert weights(tmp_path / "one") == weights(tmp_path / "two")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_cut_run_is_resumed_by_the_same_command(argv, tmp_path, recipe, monkeypatch):
    run(recipe, argv(recipe, output_dir=tmp_path / "whole", max_steps=4))
    run_twice(monkeypatch, recipe, argv(recipe, max_steps=4))
    assert [row["step"] for row in logged(tmp_path / "run", 4)] == [1, 2, 3, 4]
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_a_run_goes_on_between_generations(argv, tmp_path, monkeypatch):
    settings = {"steps_per_generation": 2, "max_steps": 4, "reward": "hapo"}
    run("rl_length", argv("rl_length", output_dir=tmp_path / "whole", **settings))
    run_twice(monkeypatch, "rl_length", argv("rl_length", **settings))
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_ppo_trains_a_critic_and_leaves_a_model_without_it(argv, tmp_path, monkeypatch):
    settings = {"algorithm": "ppo", "max_steps": 4, "reward": "lcpo_exact", "value_learning_rate": 0.1}
    settings |= {"data": with_budgets(tmp_path), "reward_parameters": "{alpha: 0.09}"}
    run("rl_length", argv("rl_length", output_dir=tmp_path / "whole", **settings))
    run_twice(monkeypatch, "rl_length", argv("rl_length", **settings))
    assert check_output(tmp_path / "run").method == "ppo lcpo_exact"
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    losses = [row["value_loss"] for row in logged(tmp_path / "run", 4)]
    assert losses[-1] < losses[0] / 2  # all are paid about -0.9: the critic learns that first
    for path in (tmp_path / "run").iterdir():  # cut between last step and save
        if path.is_file() and path.name != "run.json":
            path.unlink()
    run("rl_length", argv("rl_length", **settings))
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_rloo_trains_on_rollouts_of_the_engine(argv, tmp_path, monkeypatch):
    from efficient_reasoning.inference.graph_engine import GraphEngine

    drawn = []
    generate = GraphEngine.generate
    monkeypatch.setattr(
        GraphEngine, "generate", lambda self, requests: drawn.append(requests) or generate(self, requests)
    )
    settings = {"algorithm": "rloo", "reward": "o1_pruner", "max_steps": 4}
    run("rl_length", argv("rl_length", output_dir=tmp_path / "whole", **settings))
    assert [len(requests) for requests in drawn] == [4] * 4
    run_twice(monkeypatch, "rl_length", argv("rl_length", **settings))
    assert check_output(tmp_path / "run").method == "rloo o1_pruner"
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


@pytest.mark.parametrize("algorithm", ["adaptthink", "dler", "mrt"])
def test_further_algorithms_train_and_resume(argv, tmp_path, monkeypatch, algorithm):
    settings = {"algorithm": algorithm, "max_steps": 4, "reward": "accuracy"}
    run("rl_length", argv("rl_length", output_dir=tmp_path / "whole", **settings))
    run_twice(monkeypatch, "rl_length", argv("rl_length", **settings))
    assert check_output(tmp_path / "run").method == f"{algorithm} accuracy"
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    metric = {"adaptthink": "empty_probability", "dler": "dropped_groups", "mrt": "progress"}[algorithm]
    assert all(0 <= row[metric] <= 1 for row in logged(tmp_path / "run", 4))


def with_budgets(tmp_path) -> Path:
    path = tmp_path / "budgets.jsonl"
    rows = [{"prompt": f"Compute {n} + 3.\n", "answer": str(n + 3), "task": "numeric"} for n in range(8)]
    path.write_text("".join(json.dumps(row | {"budget_tokens": 2}) + "\n" for row in rows))
    return path


def test_a_run_that_learns_nothing_is_stopped(argv, tmp_path):
    """All responses of a model that gets nothing right are cut off; as advised, it may go on."""
    for _ in range(2):
        with pytest.raises(BadInput, match=r"Stopped at step [23]: for [23] steps more than half of the responses"):
            run("rl_length", argv("rl_length", guard_steps=2, save_steps=1))
        assert not (tmp_path / "run/config.json").exists()
    run("rl_length", argv("rl_length", guard_steps=0, save_steps=1))
    check_output(tmp_path / "run")


def test_responses_that_are_paid_alike_are_heard_of(argv, tmp_path):
    run("rl_length", argv("rl_length", reward="thinkprune", reward_parameters="{limit_tokens: 5}"))
    assert [row["informative_groups"] for row in logged(tmp_path / "run")] == [0, 0, 0]


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_no_number_leaves_the_last_checkpoint(argv, tmp_path, monkeypatch, what):
    from efficient_reasoning.rl.rollout_correction import CorrectedGRPOTrainer

    compute, step = CorrectedGRPOTrainer._compute_loss, CorrectedGRPOTrainer.training_step

    def explode(self, *inputs):
        return compute(self, *inputs) * (float("nan") if self.state.global_step == 2 else 1)

    def spoil(self, model, *inputs):
        loss = step(self, model, *inputs)
        if self.state.global_step == 2:
            next(model.parameters()).grad.fill_(float("nan"))
        return loss

    name = {"loss": "_compute_loss", "gradient": "training_step"}[what]
    monkeypatch.setattr(CorrectedGRPOTrainer, name, {"loss": explode, "gradient": spoil}[what])
    with pytest.raises(BadInput, match="Stopped in step 3: the gradient is nan"):
        run("rl_length", argv("rl_length", save_steps=1))
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]


def test_a_resumed_run_remembers_what_its_reward_had_learnt(argv, tmp_path, monkeypatch):
    settings = {"reward": "laser_d", "reward_parameters": "{refresh_batches: 3}", "max_steps": 4}
    run("rl_length", argv("rl_length", output_dir=tmp_path / "whole", **settings))
    run_twice(monkeypatch, "rl_length", argv("rl_length", **settings))
    whole, cut = (
        json.loads((tmp_path / name / "checkpoint-4/trainer_state.json").read_text())["stateful_callbacks"]
        for name in ("whole", "run")
    )
    assert cut["reward_memory"] == whole["reward_memory"]
    memory = whole["reward_memory"]["laser_d"]["formula"]
    assert memory["batches"] == 1 and memory["targets"].keys() == {"hard"} and memory["lengths"] == {"hard": [12] * 4}


# ---- what the recipes promise beyond the trainers ----


def test_accumulated_batches_train_like_one(argv, tmp_path):
    """The mean over a step stays one, however its rows are dealt out."""
    run("pretrain", argv("pretrain", output_dir=tmp_path / "one", per_device_train_batch_size=8))
    run("pretrain", argv("pretrain", output_dir=tmp_path / "two", gradient_accumulation_steps=2))
    one, two = logged(tmp_path / "one"), logged(tmp_path / "two")
    assert [row["loss"] for row in one] == pytest.approx([row["loss"] for row in two], rel=1e-3)
    assert [row["grad_norm"] for row in one] == pytest.approx([row["grad_norm"] for row in two], rel=1e-3)


def test_only_answers_to_an_empty_block_weigh_more():
    from efficient_reasoning.scratch import collate, completion_loss

    rows = [
        {"input_ids": [1, 2, 6, 3, 7, 4, 5], "labels": [-100, -100, 6, 3, 7, 4, 5]},
        {"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 7, 8]},
    ]
    batch = collate(rows)
    assert batch["input_ids"].shape == batch["labels"].shape == (2, 64)
    assert batch["input_ids"][:, :8].tolist() == [[1, 2, 6, 3, 7, 4, 5, 0], [5, 6, 7, 8, 0, 0, 0, 0]]
    assert batch["labels"][:, :8].tolist() == [[-100, -100, 6, 3, 7, 4, 5, -100], [-100, 6, 7, 8, *[-100] * 4]]
    assert not batch["input_ids"][:, 8:].any() and (batch["labels"][:, 8:] == -100).all()
    logits = torch.randn(2, 64, 9)
    losses = -logits.log_softmax(-1)
    verbose = losses[0, 1, 6] + losses[0, 2, 3] + losses[0, 3, 7] + losses[0, 4, 4] + losses[0, 5, 5]
    block, answer = losses[1, 0, 6] + losses[1, 1, 7], losses[1, 2, 8]
    loss = completion_loss(logits, batch["labels"], empty_block=(6, 7), empty_weight=30.0)
    assert loss.item() == pytest.approx((verbose + block + 30 * answer).item())


def test_shards_write_other_rows_whoever_writes_them(argv, monkeypatch):

    def prepared(num_shards: int, processors: int) -> tuple[list, list]:
        monkeypatch.setattr(os, "cpu_count", lambda: processors)
        limits = {"vocab_size": 384, "max_row_tokens": 256}
        shares = pretrain.CHAIN_SHARES
        chains = write_chains("mixed", 100, shares, num_shards=num_shards, tokenizer="bpe", seed=1, **limits)
        return chains.rows, chains.dataset["input_ids"][:]

    rows, ids = prepared(3, processors=1)
    assert len(rows) == len(ids) == 100
    assert (rows, ids) == prepared(3, processors=3)
    assert len({row["prompt"] for row in rows}) > 90
    assert rows != prepared(1, processors=1)[0]


def test_pretraining_rows_come_in_the_given_shares():
    rows = write_rows("mixed", 400, {"verbose": 0.5, "empty": 0.5}, seed=0)
    empty = [row for row in rows if "<think></think>" in row["completion"]]
    assert 150 < len(empty) < 250
    assert all(row["completion"].endswith("<|end|>") for row in rows)
    assert rows == write_rows("mixed", 400, {"verbose": 0.5, "empty": 0.5}, seed=0)
    tokenizer = load_tokenizer(str(ROOT / "efficient_reasoning/assets/overthinker"))
    kept = encode(rows, tokenizer, 100)
    assert len(empty) <= len(kept) < len(rows)
    for row in kept:
        text = tokenizer.decode([token for token in row["labels"] if token != -100])
        assert text.startswith("<think>")
        assert tokenizer.decode(row["input_ids"]).endswith(text)
        assert row["labels"][-1] == tokenizer.eos_token_id


TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% if not enable_thinking %}<think></think>{% endif %}{% endif %}"
)


def test_a_template_that_strips_thinking_and_that_nobody_can_mend_is_refused(argv, tmp_path, tiny_model, data):
    model = shutil.copytree(tiny_model, tmp_path / "chat")
    tokenizer = load_tokenizer(str(model))
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message.content.split('</think>')[-1] }}\n{% endfor %}"
        "{% if add_generation_prompt %}{% endif %}"
    )
    tokenizer.save_pretrained(model)
    with pytest.raises(BadInput, match="chat: its chat template strips the thinking of finished turns"):
        run("sft_compress", argv("sft_compress", model=model))
    assert not (tmp_path / "run" / "reasoning.json").exists()


def test_chat_rows_are_trained_as_they_are_asked(argv, tmp_path, tiny_model, data, monkeypatch):
    """A template that thinks only when told to is told to, in training as in inference."""
    from trl import SFTTrainer

    from efficient_reasoning.prompts import encode_prompt

    model = shutil.copytree(tiny_model, tmp_path / "chat")
    tokenizer = load_tokenizer(str(model))
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(model)
    rows = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["completion"]}],
        }
        for row in read_jsonl(data / "sft.jsonl")
    ]
    write_jsonl(tmp_path / "chat.jsonl", rows)
    datasets = []
    train = SFTTrainer.train
    monkeypatch.setattr(
        SFTTrainer, "train", lambda self, *a, **k: (datasets.append(self.train_dataset), train(self, *a, **k))[1]
    )
    run("sft_compress", argv("sft_compress", model=model, data=tmp_path / "chat.jsonl"))
    [dataset] = datasets
    for row, encoded in zip(rows, dataset, strict=True):
        prompt_ids = encode_prompt(tokenizer, row["prompt"])
        assert encoded["input_ids"][: len(prompt_ids)] == prompt_ids
        assert encoded["labels"][: len(prompt_ids)] == [-100] * len(prompt_ids)
        assert tokenizer.decode(encoded["labels"][len(prompt_ids) :]).startswith("<think>")
    assert load_tokenizer(str(tmp_path / "run")).chat_template == TEMPLATE
    assert ReasoningMetadata.load(tmp_path / "run").method == "sft"


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_dry_run_prints_what_the_run_then_does(argv, tmp_path, capsys, recipe):
    changes = {"max_steps": None, "num_train_epochs": 2, "per_device_train_batch_size": 8, "save_strategy": "epoch"}
    if recipe == "rl_length":
        changes["guard_steps"] = 0  # this model learns nothing
    run(recipe, [*argv(recipe, **changes), "--dry_run"])
    table = {line[:8].strip(): line[9:] for line in capsys.readouterr().out.splitlines()}
    assert {"model", "rows", "steps", "memory", "clipped"} <= table.keys()
    assert not (tmp_path / "run").exists()
    run(recipe, argv(recipe, **changes))
    steps = max(int(path.name.split("-")[1]) for path in (tmp_path / "run").glob("checkpoint-*"))
    assert table["steps"].startswith(f"{steps} of 8 samples")


# ---- bad input ----


def spoiled(recipe: str, **changes):
    return pytest.param(recipe, changes, id=f"{recipe}-{'-'.join(changes)}")


CASES = [
    *[(recipe, {"learning_rat": 1}, "unknown key 'learning_rat', did you mean learning_rate") for recipe in RECIPES],
    *[(recipe, {"max_steps": "many"}, "max_steps must be int, found 'many'") for recipe in RECIPES],
    *[(recipe, {"learning_rate": ".nan"}, "learning_rate must be float, .*finite") for recipe in RECIPES],
    *[(recipe, {"model": None}, "model is missing; set it in the config or with --model") for recipe in FINETUNING],
    *[(recipe, {"model": "/no/such/model"}, "/no/such/model: no such checkpoint folder") for recipe in FINETUNING],
    *[(recipe, {"data": "no.jsonl"}, r"no\.jsonl: no such file of training rows") for recipe in FINETUNING],
    ("pretrain", {"architecture": None}, "architecture is missing"),
    ("pretrain", {"architecture": "{hidden_size: 16}"}, "no model_type None; name one, such as qwen3"),
    ("pretrain", {"architecture": "{model_type: qwen33}"}, "no model_type 'qwen33'"),
    ("pretrain", {"architecture": "{model_type: qwen3, hiden_size: 9}"}, "'hiden_size' cannot .* mean hidden_size"),
    ("pretrain", {"architecture": "{model_type: qwen3, hidden_size: big}"}, "'hidden_size' expected int, got str"),
    ("pretrain", {"architecture": "{model_type: qwen3, vocab_size: 9}"}, "'vocab_size' cannot be set"),
    ("pretrain", {"task": "summs"}, "task is 'summs', no built-in family, did you mean sums"),
    ("pretrain", {"chain_shares": "{verbos: 1.0}"}, "no style 'verbos', did you mean verbose"),
    ("pretrain", {"chain_shares": "{verbose: 0}"}, "chain_shares must be 0 or more each, and not all 0"),
    ("pretrain", {"num_rows": 0}, "num_shards must be at least 1, num_rows as many"),
    ("pretrain", {"max_row_tokens": 5}, "max_row_tokens is 5, and every row is longer"),
    ("rl_length", {"reward": "kimmi"}, "Unknown length reward 'kimmi', did you mean kimi"),
    ("rl_length", {"reward_parameters": "{wieght: 1}"}, "no parameter 'wieght', did you mean weight"),
    ("rl_length", {"reward_parameters": "{weight: high}"}, "weight must be a number, found 'high'"),
    ("rl_length", {"algorithm": "rlo"}, "algorithm must be .*grpo.*ppo.*found 'rlo'"),
    ("rl_length", {"algorithm": "ppo", "gae_lambda": 1.5}, "gae_lambda is 1.5; give a number between 0 and 1"),
    ("rl_length", {"algorithm": "ppo", "value_clip": 0}, "value_clip is 0; give a number above 0"),
    ("rl_length", {"algorithm": "ppo", "use_vllm": True}, "leave out use_vllm with ppo"),
    ("rl_length", {"algorithm": "ppo", "sync_ref_model": True}, "leave out sync_ref_model with ppo"),
    ("rl_length", {"algorithm": "adaptthink"}, "reward is kimi, and AdaptThink pays accuracy alone"),
    ("rl_length", {"algorithm": "dler", "reward": "hapo"}, "hapo or its shaping remembers batches"),
    ("rl_length", {"gae_lambda": 0.9}, "unknown key 'gae_lambda'"),
    ("rl_length", {"reward_shaping": "{gate: all}"}, "gate is 'all'; choose none, batch, groups"),
    ("rl_length", {"scale_rewards": "group"}, "scale_rewards is group, which divides the weight of reward kimi"),
    ("rl_length", {"temperature": 0}, "temperature is 0.*; responses that are all alike teach nothing"),
    ("rl_length", {"algorithm": "ppo", "ddp_find_unused_parameters": True}, "set ddp_find_unused_parameters to false"),
    ("rl_length", {"reward": "lcpo_exact", "dry_run": True}, "line 1: no 'budget_tokens'; every row needs"),
    ("rl_length", {"per_device_train_batch_size": 4000}, r"rows, and a batch takes 1000; give more"),
    ("rl_length", {"num_generations": 3}, r"must be divisible by num_generations \(3\)"),
]


@pytest.mark.parametrize(("recipe", "changes", "sentence"), CASES)
def test_bad_values_get_one_sentence(argv, recipe, changes, sentence):
    with pytest.raises(BadInput, match=sentence) as caught:
        run(recipe, argv(recipe, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("seed: null", r"config\.yaml, line 2: seed must be int, found null; leave it out to keep the default"),
        ("warmup_steps: .nan", r"config\.yaml, line 2: warmup_steps must be .*; numbers must be finite"),
        ("loging_steps: 3", r"config\.yaml, line 2: unknown key 'loging_steps', did you mean logging_steps"),
    ],
)
def test_bad_lines_of_a_config_are_named(argv, tmp_path, recipe, line, sentence):
    (tmp_path / "config.yaml").write_text(f"# a config\n{line}\n")
    with pytest.raises(BadInput, match=sentence):
        run(recipe, ["--config", str(tmp_path / "config.yaml"), *argv(recipe, seed=None)])


@pytest.mark.parametrize("recipe", FINETUNING)
def test_a_malformed_row_is_named_by_its_line(argv, tmp_path, data, recipe):
    lines = (data / {"sft_compress": "sft.jsonl", "rl_length": "rl.jsonl"}[recipe]).read_text().splitlines()
    (tmp_path / "rows.jsonl").write_text("\n".join([*lines[:4], lines[4][:-1], *lines[5:]]))
    with pytest.raises(BadInput, match=r"rows\.jsonl, line 5: not valid JSON"):
        run(recipe, argv(recipe, data=tmp_path / "rows.jsonl"))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    run(recipe, argv(recipe, data=tmp_path / "rows.jsonl", max_steps=1))  # the mended file is not held against it


@pytest.mark.parametrize("recipe", FINETUNING)
def test_a_checkpoint_that_is_not_whole_is_refused(argv, tmp_path, tiny_model, recipe):
    model = Path(shutil.copytree(tiny_model, tmp_path / "broken"))
    content = weights(model)
    (model / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(BadInput, match=r"model\.safetensors: truncated"):
        run(recipe, argv(recipe, model=model))
    (model / "model.safetensors").write_bytes(content)
    (model / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match="broken: the checkpoint has no tokenizer"):
        run(recipe, argv(recipe, model=model))


def test_a_missing_column_is_named(argv, data):
    with pytest.raises(BadInput, match=r"rl\.jsonl, line 1: no 'completion'"):
        run("sft_compress", argv("sft_compress", data=data / "rl.jsonl"))
    with pytest.raises(BadInput, match=r"sft\.jsonl, line 1: no 'answer'"):
        run("rl_length", argv("rl_length", data=data / "sft.jsonl"))


def test_bad_input_ends_a_recipe_with_code_2(argv, tmp_path):
    command = [sys.executable, str(ROOT / "recipes" / "sft_compress.py"), *argv("sft_compress", data="no.jsonl")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: no.jsonl: no such file of training rows")
    assert "Traceback" not in done.stderr


# ---- two processes ----


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["zero1", "zero2", "zero3"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_two_processes_under_zero(argv, tmp_path, recipe, sharding):
    done = launch(recipe, argv(recipe, deepspeed=sharding), tmp_path)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    check_output(tmp_path / "run")
    assert len(list((tmp_path / "run" / "checkpoint-3").glob("rng_state_*.pth"))) == 2
    # Each process samples responses of its own, and fresh weights are drawn otherwise where they are sharded at once.
    if recipe != "rl_length" and (recipe, sharding) != ("pretrain", "zero3"):
        run(recipe, argv(recipe, output_dir=tmp_path / "one", per_device_train_batch_size=8))
        losses = [[row["loss"] for row in logged(tmp_path / name)] for name in ("run", "one")]
        assert losses[0] == pytest.approx(losses[1], rel=2e-3)


@pytest.mark.slow
def test_ppo_with_a_reward_that_remembers_on_two_processes(argv, tmp_path):
    settings = {"deepspeed": "zero2", "algorithm": "ppo", "reward": "hapo"}
    done = launch("rl_length", argv("rl_length", **settings), tmp_path)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    check_output(tmp_path / "run")
    assert all(row["value_loss"] > 0 and row["grad_norm"] > 0 for row in logged(tmp_path / "run"))


@pytest.mark.slow
def test_ppo_on_two_processes_without_deepspeed(argv, tmp_path):
    done = launch("rl_length", argv("rl_length", algorithm="ppo", gradient_checkpointing=False), tmp_path)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    check_output(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["adaptthink", "dler", "mrt", "rloo"])
def test_further_algorithms_on_two_processes(argv, tmp_path, algorithm):
    settings = {"deepspeed": "zero2", "algorithm": algorithm, "reward": "accuracy"}
    done = launch("rl_length", argv("rl_length", **settings), tmp_path)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    check_output(tmp_path / "run")
    assert len(logged(tmp_path / "run")) == 3


@pytest.mark.slow
def test_a_group_is_not_split_over_processes(argv, tmp_path):
    done = launch("rl_length", argv("rl_length", deepspeed="zero2", per_device_train_batch_size=2), tmp_path)
    assert done.returncode != 0
    assert "error: num_generations is 4, and one process does not hold whole groups" in done.stdout + done.stderr


def test_an_evaluation_is_a_config(tmp_path):
    settings = ["--num_problems", "6", "--budgets", "16", "none", "--strategies", "no-thinking"]
    run("evaluate", ["--config", "headline_overthinker", *settings, "--out", str(tmp_path / "run")])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    points = [(point["strategy"], point["budget_tokens"], point["n"]) for point in summary["points"]]
    assert points == [("no-thinking", 16, 6), ("no-thinking", None, 6)]
    assert (summary["config"]["temperature"], summary["config"]["seed"]) == (0.6, 1)
    assert summary["trained_tokens"] is None  # the embedded model was saved before that was kept
