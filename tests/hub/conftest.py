"""A checkpoint of a few thousand random weights, a run that measured it, and a Hub that listens on this machine."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
import yaml

from efficient_reasoning.checkpoint import ReasoningMetadata, weights_fingerprint
from efficient_reasoning.evaluation.summary import summarise, write_summary
from efficient_reasoning.files import write_json, write_jsonl
from efficient_reasoning.hub import write_training_card
from efficient_reasoning.traces import FORMAT
from tests.hub.hub_server import TOKEN, HubServer


@pytest.fixture
def plain_transformers():
    """Asked for by the tests that wait for the process which repeats the example."""


@pytest.fixture(autouse=True)
def _without_process(request, monkeypatch):
    if "plain_transformers" not in request.fixturenames:
        module = importlib.import_module("efficient_reasoning.hub.publish")
        monkeypatch.setattr(module, "check_example", lambda *_: None)


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("saved") / "concise-tiny"
    words = ["<pad>", "<eos>", "<think>", "</think>", "Compute", ".", "+", *map(str, range(25))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=False,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def metadata() -> ReasoningMetadata:
    return ReasoningMetadata(
        "shortest_correct", "sft", base_model="Qwen/Qwen3-0.6B", data_fingerprint="0123abcd", seed=0
    )


@pytest.fixture
def model(saved_model, metadata, tmp_path) -> Path:
    """A training run's output, with all that must stay at home."""
    folder = tmp_path / "concise-tiny"
    folder.mkdir()
    for path in saved_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    metadata.save(folder)
    (folder / "recipe.yaml").write_text("# efficient-reasoning train sft_compress\nlearning_rate: 0.0003\n")
    write_training_card(folder, metadata=metadata, metrics={"train_loss": 0.12345678})
    (folder / "checkpoint-10").mkdir()
    left = ("optimizer.pt", "training_args.bin", "trainer_state.json", "run.json", "plot.py", "checkpoint-10/rng.pth")
    for name in left:
        (folder / name).write_text(f"{folder} {TOKEN}")
    return folder


@pytest.fixture
def run(saved_model, tmp_path) -> Path:
    """An evaluation of that model at two points: 45 of 50 correct at both, with 23 to 27 tokens and with 13 to 17."""
    folder = tmp_path / "run"
    config = {
        "model": "concise-tiny",
        "strategies": ["budget-forcing"],
        "budgets": [None, 32],
        "samples_per_problem": 1,
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "max_new_tokens": 24,
        "weights": weights_fingerprint(str(saved_model)),
        "format": FORMAT,
    }
    samples = [
        {
            "id": f"p{i}",
            "question": f"Compute {i % 20} + 7 .",
            "answer": str(i % 20 + 7),
            "task": "numeric",
            "metadata": {"family": "sums"},
            "strategy": "budget-forcing",
            "budget_tokens": budget,
            "correct": i % 10 != 0,
            "thinking_tokens": 20,
            "answer_tokens": 1,
            "total_tokens": 23 - (budget is not None) * 10 + i % 5,
            "truncated": False,
            "forced_close": False,
            "empty_answer": False,
            "final_answer": str(i % 20 + 7),
            "loops": False,
            "first_correct_tokens": 10,
            "spend": {
                "decoded_tokens": 24 - (budget is not None) * 10,
                "forced_tokens": 0,
                "masked_tokens": 0,
                "flops": 1e6,
                "peak_memory_bytes": 0,
                "seconds": 0.1,
            },
        }
        for budget in (None, 32)
        for i in range(50)
    ]
    write_jsonl(folder / "samples.jsonl", samples)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_json(folder / "environment.json", {"python": "3"})
    contamination = {"checked": False, "problems": 50, "trained_on": None, "examples": [], "unknown": ["concise-tiny"]}
    write_summary(folder, summarise(samples, config) | {"contamination": contamination, "trained_tokens": None})
    return folder


@pytest.fixture
def hub(monkeypatch):
    """The server; whoever waits for it does not."""
    import time

    import huggingface_hub.constants

    server = HubServer(TOKEN)
    server.pauses = []
    monkeypatch.setattr(time, "sleep", server.pauses.append)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # the test suite runs offline
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.stop()
