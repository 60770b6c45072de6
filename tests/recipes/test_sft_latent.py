from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from data_tools import chain_steps
from efficient_reasoning import load_reasoner, solve
from efficient_reasoning.checkpoint import ReasoningMetadata, load_tokenizer
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import write_jsonl
from efficient_reasoning.inference.solve import solve_many
from efficient_reasoning.latent.decoding import BOT, EOT, LATENT
from tests.recipes.running import launch, run

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
    return ["--config", "coconut_overthinker", *words]


@pytest.mark.parametrize("method", ["coconut", "pause", "icot", "cot", "no_cot"])
def test_every_method_trains_and_is_solved_with(tmp_path, tiny_model, data, method):
    run("sft_latent", argv(tmp_path, tiny_model, data, method, latents_per_step=2))
    metadata = ReasoningMetadata.load(tmp_path / "run")
    assert (metadata.method, metadata.stage, metadata.base_model) == (method, "sft", "tiny")
    assert metadata.latent_steps == (4 if method == "coconut" else 0)
    assert metadata.pause_steps == (4 if method == "pause" else 0)
    state = json.loads((tmp_path / "run/checkpoint-5/trainer_state.json").read_text())
    stages = [row["stage"] for row in state["log_history"] if "stage" in row]
    assert stages[-1] == {"coconut": 3, "pause": 3, "icot": 2}.get(method, 0)
    reasoner = load_reasoner(str(tmp_path / "run"))
    assert reasoner.latent_steps == metadata.latent_steps
    solutions = solve_many(reasoner, QUESTIONS, seeds=[0, 1], max_new_tokens=8, temperature=0.0)
    for solution in solutions:
        tail = reasoner.tokenizer.convert_ids_to_tokens(solution.prompt_ids)[-6:]
        assert (tail == [BOT, *[LATENT] * 4, EOT]) == (method in ("coconut", "pause"))
        assert solution.spend.decoded_tokens == metadata.latent_steps + len(solution.completion_ids)


def test_new_tokens_begin_as_the_delimiters_do_and_are_trained(tmp_path, tiny_model, data):
    run("sft_latent", argv(tmp_path, tiny_model, data, "pause", max_steps=4, learning_rate=0.0))
    tokenizer = load_tokenizer(str(tmp_path / "run"))
    weight = AutoModelForCausalLM.from_pretrained(tmp_path / "run").get_input_embeddings().weight
    bot, latent, eot, begin, end = (
        tokenizer.convert_tokens_to_ids(t) for t in (BOT, LATENT, EOT, "<think>", "</think>")
    )
    assert torch.equal(weight[bot], weight[begin]) and torch.equal(weight[latent], weight[begin])
    assert torch.equal(weight[eot], weight[end])


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
        ({"gradient_checkpointing": True}, "set gradient_checkpointing to false"),
    ],
)
def test_bad_values_get_one_sentence(tmp_path, tiny_model, data, changes, sentence):
    with pytest.raises(BadInput, match=sentence) as caught:
        run("sft_latent", argv(tmp_path, tiny_model, data, **{"method": "coconut"} | changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
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
def test_two_processes_run_as_many_passes(tmp_path, tiny_model, data):
    words = argv(tmp_path, tiny_model, data, "coconut", deepspeed="zero2", uniform_prob=0.5)
    done = launch("sft_latent", words, tmp_path)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert ReasoningMetadata.load(tmp_path / "run").latent_steps == 2
