"""Control tokens: found, added, embedded."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from efficient_reasoning.checkpoint import load_tokenizer
from efficient_reasoning.errors import BadInput
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


@pytest.mark.parametrize("control", ["<|a & b|>", "`short`", "<|short\n|>"])
def test_a_control_that_nobody_could_ask_for_is_refused(control):
    with pytest.raises(BadInput, match=r"Training row 1: its control .* which no command line or card can repeat"):
        controls_of([{"prompt": f"a{control}\n", "control": control}])


def test_a_control_is_one_token_that_decoding_shows(tiny_model):
    tokenizer = load_tokenizer(str(tiny_model))
    size = len(tokenizer)
    new = add_controls(tokenizer, [HALF, SHORT])
    assert new == [size, size + 1]
    ids = tokenizer.encode(add_control("What is 1 + 2?\n", HALF))
    assert ids.count(size) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == f"What is 1 + 2?{HALF}\n"
    assert add_controls(tokenizer, [HALF, SHORT]) == []
    assert len(tokenizer) == size + 2


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_start_as_far_apart_as_others_are(tiny_model, tied):
    def embedded(controls: list[str]):
        model = AutoModelForCausalLM.from_pretrained(tiny_model, tie_word_embeddings=tied)
        if not tied:
            torch.manual_seed(0)
            model.get_output_embeddings().weight.data.normal_(1, 2)
        start = [
            table.weight.detach().clone() for table in (model.get_input_embeddings(), model.get_output_embeddings())
        ]
        tokenizer = load_tokenizer(str(tiny_model))
        embed_controls(model, tokenizer, add_controls(tokenizer, controls))
        return model, start

    controls = [f"<|keep 0.{tenths}|>" for tenths in range(1, 10)]
    model, start = embedded(controls)
    old = len(start[0])
    for table, before in zip((model.get_input_embeddings(), model.get_output_embeddings()), start, strict=True):
        assert torch.equal(table.weight[:old], before)
        new = table.weight[old:].detach()
        assert new.shape == (9, before.shape[1])
        assert 0.6 < torch.pdist(new).mean() / torch.pdist(before).mean() < 1.6
    assert model.config.vocab_size == old + 9
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
    alone, _ = embedded(controls[4:5])
    assert torch.equal(alone.get_input_embeddings().weight[old], model.get_input_embeddings().weight[old + 4])


def test_a_tokenizer_of_whole_words_gets_its_controls():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "so": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    assert add_controls(tokenizer, ["<|short|>", "so"]) == [2]
    assert tokenizer("so <|short|>")["input_ids"] == [1, 2] and add_controls(tokenizer, ["<|short|>"]) == []
