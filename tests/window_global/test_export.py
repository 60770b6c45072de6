"""What a checkpoint with a window and global tokens is to those who do not have this toolkit: the same tokens."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from efficient_reasoning.checkpoint import ReasoningMetadata, load_model, load_tokenizer
from efficient_reasoning.errors import BadInput
from efficient_reasoning.hub.example import run_program, why_unchecked
from efficient_reasoning.inference import Request, Sampling, load_reasoner
from efficient_reasoning.window_global import WindowGlobalConfig, WindowGlobalForCausalLM

FILES = {"configuration_window_global.py", "modeling_window_global.py"}
PACKAGES = {"__future__", "huggingface_hub", "torch", "transformers", "typing"}
PROMPT = [5, 6, 7, 60, 61]
PROGRAM = f"""
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("ORG/NAME", trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained("ORG/NAME", trust_remote_code=True, dtype="float32")
inputs = {{"input_ids": torch.tensor([{PROMPT}])}}
output = model.generate(**inputs, max_new_tokens=24, do_sample=False)
"""


@pytest.fixture(scope="module")
def checkpoint(tiny_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("window_global") / "model"
    tokenizer = load_tokenizer(str(tiny_model))
    torch.manual_seed(1)
    config = WindowGlobalConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        window_tokens=6,
        num_global_tokens=2,
        initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    WindowGlobalForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ReasoningMetadata(method="pretrain", stage="pretrain", seed=1).save(folder)
    return folder


def answer(model: str) -> list[int]:
    [completion] = load_reasoner(model, device="cpu").engine.generate([Request(PROMPT, 24, Sampling(temperature=0))])
    return completion.ids


def test_the_files_import_nothing_of_ours(checkpoint):
    assert {path.name for path in checkpoint.glob("*.py")} == FILES
    assert json.loads((checkpoint / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_window_global.WindowGlobalConfig",
        "AutoModelForCausalLM": "modeling_window_global.WindowGlobalForCausalLM",
    }
    for name in FILES:
        for node in ast.walk(ast.parse((checkpoint / name).read_text())):
            if isinstance(node, ast.ImportFrom):
                package = node.module.partition(".")[0]
                assert (node.level, package) == (1, "configuration_window_global") or package in PACKAGES
            elif isinstance(node, ast.Import):
                assert [alias.name for alias in node.names] == ["torch"]


def test_a_process_without_this_toolkit_says_the_same(checkpoint):
    assert why_unchecked(checkpoint) is None
    found = run_program(PROGRAM, "ORG/NAME", checkpoint)
    assert not isinstance(found, str), found
    assert found["response"] == answer(str(checkpoint))


def test_what_rides_in_the_folder_keeps_riding(checkpoint, tmp_path):
    AutoModelForCausalLM.from_pretrained(checkpoint).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == FILES


def test_backend_graph_is_refused(checkpoint):
    with pytest.raises(BadInput, match="backend graph cannot decode window_global; use transformers"):
        load_reasoner(str(checkpoint), "graph", device="cpu")


def test_a_config_that_makes_no_model_is_named_with_its_file(checkpoint, tmp_path):
    folder = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"window_tokens": 0}))
    with pytest.raises(BadInput, match=r"model: config.json: .*window_tokens is 0; give at least 1"):
        load_model(str(folder), "cpu")
