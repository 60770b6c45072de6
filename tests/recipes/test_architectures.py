"""Models that mix states, windows or global tokens with attention go through every stage, as a Qwen3 does."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from efficient_reasoning import load_reasoner
from efficient_reasoning.checkpoint import ReasoningMetadata
from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import Request, Sampling
from recipes import pretrain, rl_length, sft_compress

CONFIGS = Path(__file__).parents[2] / "configs" / "pretrain"
HYBRIDS = {"gated_deltanet": "transformers", "mamba2": "transformers", "local_global": "graph"}  # and their backends
HYBRIDS |= {"window_global": "transformers"}


@pytest.fixture(params=HYBRIDS)
def hybrid(request, argv, tmp_path):
    """Name and folder, after a step of pre-training."""
    shape = yaml.safe_load((CONFIGS / f"{request.param}_overthinker.yaml").read_text())["architecture"]
    pretrain.main(argv("pretrain", architecture=yaml.safe_dump(shape, default_flow_style=True), max_steps=1))
    return request.param, (tmp_path / "run").rename(tmp_path / "base")


def test_every_stage_takes_it(hybrid, argv, tmp_path):
    _, base = hybrid
    for stage, recipe, changes in (
        ("sft", sft_compress, {"lora_rank": 4, "learning_rate": 1e-3}),
        ("rl", rl_length, {"learning_rate": 1e-4}),
    ):
        out = tmp_path / stage
        recipe.main(argv(recipe.__name__.split(".")[1], model=base, output_dir=out, max_steps=1, **changes))
        assert ReasoningMetadata.load(out).stage == stage
        load_reasoner(str(out))


def test_a_row_decodes_alone_what_it_decodes_among_others(hybrid):
    name, base = hybrid
    reasoner = load_reasoner(str(base))
    assert type(reasoner.engine).__name__.lower() == f"{HYBRIDS[name]}engine"
    asked = [f"Compute {'1 + ' * terms}2." for terms in (1, 9, 30)]  # the last one is longer than a window
    requests = [Request(reasoner.tokenizer.encode(text), 24, Sampling(0)) for text in asked]
    together = [completion.ids for completion in reasoner.engine.generate(requests)]
    assert together == [reasoner.engine.generate([request])[0].ids for request in requests]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("window_tokens: 0", "window_tokens is 0; give at least 1"),
        ("num_global_tokens: -1", "num_global_tokens is -1; give 0 or more"),
        ("num_global: 4", "'num_global' cannot be set in a window_global, did you mean num_global_tokens"),
        ("attn_logit_softcapping: 50.0", "'attn_logit_softcapping' cannot be set in a window_global"),
    ],
)
def test_fields_that_make_no_window_are_named(argv, field, message):
    with pytest.raises(BadInput, match=message):
        pretrain.main(argv("pretrain", architecture=f"{{model_type: window_global, {field}}}"))
