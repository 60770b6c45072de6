"""What breaks under a run ends it with a sentence and a code, and the same command goes on."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer

from data_tools import chain_steps
from efficient_reasoning import errors
from efficient_reasoning.errors import BadInput
from efficient_reasoning.training.checkpoints import last_whole
from tests.recipes.running import ROOT, run, weights

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def begin(recipe: str, argv: list[str], **settings) -> subprocess.Popen:
    """A recipe in a process of its own."""
    words = [sys.executable, str(ROOT / "recipes" / f"{recipe}.py"), *argv]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # Of a shell's background job, and so of its children, Ctrl-C is ignored.
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    return subprocess.Popen(words, env=ENVIRONMENT, **pipes, **heard | settings)


# ---- the disk ----


def test_a_disk_that_fills_in_the_middle(argv, tmp_path):
    """The optimizer's file does not fit: the largest that is written."""
    run("sft_compress", argv("sft_compress", output_dir=tmp_path / "whole"))
    [largest, second] = sorted(
        (path.stat().st_size for path in (tmp_path / "whole/checkpoint-2").iterdir()), reverse=True
    )[:2]
    limit = (largest + second) // 2
    process = begin(
        "sft_compress",
        argv("sft_compress"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    _, said = process.communicate()
    assert process.returncode == 2, said
    assert re.search(r"^error: the disk is full \(.*\); make room and run the same command again\.$", said, re.M)
    assert "Traceback" not in said
    run("sft_compress", argv("sft_compress"))
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a folder that nobody may write in")
def test_an_output_that_is_read_only(argv, capsys):
    with pytest.raises(SystemExit) as ended:
        errors.run(lambda: run("sft_compress", argv("sft_compress", output_dir="/sys/run")))
    assert ended.value.code == 2
    assert re.search(r"^error: /sys/run: .*; name another place\.$", capsys.readouterr().err, re.M)


# ---- two runs in one folder ----

HOLD = """
import sys, time
from efficient_reasoning.files import hold
assert hold(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


def test_two_runs_in_one_folder(argv, tmp_path):
    run("sft_compress", argv("sft_compress", max_steps=1))
    first = tmp_path / "first"
    first.mkdir()
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(first / ".lock")], env=ENVIRONMENT, stdout=subprocess.PIPE
    )
    try:
        other.stdout.readline()
        with pytest.raises(BadInput, match="first: another run is writing it; wait for that one, or choose another"):
            run("sft_compress", argv("sft_compress", output_dir=first))
        assert [path.name for path in first.iterdir()] == [".lock"]
    finally:
        other.kill()
        other.wait()
    run("sft_compress", argv("sft_compress", output_dir=first, max_steps=1))
    assert weights(first) == weights(tmp_path / "run")


# ---- memory ----


@pytest.fixture
def chains(tmp_path) -> Path:
    chain_steps.main(
        ["--task", "sums", "--model", "overthinker", "--num_problems", "24", "--out", str(tmp_path / "chains.jsonl")]
    )
    return tmp_path / "chains.jsonl"


@pytest.mark.parametrize("recipe", ["sft_compress", "rl_length", "sft_latent"])
def test_memory_that_runs_out_is_met_by_what_is_advised(argv, tmp_path, monkeypatch, chains, recipe):
    changes = {"max_length": 256} if recipe == "sft_compress" else {}
    if recipe == "sft_latent":
        changes = {"data": chains, "method": "codi"}
    step = Trainer.training_step

    def allocate(self, model, inputs, *rest):
        """A pebibyte for more than two rows at a time."""
        if self.state.global_step == 1 and self.args.per_device_train_batch_size > 2:
            torch.empty(1 << 50, dtype=torch.uint8)
        return step(self, model, inputs, *rest)

    # TRL's trainers call it from their own.
    monkeypatch.setattr(Trainer, "training_step", allocate)
    with pytest.raises(BadInput, match=r"Out of memory in step 2 \(.*allocate") as refused:
        run(recipe, argv(recipe, save_steps=1, **changes))
    said = str(refused.value)
    assert "set in another output_dir per_device_train_batch_size to 2 and gradient_accumulation_steps to 2" in said
    assert ("gradient_checkpointing to true" in said) == (recipe != "sft_latent")
    assert ("max_completion_length to 6 (half of its tokens" in said) == (recipe == "rl_length")
    assert ("max_length to 128 (half of its tokens" in said) == (recipe == "sft_compress")
    assert said.endswith("or model to a smaller one (weights, gradients and Adam's moments alone take 0.0 GiB).")
    advised = dict(re.findall(r"(\w+) to (\d+)", said.partition(" (the same step")[0]))
    run(recipe, argv(recipe, output_dir=tmp_path / "again", **changes | advised))
    assert weights(tmp_path / "again")


# ---- numbers that are none ----


@pytest.mark.parametrize("recipe", ["sft_compress", "linearize", "pretrain", "sft_latent"])
def test_a_run_that_explodes_saves_nothing_that_is_no_number(argv, tmp_path, chains, recipe):
    changes = {"stage": "transfer", "window_tokens": 4} if recipe == "linearize" else {}
    if recipe == "sft_latent":
        changes = {"data": chains, "method": "cot"}
    exploding = {"learning_rate": 1e30, "lr_scheduler_type": "constant", "max_steps": 8, "save_steps": 1}
    with pytest.raises(
        BadInput, match=r"Stopped in step [2-8]: the gradient is (nan|inf); .* Lower the learning rate"
    ):
        run(recipe, argv(recipe, **changes, **exploding))
    assert not (tmp_path / "run/model.safetensors").exists()
    for path in (tmp_path / "run").glob("checkpoint-*/model.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(path).values())


# ---- Ctrl-C ----


@pytest.mark.parametrize("pause_seconds", [0.0, 0.3])
def test_ctrl_c_twice(argv, tmp_path, pause_seconds):
    words = argv("sft_compress", max_steps=400, save_steps=50)
    process = begin("sft_compress", words)
    for line in process.stdout:
        if line.startswith("{'loss'") and (tmp_path / "run/checkpoint-50/whole.json").exists():
            break
    process.send_signal(signal.SIGINT)
    time.sleep(pause_seconds)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode in (130, -signal.SIGINT)  # which a shell calls 130, too
    assert "Traceback" not in said
    assert not (tmp_path / "run/model.safetensors").exists()
    assert last_whole(tmp_path / "run")[0] is not None
