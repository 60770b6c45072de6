from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Gemma2Config

from data_tools import chain_steps
from efficient_reasoning import load_reasoner, solve
from efficient_reasoning.checkpoint import LATENT_NAME, ReasoningMetadata, load_tokenizer
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import write_jsonl
from efficient_reasoning.hub.example import run_program
from efficient_reasoning.inference.solve import solve_many
from efficient_reasoning.latent.decoding import BOT, EOT, LATENT
from efficient_reasoning.latent.projection import load_projection
from tests.recipes.running import launch, run, run_twice, weights

METHODS = ("coconut", "sim_cot", "codi", "pause", "icot", "cot", "no_cot")
WITH_LATENTS = ("coconut", "sim_cot", "codi")
QUESTIONS = ["Compute 34 + 27.", "Compute 5 + 3 - 2."]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("latent") / "rows.jsonl"
    chain_steps.main(["--task", "sums", "--model", "overthinker", "--num_problems", "48", "--out", str(path)])
    return path


def argv(tmp_path, tiny_model, data, method: str, **changes) -> list[str]:
    settings = {
        "model": tiny_model,
        "data": data,
        "output_dir": tmp_path / "run",
        "method": method,
        "steps_per_stage": 1,
        "max_stage": 2,
        "max_steps": 5,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_steps": 2,
        "use_cpu": True,
    }
    words = [str(word) for key, value in (settings | changes).items() for word in (f"--{key}", value)]
    known = method in METHODS
    return ["--config", f"{method}_overthinker" if known else "coconut_overthinker", *words]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_is_solved_with(tmp_path, tiny_model, data, method):
    run("sft_latent", argv(tmp_path, tiny_model, data, method, latents_per_step=2))
    metadata = ReasoningMetadata.load(tmp_path / "run")
    assert (metadata.method, metadata.stage, metadata.base_model) == (method, "sft", "tiny")
    assert metadata.latent_steps == (4 if method in WITH_LATENTS else 0)
    assert metadata.latent_projection == (LATENT_NAME if method == "codi" else None) and metadata.latent_norm is None
    assert metadata.pause_steps == (4 if method == "pause" else 0)
    state = json.loads((tmp_path / "run/checkpoint-5/trainer_state.json").read_text())
    stages = [row["stage"] for row in state["log_history"] if "stage" in row]
    assert stages[-1] == {"coconut": 3, "sim_cot": 3, "pause": 3, "icot": 2}.get(method, 0)
    _, report = AutoModelForCausalLM.from_pretrained(tmp_path / "run", output_loading_info=True)
    assert not any(report.values())
    reasoner = load_reasoner(str(tmp_path / "run"))
    assert reasoner.latent_steps == metadata.latent_steps + metadata.pause_steps
    solutions = solve_many(reasoner, QUESTIONS, seeds=[0, 1], max_new_tokens=8, temperature=0.0)
    for solution in solutions:
        tail = reasoner.tokenizer.convert_ids_to_tokens(solution.prompt_ids)[-6:]
        assert (tail == [BOT, *[LATENT] * 4, EOT]) == (method in (*WITH_LATENTS, "pause"))
        assert solution.latent_tokens == metadata.latent_steps + metadata.pause_steps
        assert solution.spend.decoded_tokens == solution.latent_tokens + len(solution.completion_ids)


def test_a_decoder_of_steps_and_a_projection_are_trained_and_only_the_projection_stays(tmp_path, tiny_model, data):
    output, changes = tmp_path / "run", {"projection": True, "step_coef": 1.0, "distillation_coef": 3.0}
    run("sft_latent", argv(tmp_path, tiny_model, data, "codi", **changes, normalize_latents=True))
    history = json.loads((output / "checkpoint-5/trainer_state.json").read_text())["log_history"]
    assert {"teacher_loss", "distillation_loss", "step_loss"} <= history[0].keys()
    resumable = load_file(output / "checkpoint-5/model.safetensors")
    final = load_file(output / "model.safetensors")
    projection = load_file(output / LATENT_NAME)
    beside = {name: tensor for name, tensor in resumable.items() if name not in final}
    assert {name.split(".")[0] for name in beside} == {"step_decoder", "latent_projection"}
    for name, tensor in projection.items():
        assert torch.equal(tensor, beside[f"latent_projection.{name}"])
    assert all(torch.equal(tensor, resumable[name]) for name, tensor in final.items())
    metadata = ReasoningMetadata.load(output)
    norms = AutoModelForCausalLM.from_pretrained(tiny_model).get_input_embeddings().weight.norm(dim=-1)
    assert metadata.latent_norm == pytest.approx(float(norms.mean()), rel=0.05)  # markers are new
    loaded = load_projection(output, metadata, 16)
    assert loaded.norm == metadata.latent_norm and solve(load_reasoner(str(output)), QUESTIONS[0], max_new_tokens=4)


def test_a_further_stage_goes_on_with_the_projection(tmp_path, tiny_model, data):
    run("sft_latent", argv(tmp_path, tiny_model, data, "codi", output_dir=tmp_path / "first"))
    run("sft_latent", argv(tmp_path, tmp_path / "first", data, "codi", learning_rate=0.0))
    assert (tmp_path / "first" / LATENT_NAME).read_bytes() == (tmp_path / "run" / LATENT_NAME).read_bytes()


@pytest.mark.parametrize("method", ["codi", "sim_cot"])
def test_a_run_that_was_cut_leaves_what_one_that_was_not_does(tmp_path, tiny_model, data, method, monkeypatch):
    changes = {"projection": True, "step_coef": 1.0, "save_steps": 2, "save_total_limit": 3}
    run("sft_latent", argv(tmp_path, tiny_model, data, method, **changes, output_dir=tmp_path / "whole"))
    run_twice(monkeypatch, "sft_latent", argv(tmp_path, tiny_model, data, method, **changes))
    for name in ("model.safetensors", LATENT_NAME):
        one, other = (load_file(tmp_path / folder / name) for folder in ("whole", "run"))
        assert one.keys() == other.keys()
        for key in one:
            torch.testing.assert_close(one[key], other[key], atol=1e-6, rtol=1e-5)


def test_a_run_that_was_cut_while_it_saved_leaves_no_decoder(tmp_path, tiny_model, data):
    words = argv(tmp_path, tiny_model, data, "sim_cot", projection=True)
    run("sft_latent", words)
    before = weights(tmp_path / "run"), (tmp_path / "run" / LATENT_NAME).read_bytes()
    for name in ("reasoning.json", "model.safetensors", LATENT_NAME):
        (tmp_path / "run" / name).unlink()
    run("sft_latent", words)
    assert before == (weights(tmp_path / "run"), (tmp_path / "run" / LATENT_NAME).read_bytes())


def test_new_tokens_begin_as_the_delimiters_do_and_are_trained(tmp_path, tiny_model, data):
    run("sft_latent", argv(tmp_path, tiny_model, data, "pause", max_steps=4, learning_rate=0.0))
    tokenizer = load_tokenizer(str(tmp_path / "run"))
    weight = AutoModelForCausalLM.from_pretrained(tmp_path / "run").get_input_embeddings().weight
    bot, latent, eot, begin, end = (
        tokenizer.convert_tokens_to_ids(t) for t in (BOT, LATENT, EOT, "<think>", "</think>")
    )
    assert torch.equal(weight[bot], weight[begin]) and torch.equal(weight[latent], weight[begin])
    assert torch.equal(weight[eot], weight[end])


def test_the_program_in_its_card_gives_pauses_to_plain_transformers(tmp_path, tiny_model, data):
    run("sft_latent", argv(tmp_path, tiny_model, data, "pause"))
    card = (tmp_path / "run" / "README.md").read_text()
    assert "it reads 2 pauses, between `<|start-latent|>` and `<|end-latent|>` behind every prompt" in card
    program = re.search(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)[1]
    greedy = re.sub(r"do_sample=True.*\)", "do_sample=False, max_new_tokens=9)", program)
    found = run_program(greedy, "path/to/this/folder", tmp_path / "run")
    for backend in ("graph", "transformers"):
        reasoner = load_reasoner(str(tmp_path / "run"), backend)
        solution = solve(reasoner, "Compute 34 + 27 - 15 + 88.", max_new_tokens=9, temperature=0.0)
        assert found == {"prompt": solution.prompt_ids, "response": solution.completion_ids}
        assert (solution.latent_tokens, solution.spend.decoded_tokens) == (2, 2 + len(solution.completion_ids))


def test_the_card_of_a_latent_checkpoint_says_what_runs_it(tmp_path, tiny_model, data):
    run("sft_latent", argv(tmp_path, tiny_model, data, "codi"))
    card = (tmp_path / "run" / "README.md").read_text()
    assert "it thinks in 2 latents, between `<|start-latent|>` and `<|end-latent|>` behind every prompt" in card
    assert "through the network in `latent.safetensors`" in card and "total_flos" not in card
    assert card.index("efficient-reasoning solve") < card.index(
        "With plain `transformers`, which loads the same weights"
    )
    assert card.count("efficient-reasoning solve --model") == 2 and "pauses" not in card


def test_a_token_of_a_name_that_others_give_a_turn_s_end_keeps_its_meaning(tmp_path, tiny_model, data):
    shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer, model = load_tokenizer(str(tiny_model)), AutoModelForCausalLM.from_pretrained(tiny_model)
    tokenizer.add_special_tokens({"eos_token": "<|eot|>"})
    model.resize_token_embeddings(len(tokenizer))
    for part in (tokenizer, model):
        part.save_pretrained(tmp_path / "model")
    run("sft_latent", argv(tmp_path, tmp_path / "model", data, "coconut"))
    reasoner = load_reasoner(str(tmp_path / "run"))
    assert reasoner.tokenizer.convert_tokens_to_ids("<|eot|>") not in reasoner.latent_ids
    assert reasoner.tokenizer.convert_ids_to_tokens(reasoner.latent_ids) == [BOT, LATENT, LATENT, EOT]


def test_a_further_stage_finds_the_tokens_in_place(tmp_path, tiny_model, data):
    run("sft_latent", argv(tmp_path, tiny_model, data, "coconut", output_dir=tmp_path / "first"))
    run("sft_latent", argv(tmp_path, tmp_path / "first", data, "coconut"))
    sizes = [len(load_tokenizer(str(folder))) for folder in (tiny_model, tmp_path / "first", tmp_path / "run")]
    assert sizes[1] == sizes[2] == sizes[0] + 3
    assert solve(load_reasoner(str(tmp_path / "run")), QUESTIONS[0], max_new_tokens=4).prompt_ids


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": "coconuts"}, "method must be .*coconut.*found 'coconuts'"),
        (
            {"max_steps": 3},
            "max_steps is 3, and the last stage begins behind step 3; give more steps, or fewer a stage",
        ),
        ({"latents_per_step": 0}, "latents_per_step is 0; give at least 1"),
        ({"latents_per_step": 400}, "tokens and latents, and the model has 512 positions"),
        ({"latents_per_step": 400, "dry_run": True}, "tokens and latents, and the model has 512 positions"),
        ({"gradient_checkpointing": True}, "set gradient_checkpointing to false"),
        ({"torch_compile": True}, "in passes that torch_compile does not reach; set it to false"),
        ({"eval_strategy": "steps"}, "eval_strategy and eval_on_start need an evaluation set, which no recipe has"),
        ({"eval_on_start": True}, "need an evaluation set, which no recipe has; leave them out, and run"),
        ({"method": "codi", "max_stage": 0}, "max_stage is 0; give at least 1"),
        ({"method": "codi", "latents_per_step": 0}, "latents_per_step is 0; give at least 1"),
        ({"method": "codi", "distillation_coef": -0.5}, "distillation_coef is -0.5; give 0 or more"),
        ({"method": "pause", "projection": True}, "pause has no latents; leave out projection and normalize_latents"),
        ({"method": "icot", "normalize_latents": True}, "icot has no latents; leave out projection"),
        ({"step_coef": 0.5}, "step_coef is of codi and sim_cot, not of coconut; leave it out"),
    ],
)
def test_bad_values_get_one_sentence(tmp_path, tiny_model, data, changes, sentence):
    with pytest.raises(BadInput, match=sentence) as caught:
        run("sft_latent", argv(tmp_path, tiny_model, data, **{"method": "coconut"} | changes))
    assert "\n" not in str(caught.value)


def test_a_model_whose_latents_nobody_could_decode_is_refused_before_training(tmp_path, tiny_model, data):
    config = Gemma2Config(
        vocab_size=400, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, head_dim=8,
        num_key_value_heads=1,
    )  # fmt: skip
    shutil.copytree(tiny_model, tmp_path / "model")
    config.save_pretrained(tmp_path / "model")
    with pytest.raises(BadInput, match="no backend decodes latents of a gemma2; take another model"):
        run("sft_latent", argv(tmp_path, tmp_path / "model", data, "coconut", dry_run=True))
    run("sft_latent", argv(tmp_path, tmp_path / "model", data, "icot", dry_run=True))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"prompt": [{"role": "user", "content": "Compute 1 + 2."}]},
            "rows.jsonl: its rows are messages, and .* has no chat template; write them as text",
        ),
        ({"steps": []}, "line 1: no 'steps'; every row needs prompt, steps, answer"),
        ({"answer": " "}, "line 1: no 'answer'; every row needs prompt, steps, answer"),
        ({"steps": [1]}, "row 1: its steps are no texts; write it with `data chain_steps`"),
        ({"answer": 3}, "row 1: its answer is no text; write it with `data chain_steps`"),
    ],
)
def test_rows_without_steps_are_named(tmp_path, tiny_model, changes, sentence):
    row = {"prompt": "Compute 1 + 2.\n", "steps": ["1+2=3"], "answer": "3", "task": "numeric"} | changes
    write_jsonl(tmp_path / "rows.jsonl", [row])
    with pytest.raises(BadInput, match=sentence):
        run("sft_latent", argv(tmp_path, tiny_model, tmp_path / "rows.jsonl", "coconut"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["coconut", "sim_cot", "codi"])
def test_two_processes_run_as_many_passes(tmp_path, tiny_model, data, method):
    changes = {"uniform_prob": 0.5, "projection": True, "step_coef": float(method != "coconut")}
    done = launch("sft_latent", argv(tmp_path, tiny_model, data, method, deepspeed="zero2", **changes), tmp_path)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert ReasoningMetadata.load(tmp_path / "run").latent_steps == 2
    projection = load_file(tmp_path / "run" / LATENT_NAME)
    assert all(tensor.isfinite().all() for tensor in projection.values())
    assert (projection["network.3.weight"] != 1).any()  # it began as ones, and was trained


@pytest.mark.slow
def test_two_processes_go_on_where_they_were_cut(tmp_path, tiny_model, data):
    changes = {"projection": True, "save_total_limit": 3, "deepspeed": "zero2"}
    words = argv(tmp_path, tiny_model, data, "sim_cot", **changes)
    assert launch("sft_latent", words, tmp_path).returncode == 0
    whole = [load_file(tmp_path / "run" / name) for name in ("model.safetensors", LATENT_NAME)]
    early, late = (load_file(tmp_path / f"run/checkpoint-{step}/model.safetensors") for step in (2, 4))
    moved = {name for name in early if not torch.equal(early[name], late[name])}
    assert {name.split(".")[0] for name in moved} >= {"model", "step_decoder", "latent_projection"}
    assert not {name.split(".")[0] for name in whole[0]} & {"step_decoder", "latent_projection"}
    for name in ("reasoning.json", "model.safetensors", LATENT_NAME):
        (tmp_path / "run" / name).unlink()
    for step in (4, 5):
        shutil.rmtree(tmp_path / f"run/checkpoint-{step}")
    assert launch("sft_latent", words, tmp_path).returncode == 0
    for name, tensors in zip(("model.safetensors", LATENT_NAME), whole, strict=True):
        again = load_file(tmp_path / "run" / name)
        for key, tensor in tensors.items():
            torch.testing.assert_close(again[key], tensor, atol=1e-6, rtol=1e-5)
