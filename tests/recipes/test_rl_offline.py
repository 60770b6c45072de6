"""`rl_length` with `algorithm: offline`: what it makes of rows that are paid."""

from __future__ import annotations

import pytest

from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import write_jsonl
from tests.recipes.running import check_output, launch, logged, run, run_twice, weights
from tests.rl.test_offline import ROWS


@pytest.fixture
def paid(argv, tmp_path):
    write_jsonl(tmp_path / "paid.jsonl", ROWS)

    def build(**changes) -> list[str]:
        settings = {"algorithm": "offline", "reward": "o1_pruner", "data": tmp_path / "paid.jsonl", "max_length": 256}
        return argv("rl_length", num_generations=None, max_completion_length=None, **settings | changes)

    return build


def test_the_recipe_resumes_with_the_reference_that_it_began_with(paid, tmp_path, monkeypatch):
    run("rl_length", paid(output_dir=tmp_path / "whole", max_steps=4))
    run_twice(monkeypatch, "rl_length", paid(max_steps=4))
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert check_output(tmp_path / "run").method == "offline o1_pruner"
    first, *_, last = logged(tmp_path / "run", 4)
    assert (first["ratio"], first["clipped"]) == (pytest.approx(1, abs=1e-4), 0)
    assert last["ratio"] != pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"reward": "kimi"}, r"paid\.jsonl: its rows are paid by o1_pruner, not kimi"),
        ({"reward_parameters": "{weight: 2}"}, "paid already; give reward_parameters to `data offline_rewards`"),
        ({"packing": True}, "packing does not go with offline RL"),
        ({"clip_range": 2}, "clip_range is 2.*; give a number between 0 and 1"),
        ({"max_length": 3}, "max_length is 3, and 24 of 24 rows are longer and would be left out; raise it"),
        ({"beta": 0.1}, "unknown key 'beta'"),
    ],
)
def test_bad_values_get_one_sentence(paid, changes, sentence):
    with pytest.raises(BadInput, match=sentence):
        run("rl_length", paid(**changes))


def test_rows_that_nobody_paid_are_refused(paid, data):
    with pytest.raises(BadInput, match=r"sft\.jsonl: its rows are paid by nothing, not o1_pruner"):
        run("rl_length", paid(data=data / "sft.jsonl"))


def test_rows_without_a_reward_are_refused(paid, tmp_path):
    bare = [{name: value for name, value in row.items() if name != "reward"} for row in ROWS]
    write_jsonl(tmp_path / "bare.jsonl", bare)
    with pytest.raises(BadInput, match=r"bare\.jsonl: its rows have no 'reward'; write them with"):
        run("rl_length", paid(data=tmp_path / "bare.jsonl"))


@pytest.mark.slow
def test_two_processes_share_the_reference_under_zero_2(paid, tmp_path):
    done = launch("rl_length", paid(deepspeed="zero2"), tmp_path)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    check_output(tmp_path / "run")
    run("rl_length", paid(output_dir=tmp_path / "one", per_device_train_batch_size=8))
    for row, other in zip(logged(tmp_path / "run"), logged(tmp_path / "one"), strict=True):
        assert row["ratio"] == pytest.approx(other["ratio"], rel=2e-3)
        assert row["loss"] == pytest.approx(other["loss"], abs=2e-3)
