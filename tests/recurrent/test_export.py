"""What a checkpoint of recurrent depth is to those who do not have this toolkit: the same tokens."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model

from efficient_reasoning.cards import write_training_card
from efficient_reasoning.checkpoint import ReasoningMetadata, load_model, load_tokenizer
from efficient_reasoning.errors import BadInput
from efficient_reasoning.hub.checks import check_code
from efficient_reasoning.hub.example import run_program, why_unchecked
from efficient_reasoning.inference import Request, Sampling, load_reasoner, serve

FILES = {"configuration_recurrent.py", "modeling_recurrent.py"}
PACKAGES = {"__future__", "collections", "dataclasses", "huggingface_hub", "torch", "transformers", "typing"}
PROMPT = [5, 6, 7, 60, 61]
PROGRAM = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("ORG/NAME", trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained("ORG/NAME", trust_remote_code=True, dtype="float32", **SETTINGS)
inputs = {"input_ids": torch.tensor([PROMPT])}
output = model.generate(**inputs, max_new_tokens=24, do_sample=False)
"""


def answer(model: str, **settings) -> list[int]:
    reasoner = load_reasoner(model, "transformers", device="cpu", **settings)
    [completion] = reasoner.engine.generate([Request(PROMPT, 24, Sampling(temperature=0))])
    return completion.ids


def answer_elsewhere(folder: Path, **settings) -> list[int]:
    """In a process in which an import of this toolkit fails."""
    program = PROGRAM.replace("PROMPT", str(PROMPT)).replace("SETTINGS", str(settings))
    found = run_program(program, "ORG/NAME", folder)
    assert not isinstance(found, str), found
    return found["response"]


def test_the_files_import_nothing_of_ours(checkpoint):
    folder = Path(checkpoint)
    assert {path.name for path in folder.glob("*.py")} == FILES
    assert json.loads((folder / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_recurrent.RecurrentConfig",
        "AutoModelForCausalLM": "modeling_recurrent.RecurrentForCausalLM",
    }
    for name in FILES:
        for node in ast.walk(ast.parse((folder / name).read_text())):
            if isinstance(node, ast.ImportFrom):
                package = node.module.partition(".")[0]
                assert (node.level, package) == (1, "configuration_recurrent") or package in PACKAGES
            elif isinstance(node, ast.Import):
                assert [alias.name for alias in node.names] == ["torch"]


@pytest.mark.parametrize("settings", [{}, {"depth": 9, "exit_kl": 0.01}], ids=["as trained", "deeper"])
def test_a_process_without_this_toolkit_says_the_same(checkpoint, settings):
    assert answer_elsewhere(Path(checkpoint), **settings) == answer(checkpoint, **settings)


def test_adapters_are_merged_into_what_is_exported(checkpoint, tmp_path):
    adapters = LoraConfig(target_modules=["q_proj", "adapter"], init_lora_weights=False)
    get_peft_model(load_model(checkpoint, "cpu"), adapters).merge_and_unload().save_pretrained(tmp_path)
    load_tokenizer(checkpoint).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == FILES
    assert answer_elsewhere(tmp_path) == answer(str(tmp_path)) != answer(checkpoint)


def test_its_code_is_known_until_somebody_changes_it(checkpoint, tmp_path):
    folder = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    check_code(folder, "model")
    with open(folder / "modeling_recurrent.py", "a") as stream:
        stream.write("print('hello')\n")
    with pytest.raises(BadInput, match=r"model: modeling_recurrent\.py is code that this toolkit did not write"):
        check_code(folder, "model")
    check_code(folder, "model", trust_remote_code=True)


def test_its_card_names_its_depth_and_its_program_can_be_checked(checkpoint, tmp_path):
    folder = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    assert why_unchecked(folder) is None
    write_training_card(folder, metadata=ReasoningMetadata.load(folder), metrics={})
    card = (folder / "README.md").read_text()
    assert "It decodes with 4 iterations of its core" in card and "trust_remote_code=True" in card


def test_vllm_is_refused(checkpoint):
    with pytest.raises(BadInput, match="is of recurrent depth, which vLLM cannot decode; use backend transformers"):
        serve.command(checkpoint, [])
