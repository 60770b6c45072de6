"""Running a recipe, and looking at what it left."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from efficient_reasoning.checkpoint import ReasoningMetadata
from efficient_reasoning.inference import load_reasoner, solve

ROOT = Path(__file__).parents[2]


def run(recipe: str, argv: list[str]) -> None:
    importlib.import_module(f"recipes.{recipe}").main(argv)


def logged(output: Path, step: int = 3) -> list[dict]:
    """What the trainer wrote down, a row a step."""
    history = json.loads((output / f"checkpoint-{step}" / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "loss" in entry]


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


# In a process that knows nothing of this toolkit, from a directory without it.
PLAIN = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
trust = {"trust_remote_code": True} if sys.argv[2:] else {}
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], **trust)
model, report = AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True, **trust)
assert not any(report.values()), report
ids = tokenizer("Compute 3 + 4.\\n", return_tensors="pt")
assert model.generate(**ids, max_new_tokens=5, do_sample=False).shape[1] > ids["input_ids"].shape[1]
assert "efficient_reasoning" not in sys.modules
"""


def check_output(output: Path, is_own_architecture: bool = False) -> ReasoningMetadata:
    """What every finished recipe leaves behind."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    words = [sys.executable, "-c", PLAIN, str(output), *["trusted"][:is_own_architecture]]
    done = subprocess.run(words, cwd=output.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reasoner = load_reasoner(str(output), device="cpu")
    assert solve(reasoner, "Compute 3 + 4.", budget_tokens=20).spend.tokens <= 20
    assert reasoner.metadata is not None
    names = {path.name for path in output.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "reasoning.json", "README.md", "run.json"} <= names
    assert not {"optimizer.pt", "training_args.bin", "scheduler.pt", "trainer_state.json", ".unfinished"} & names
    card = (output / "README.md").read_text()
    assert card.startswith("---\n")
    assert reasoner.metadata.method in card
    assert (reasoner.metadata.open_text, reasoner.metadata.close_text) == ("<think>", "</think>")
    assert reasoner.metadata.seed == 5
    return reasoner.metadata


def run_twice(monkeypatch: pytest.MonkeyPatch, recipe: str, argv: list[str]) -> None:
    """A run that is cut off behind its third step, and once more from there."""
    from transformers import Trainer

    step = Trainer._maybe_log_save_evaluate
    taken = []

    def cut(self, *positional, **named):
        taken.append(self.state.global_step)
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *positional, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_maybe_log_save_evaluate", cut)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, argv)
    assert taken[-1] == 3
    run(recipe, argv)


def launch(recipe: str, argv: list[str], folder: Path) -> subprocess.CompletedProcess:
    """Under DeepSpeed's launcher, with its port of 29500."""
    command = [sys.executable, "-m", "efficient_reasoning.cli", "train", recipe, "--num-gpus", "2", *argv]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DS_BUILD_OPS": "0", "DS_ACCELERATOR": "cpu"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
