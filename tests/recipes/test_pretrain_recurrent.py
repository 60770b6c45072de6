"""Pre-training a model of recurrent depth through the recipe."""

from __future__ import annotations

import json

import pytest

from efficient_reasoning.errors import BadInput
from efficient_reasoning.recurrent.depth import sample_depth
from efficient_reasoning.recurrent.modeling_recurrent import RecurrentModel
from tests.recipes.running import check_output, launch, logged, run, run_twice, weights

ARCHITECTURE = {
    "model_type": "recurrent_depth",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_prelude_layers": 1,
    "num_core_layers": 1,
    "num_coda_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 8,
    "mean_depth": 3,
    "backprop_depth": 2,
}


def test_pretrain_leaves_a_model_that_others_load(argv, tmp_path):
    run("pretrain", argv("pretrain", architecture=json.dumps(ARCHITECTURE)))
    metadata = check_output(tmp_path / "run", is_own_architecture=True)
    assert (metadata.method, metadata.depth) == ("pretrain", 3)
    assert all(row["loss"] > 0 for row in logged(tmp_path / "run"))
    names = {path.name for path in (tmp_path / "run").glob("*.py")}
    assert names == {"configuration_recurrent.py", "modeling_recurrent.py"}


def test_a_cut_run_goes_on_with_the_depths_of_an_uninterrupted_one(argv, tmp_path, monkeypatch):
    taken = []
    forward = RecurrentModel.forward

    def count(self, *positional, **named):
        taken.append(self.training_depth)
        return forward(self, *positional, **named)

    monkeypatch.setattr(RecurrentModel, "forward", count)
    settings = {"architecture": json.dumps(ARCHITECTURE), "max_steps": 4}
    run("pretrain", argv("pretrain", output_dir=tmp_path / "whole", **settings))
    expected = [sample_depth(3, 0.5, 5, step) for step in range(4)]
    assert taken == expected and len({*expected}) > 1
    run_twice(monkeypatch, "pretrain", argv("pretrain", **settings))
    assert taken[4:] == [*expected[:3], *expected[2:]]  # cut behind the third step, which no checkpoint holds
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


@pytest.mark.parametrize(
    ("recipe", "settings"), [("sft_compress", {}), ("sft_compress", {"lora_rank": 2}), ("rl_length", {"max_steps": 1})]
)
def test_later_stages_go_on_from_it(argv, tmp_path, recipe, settings):
    run("pretrain", argv("pretrain", output_dir=tmp_path / "base", architecture=json.dumps(ARCHITECTURE), max_steps=1))
    run(recipe, argv(recipe, model=tmp_path / "base", **settings))
    metadata = check_output(tmp_path / "run", is_own_architecture=True)
    assert (metadata.stage, metadata.depth) == (recipe[: recipe.index("_")], 3)
    if recipe == "sft_compress":  # without an answer that is right, nothing is learnt from rewards
        assert weights(tmp_path / "run") != weights(tmp_path / "base")


@pytest.mark.slow
def test_two_processes_with_zero_2(argv, tmp_path):
    done = launch("pretrain", argv("pretrain", architecture=json.dumps(ARCHITECTURE), deepspeed="zero2"), tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    check_output(tmp_path / "run", is_own_architecture=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_core_layers": 0}, "num_core_layers is 0; give at least 1"),
        ({"mean_depth": 0}, "mean_depth is 0; give at least 1"),
        ({"num_layers": 3}, "'num_layers' cannot be set in a recurrent_depth"),
    ],
)
def test_what_makes_no_model_is_named(argv, changes, message):
    with pytest.raises(BadInput, match=message):
        run("pretrain", argv("pretrain", architecture=json.dumps(ARCHITECTURE | changes)))
