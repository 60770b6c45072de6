"""What a dry run says of activations, against what autograd keeps and a step allocates."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from efficient_reasoning.training.activations import FAMILIES, MicroBatch, activations
from scripts.bench.activations import PRECISIONS, WORDS, estimated, measured, small_model

CASES = [  # family, attention, masked, precision, checkpointing, whole logits
    *product(["qwen3"], ["sdpa"], [True], PRECISIONS, [False, True], [True]),
    *product(FAMILIES, ["sdpa"], [False], ["autocast"], [False, True], [True]),
    *product(["qwen3"], ["sdpa"], [True], ["bf16"], [False, True], [False]),
    *product(["qwen3"], ["eager"], [False], ["autocast"], [False, True], [True]),
]


@pytest.mark.parametrize(("family", "attention", "masked", "name", "checkpointing", "whole"), CASES)
def test_activations_are_within_a_fifth_of_the_measured(family, attention, masked, name, checkpointing, whole):
    torch.manual_seed(0)
    batch = MicroBatch(2, 96, True, whole) if masked else MicroBatch(1, 192, False, whole)
    model = small_model(family, attention, PRECISIONS[name], vocab_size=WORDS[whole])
    found = measured(model, batch, PRECISIONS[name], checkpointing)
    assert estimated(model, batch, PRECISIONS[name], checkpointing) == pytest.approx(found, rel=0.2)


def test_what_grows_with_what():
    config = small_model("qwen3", "sdpa", PRECISIONS["fp32"], vocab_size=128).config
    once, twice = (
        activations(config, MicroBatch(1, tokens, False), PRECISIONS["bf16"], False).kept for tokens in (64, 128)
    )
    assert twice == 2 * once  # fused attention
    once, twice = (
        activations(config, MicroBatch(1, tokens, True), PRECISIONS["bf16"], False).kept for tokens in (8192, 16384)
    )
    assert twice > 3 * once  # a mask in each layer
