"""Control tokens: found, added, embedded."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from efficient_reasoning.checkpoint import load_tokenizer
from efficient_reasoning.prompts import add_control
from efficient_reasoning.training.controls import add_controls, controls_of, embed_controls, without_control

SHORT, HALF = "<|short|>", "<|keep 0.5|>"
MESSAGES = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]


@pytest.mark.parametrize("prompt", ["What is 1 + 2?\n", MESSAGES])
def test_a_control_is_found_and_taken_away(prompt):
    row = {"prompt": add_control(prompt, SHORT), "control": SHORT, "method": "c3ot"}
    assert controls_of([row, {"prompt": prompt}, {"prompt": prompt, "control": None}]) == [SHORT]
    assert without_control(row) == row | {"prompt": prompt}
    assert without_control({"prompt": prompt}) == {"prompt": prompt}


def test_two_controls_of_one_prompt():
    rows = [{"prompt": add_control("a\n", control), "control": control} for control in (SHORT, HALF, SHORT)]
    assert controls_of(rows) == [HALF, SHORT]


def test_a_control_is_one_token_that_decoding_shows(tiny_model):
    tokenizer = load_tokenizer(str(tiny_model))
    before = {control: tokenizer.encode(control) for control in (HALF, SHORT)}
    size = len(tokenizer)
    new = add_controls(tokenizer, [HALF, SHORT])
    assert new == {size: before[HALF], size + 1: before[SHORT]}
    ids = tokenizer.encode(add_control("What is 1 + 2?\n", HALF))
    assert ids.count(size) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == f"What is 1 + 2?{HALF}\n"
    assert add_controls(tokenizer, [HALF, SHORT]) == {}
    assert len(tokenizer) == size + 2


@pytest.mark.parametrize("tied", [True, False])
def test_a_new_token_starts_as_the_mean_of_what_it_replaces(tiny_model, tied):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, tie_word_embeddings=tied)
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    if not tied:
        tables[1].weight.data.normal_()
    start = [table.weight.detach().clone() for table in tables]
    tokenizer = load_tokenizer(str(tiny_model))
    new = add_controls(tokenizer, [SHORT])
    embed_controls(model, tokenizer, new)
    [(token, old)] = new.items()
    for table, before in zip((model.get_input_embeddings(), model.get_output_embeddings()), start, strict=True):
        assert torch.allclose(table.weight[token], before[old].mean(0), atol=1e-6)
        assert torch.equal(table.weight[:token], before)
    assert model.config.vocab_size == token + 1
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
