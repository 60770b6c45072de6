"""Merging from the command line: checkpoints between two models, whole or not at all."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from efficient_reasoning import merging
from efficient_reasoning.checkpoint import ReasoningMetadata, load_tokenizer
from efficient_reasoning.config import find_config
from efficient_reasoning.contamination import contamination, training_problems
from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import load_reasoner, solve
from recipes import merge

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def parents(tiny_model, tmp_path_factory) -> tuple[Path, Path]:
    """A model and what training has made of it."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("parents")
    long, short = Path(shutil.copytree(tiny_model, folder / "long")), folder / "short"
    model = AutoModelForCausalLM.from_pretrained(long)
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(short)
    load_tokenizer(str(long)).save_pretrained(short)
    ReasoningMetadata("shortest_correct", "sft", base_model="long").save(short)
    training_problems([{"question": "Compute 3 + 4."}], long).save(short)
    return long, short


@pytest.fixture
def argv(parents, tmp_path):
    """`argv(key=value, ...)`: a command line; a value of None leaves the key out."""

    def build(**changes) -> list[str]:
        options = {"long": parents[0], "short": parents[1], "output_dir": tmp_path / "out"} | changes
        return [word for key, value in options.items() if value is not None for word in (f"--{key}", str(value))]

    return build


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


# ---- from end to end ----


def test_the_mean_of_two_models_solves_problems(argv, parents, tmp_path):
    merge.main(argv())
    long, short, found = (weights(folder) for folder in (*parents, tmp_path / "out"))
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, (long[name] + short[name]) / 2)
    reasoner = load_reasoner(str(tmp_path / "out"), device="cpu")
    assert solve(reasoner, "Compute 3 + 4.", budget_tokens=20).spend.tokens <= 20
    metadata = reasoner.metadata
    assert (metadata.method, metadata.stage, metadata.base_model) == ("merge average 0.5", "merge", "long")
    assert (metadata.earlier_methods, metadata.merged_from) == (["shortest_correct"], ["long", "short"])
    seen = contamination(tmp_path / "out", [{"id": "a", "question": "Compute 3 + 4."}])
    assert (seen["trained_on"], seen["unknown"]) == (1, ["long"])


def test_a_sweep_goes_from_one_model_to_the_other(argv, parents, tmp_path):
    merge.main(argv(weights="[0, 0.25, 1.0, 1.5]"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"weight_{w}" for w in ("0", "0.25", "1", "1.5")}
    for weight, parent in (("0", parents[0]), ("1", parents[1])):
        assert (tmp_path / "out" / f"weight_{weight}" / "model.safetensors").read_bytes() == (
            parent / "model.safetensors"
        ).read_bytes()
    long, short = map(weights, parents)
    for weight in (0.25, 1.5):
        for name, tensor in weights(tmp_path / "out" / f"weight_{weight}").items():
            torch.testing.assert_close(tensor, long[name] + weight * (short[name] - long[name]))


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare"])
def test_a_recipe_merges_the_same_again(argv, parents, tmp_path, method, monkeypatch):
    settings = {"density": 0.3} if method == "ties" else {"drop_rate": 0.4, "seed": 3} if method == "dare" else {}
    merge.main(argv(merge=method, base=parents[0], weights="[0.75]", **settings))
    made = tmp_path / "out" / "weight_0.75"
    recipe = yaml.safe_load((made / "recipe.yaml").read_text())
    expected = {"long": "long", "short": "short", "base": "long", "merge": method, "weights": 0.75, **settings}
    assert recipe == expected  # names, no folders of this machine
    monkeypatch.chdir(parents[0].parent)
    merge.main(["--config", str(made / "recipe.yaml"), "--output_dir", str(tmp_path / "again")])
    for name in ("model.safetensors", "reasoning.json", "recipe.yaml", "run.json"):
        assert (made / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert (made / "model.safetensors").read_bytes() != (parents[1] / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["average_overthinker", "ties_overthinker"])
def test_a_shipped_config_runs(argv, parents, tmp_path, name):
    path = find_config(f"merge/{name}")
    assert path.read_text().startswith(f"# efficient-reasoning train merge --config configs/merge/{name}.yaml")
    config = yaml.safe_load(path.read_text())
    merge.main(["--config", str(path), *argv(base=parents[0] if "base" in config else None)])
    assert len(list((tmp_path / "out").glob("weight_*/model.safetensors"))) == len(config["weights"])


# ---- again, and cut off ----


def test_the_same_command_skips_what_is_there(argv, tmp_path, capsys, monkeypatch):
    merge.main(argv(weights="[0.5]"))
    with monkeypatch.context() as patch:
        patch.setattr(merging, "write_merged", None)
        merge.main(argv(weights="[0.5]"))
    assert f"{tmp_path / 'out' / 'weight_0.5'} is finished; delete it to merge again." in capsys.readouterr().out
    merge.main(argv(weights="[0.5, 0.7]"))  # a sweep may grow
    assert "weight_0.7" in capsys.readouterr().out


def test_a_cut_sweep_leaves_whole_checkpoints_only(argv, tmp_path, monkeypatch):
    once, count = merging.merge_tensors, 0

    def cut(*words, **named):
        nonlocal count
        count += 1
        if count == 20:  # in the second of three models of 13 tensors
            raise KeyboardInterrupt
        return once(*words, **named)

    with monkeypatch.context() as patch:
        patch.setattr(merging, "merge_tensors", cut)
        with pytest.raises(KeyboardInterrupt):
            merge.main(argv(weights="[0.2, 0.4, 0.6]"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["weight_0.2"]
    merge.main(argv(weights="[0.2, 0.4, 0.6]"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"weight_0.2", "weight_0.4", "weight_0.6"}


def test_another_merge_in_the_same_folder_is_refused(argv, parents, tmp_path):
    merge.main(argv())
    before = weights(tmp_path / "out")
    with pytest.raises(BadInput, match=r"out: holds a merge that differs in weight; choose another output_dir"):
        merge.main(argv(weights=0.7))
    swapped = {"long": parents[1], "short": parents[0]}
    with pytest.raises(BadInput, match="differs in long, short, weights of long, weights of short;"):
        merge.main(argv(**swapped))
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(tmp_path / "out").items())


def test_what_no_merge_has_made_stays(argv, parents, tmp_path):
    for place in (parents[0], parents[1], tmp_path):
        files = sorted(place.iterdir())
        (tmp_path / "note").write_text("mine")
        with pytest.raises(BadInput, match="holds what no merge has made; choose another output_dir"):
            merge.main(argv(output_dir=place))
        assert set(files) <= set(place.iterdir())
    for place in (tmp_path / "note", "/dev/null"):
        with pytest.raises(BadInput, match=f"{place}: holds what no merge has made"):
            merge.main(argv(output_dir=place))


def test_a_dry_run_writes_nothing(argv, parents, tmp_path, capsys):
    merge.main([*argv(weights="[0.1, 0.9]"), "--dry_run"])
    table = capsys.readouterr().out
    parameters = sum(tensor.numel() for tensor in weights(parents[0]).values())
    assert f"{len(weights(parents[0]))} tensors, {parameters:,} parameters" in table
    assert str(tmp_path / "out" / "weight_0.9") in table
    assert not (tmp_path / "out").exists()


# ---- bad input ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "LONG"}, "base is for task_arithmetic, ties and dare; leave it out"),
        ({"merge": "ties"}, "ties needs a base: what both models were trained from"),
        ({"merge": "task_arithmetic", "base": "SHORT"}, "task arithmetic gives back the long one; use average"),
        ({"merge": "tiess", "base": "LONG"}, "merge must be one of average, task_arithmetic, ties, dare"),
        ({"short": "LONG"}, "long and long have the same weights; there is nothing between them"),
        ({"short": "COPY"}, "long and copy have the same weights"),
        ({"weights": "[]"}, "weights is empty; give one at least"),
        ({"weights": "[0.1, 0.10]"}, "weights holds a number twice"),
        ({"weights": "nan"}, "weights must be float or list of float, found 'nan'"),
        ({"density": 0}, "density is 0; give a share above 0, at most 1"),
        ({"density": 1.5}, r"density is 1\.5"),
        ({"drop_rate": 1}, "drop_rate is 1; give a share of at least 0, below 1"),
        ({"drop_rate": -0.1}, r"drop_rate is -0\.1"),
        ({"short": None}, "short is missing"),
        ({"short": "no/such/folder"}, "no such checkpoint folder"),
        ({"colour": "red"}, "unknown key 'colour'"),
    ],
)
def test_bad_input_is_one_sentence(argv, parents, tmp_path, changes, message):
    copy = tmp_path / "copy"
    shutil.copytree(parents[0], copy)
    places = {"LONG": parents[0], "SHORT": parents[1], "COPY": copy}
    with pytest.raises(BadInput, match=message):
        merge.main(argv(**{key: places.get(value, value) for key, value in changes.items()}))
    assert not (tmp_path / "out").exists()


def test_tokens_that_are_kept_apart_are_said(argv, parents, tmp_path, capsys):
    short = Path(shutil.copytree(parents[1], tmp_path / "controlled"))
    tokenizer = load_tokenizer(str(short))
    tokenizer.add_tokens(["<|short|>"])
    tokenizer.save_pretrained(short)
    merge.main(argv(short=short))
    said = "1 added tokens, such as <|short|>, are not in all of these models alike; their rows stay those of long."
    assert said in capsys.readouterr().out


def test_help_is_light():
    code = (
        "import runpy, sys; sys.argv = ['merge.py', '--help']\n"
        "try:\n"
        f"    runpy.run_path({str(ROOT / 'recipes' / 'merge.py')!r}, run_name='__main__')\n"
        "finally:\n"
        "    assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--weights" in done.stdout
