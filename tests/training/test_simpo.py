"""SimPO: what our trainer does otherwise than TRL's."""

from __future__ import annotations

import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM

from efficient_reasoning.checkpoint import load_tokenizer
from efficient_reasoning.training.simpo import SimPOConfig, SimPOTrainer

PAIR = {"prompt": "Compute 1 + 2.\n", "chosen": "3", "rejected": "1 + 2 = 3, so 3"}


def trainer_of(tiny_model, folder, tokenizer, rows: list[dict], **changes) -> SimPOTrainer:
    config = SimPOConfig(
        str(folder), bf16=False, use_cpu=True, report_to="none", gradient_checkpointing=False, **changes
    )
    return SimPOTrainer(
        AutoModelForCausalLM.from_pretrained(tiny_model),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )


@pytest.mark.parametrize("bos", [None, "<think>"])
def test_prompts_are_encoded_as_inference_does(tiny_model, tmp_path, bos):
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.bos_token = bos  # which this tokenizer never writes by itself
    [row] = trainer_of(tiny_model, tmp_path, tokenizer, [PAIR]).train_dataset
    prompt = tokenizer(PAIR["prompt"])["input_ids"]
    assert row["prompt_input_ids"] == prompt
    for side in ("chosen", "rejected"):
        ids = [*tokenizer(PAIR[side])["input_ids"], tokenizer.eos_token_id]
        assert row[f"{side}_input_ids"] == prompt + ids
        assert row[f"{side}_labels"] == [-100] * len(prompt) + ids
        assert len(row[f"{side}_attention_mask"]) == len(prompt + ids)


def test_a_prompt_that_leaves_no_room_is_left_out(tiny_model, tmp_path):
    tokenizer = load_tokenizer(str(tiny_model))
    rows = [PAIR, PAIR | {"prompt": "Compute 1 + 2. " * 20}]
    length = len(tokenizer(PAIR["prompt"])["input_ids"]) + 1
    trainer = trainer_of(tiny_model, tmp_path, tokenizer, rows, max_length=length)
    assert [row["prompt"] for row in trainer.train_dataset] == [PAIR["prompt"]]


def test_the_constants_are_those_of_the_paper():
    config = SimPOConfig("unused", bf16=False, use_cpu=True, report_to="none")
    assert (config.loss_type, config.cpo_alpha, config.beta, config.simpo_gamma) == ("simpo", 0.0, 2.0, 1.0)
