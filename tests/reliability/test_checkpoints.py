"""A checkpoint that is damaged, or another run's, is passed over with a sentence, and nothing else is lost."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from efficient_reasoning.errors import BadInput
from efficient_reasoning.training import checkpoints
from tests.recipes.running import run, weights

STEPS = {"max_steps": 5, "save_steps": 2}


@pytest.fixture
def cut(argv, tmp_path):
    """`cut(damage)`: a run that was cut behind step 4, whose last checkpoint then suffered; its whole weights."""

    def build(damage, **changes) -> bytes:
        run("sft_compress", argv("sft_compress", **STEPS | changes))
        output, before = tmp_path / "run", weights(tmp_path / "run")
        for path in output.iterdir():
            if path.is_file() and path.name != "run.json":
                path.unlink()
        shutil.rmtree(output / "checkpoint-5")
        damage(output / "checkpoint-4")
        return before

    return build


def shorten(name: str):
    def damage(checkpoint: Path) -> None:
        content = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(content[: len(content) // 2])

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (shorten("model.safetensors"), r"has [\d,]+ of the [\d,]+ bytes of model\.safetensors"),
        (shorten("optimizer.pt"), r"has [\d,]+ of the [\d,]+ bytes of optimizer\.pt"),
        (shorten("trainer_state.json"), r"has [\d,]+ of the [\d,]+ bytes of trainer_state\.json"),
        (shorten("whole.json"), "was not written to its end"),
        (lambda checkpoint: (checkpoint / "rng_state.pth").unlink(), r"has no rng_state\.pth"),
        (lambda checkpoint: (checkpoint / "whole.json").unlink(), "was not written to its end"),
    ],
)
def test_the_one_before_is_used(cut, argv, tmp_path, capsys, damage, said):
    before = cut(damage)
    capsys.readouterr()
    run("sft_compress", argv("sft_compress", **STEPS))
    [line] = [line for line in capsys.readouterr().out.splitlines() if "checkpoint-" in line]
    assert re.fullmatch(rf".*run: checkpoint-4 {said}; going on from checkpoint-2\.", line)
    assert weights(tmp_path / "run") == before
    assert checkpoints.last_whole(tmp_path / "run") == (tmp_path / "run" / "checkpoint-5", [])


def test_a_shard_that_is_missing_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    for step in (9, 10):
        for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "global_step/rank_1.pt"):
            path = tmp_path / f"checkpoint-{step}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"weights")
        checkpoints.seal(tmp_path, tmp_path / f"checkpoint-{step}")
    assert checkpoints.last_whole(tmp_path) == (tmp_path / "checkpoint-10", [])
    (tmp_path / "checkpoint-10" / "model-00002-of-00002.safetensors").unlink()
    lost = ["checkpoint-10 has no model-00002-of-00002.safetensors"]
    assert checkpoints.last_whole(tmp_path) == (tmp_path / "checkpoint-9", lost)
    (tmp_path / "checkpoint-9" / "global_step" / "rank_1.pt").unlink()
    assert checkpoints.last_whole(tmp_path) == (None, [*lost, "checkpoint-9 has no global_step/rank_1.pt"])


def test_one_of_another_run_is_passed_over_with_what_differs(cut, argv, tmp_path, capsys):
    run("sft_compress", argv("sft_compress", output_dir=tmp_path / "other", **STEPS | {"learning_rate": 0.1}))
    before = cut(lambda _: shutil.copytree(tmp_path / "other/checkpoint-5", tmp_path / "run/checkpoint-5"))
    run("sft_compress", argv("sft_compress", **STEPS))
    said = "run: checkpoint-5 is of a run that differs in learning_rate; going on from checkpoint-4."
    assert said in capsys.readouterr().out
    assert weights(tmp_path / "run") == before


def test_without_a_whole_one_it_begins_anew(cut, argv, tmp_path, capsys):
    def damage(checkpoint: Path) -> None:
        for step in (2, 4):
            shorten("model.safetensors")(checkpoint.with_name(f"checkpoint-{step}"))

    before = cut(damage)
    run("sft_compress", argv("sft_compress", **STEPS))
    assert "; beginning anew." in capsys.readouterr().out
    assert weights(tmp_path / "run") == before


def test_an_older_one_goes_when_the_newer_is_whole(argv, tmp_path, monkeypatch):
    seal = checkpoints.seal

    def die(output: Path, checkpoint: Path) -> None:
        if checkpoint.name == "checkpoint-4":
            raise KeyboardInterrupt
        seal(output, checkpoint)

    words = argv("sft_compress", **STEPS, save_total_limit=1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "seal", die)
        with pytest.raises(KeyboardInterrupt):
            run("sft_compress", words)
    assert checkpoints.last_whole(tmp_path / "run") == (
        tmp_path / "run" / "checkpoint-2",
        ["checkpoint-4 was not written to its end"],
    )
    run("sft_compress", words)
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-5"]
    run("sft_compress", argv("sft_compress", **STEPS, output_dir=tmp_path / "whole"))
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_as_many_processes_go_on(argv, tmp_path):
    """Others would each read other rows, and find no state of their generators."""
    run("sft_compress", argv("sft_compress", **STEPS))
    path = tmp_path / "run" / "run.json"
    path.write_text(path.read_text().replace('"number of processes": 1', '"number of processes": 2'))
    with pytest.raises(BadInput, match="run: holds a run that differs in number of processes; choose another"):
        run("sft_compress", argv("sft_compress", **STEPS))


def test_what_a_run_could_not_go_on_from_is_refused(argv):
    with pytest.raises(BadInput, match="save_only_model is true, and a run that is cut could not go on as it began"):
        run("sft_compress", argv("sft_compress", save_only_model="true"))


def test_what_is_remembered_stands_in_the_checkpoint(argv, tmp_path):
    """So that it is known as long as any checkpoint is."""
    run("sft_compress", argv("sft_compress", **STEPS))
    sealed = json.loads((tmp_path / "run/checkpoint-2/whole.json").read_text())
    assert sealed["config"] == json.loads((tmp_path / "run/run.json").read_text())
    assert {"model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"} <= sealed["files"].keys()
