"""Whose ids the traces hold."""

from __future__ import annotations

import pytest

from efficient_reasoning.checkpoint import load_tokenizer, resolve_model
from efficient_reasoning.compression.tokenizer import load_thinking, same_tokenizer
from efficient_reasoning.errors import BadInput
from efficient_reasoning.thinking import ThinkingFormat
from efficient_reasoning.traces import tokenizer_hash


def test_a_model_that_has_learnt_controls_reads_the_traces_of_its_base_and_not_the_reverse():
    base = load_thinking("overthinker")
    tokenizer = load_tokenizer(resolve_model("overthinker"))
    tokenizer.add_tokens(["<|steps 2|>", "<|steps 3|>"])
    trained = ThinkingFormat.from_tokenizer(tokenizer)
    rows = [{"id": "a", "tokenizer_hash": tokenizer_hash(base.tokenizer)}, {"id": "b"}]
    assert list(same_tokenizer(rows, base)) == list(same_tokenizer(rows, trained)) == rows
    rows = [{"id": "a", "tokenizer_hash": tokenizer_hash(tokenizer), "model": "trained"}]
    with pytest.raises(BadInput, match=r"problem 'a': its ids are of another tokenizer .* \(trained\)"):
        list(same_tokenizer(rows, base))
