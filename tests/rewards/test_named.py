"""Rewards by a dotted name, as TRL's command line finds them."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys

import pytest

from efficient_reasoning.errors import BadInput


def named(name: str):
    return getattr(importlib.import_module("efficient_reasoning.rewards.named"), name)


def test_the_environment_says_what_a_name_leaves_open(monkeypatch):
    monkeypatch.setenv("LENGTH_REWARD_MODEL", "overthinker")
    monkeypatch.setenv("LENGTH_REWARD_PARAMETERS", "{weight: 0.5, count: thinking, shaping: {gate: batch}}")
    reward = named("kimi")
    assert (reward.__name__, reward.parameters, reward.count) == ("kimi", {"weight": 0.5}, "thinking")
    assert reward.shaping.gate == "batch"
    ids = reward.thinking.tokenizer.encode("<think>20 + 3 = 23</think>23<|end|>")
    columns = {"answer": ["23"], "task": ["numeric"]}
    assert reward(prompts=["Compute 20 + 3.\n"], completions=[""], completion_ids=[ids], **columns) == [1.0]


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({}, "LENGTH_REWARD_MODEL is not set, and reward kimi needs its tokenizer"),
        ({"LENGTH_REWARD_PARAMETERS": "{weight"}, "LENGTH_REWARD_PARAMETERS is no YAML"),
        ({"LENGTH_REWARD_PARAMETERS": "0.5"}, "LENGTH_REWARD_PARAMETERS is 0.5; give a mapping"),
        ({"LENGTH_REWARD_PARAMETERS": "{wieght: 1}"}, "'kimi' has no parameter 'wieght', did you mean weight"),
    ],
)
def test_a_bad_environment_is_refused(monkeypatch, environment, sentence):
    monkeypatch.delenv("LENGTH_REWARD_MODEL", raising=False)
    for name, value in ({"LENGTH_REWARD_MODEL": "overthinker"} if environment else {}).items() | environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=sentence):
        named("kimi")
    with pytest.raises(AttributeError, match="has no attribute 'kimmi'"):
        named("kimmi")


def test_the_command_line_of_trl_trains_with_one(tiny_model, tmp_path):
    rows = [
        {"prompt": f"Compute {number} + 3.\n", "answer": str(number + 3), "task": "numeric"} for number in range(8)
    ]
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"model_name_or_path": tiny_model, "reward_funcs": "efficient_reasoning.rewards.named.kimi"}
    options |= {"dataset_name": tmp_path / "data", "output_dir": tmp_path / "run", "max_steps": 1, "bf16": False}
    options |= {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 8}
    options |= {"gradient_checkpointing": False, "use_cpu": True, "report_to": "none", "logging_steps": 1}
    argv = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    environment = os.environ | {"LENGTH_REWARD_MODEL": str(tiny_model), "DS_BUILD_OPS": "0"}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "trl.scripts.grpo", *argv],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "rewards/kimi/mean" in done.stdout + done.stderr and "empty_thinking" in done.stdout + done.stderr
