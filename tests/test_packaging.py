"""The wheel: what is in it, and that it works from anywhere without the source tree."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import efficient_reasoning

pytest.importorskip("setuptools", reason="the wheel is built without build isolation")

ROOT = Path(__file__).parents[1]
FOLDERS = ("efficient_reasoning", "recipes", "data_tools", "configs")


def pip(*words, **settings):
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, **settings)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of a copy of the sources: building in place would leave, and pick up, old build folders."""
    source, out = tmp_path_factory.mktemp("source tree"), tmp_path_factory.mktemp("wheel")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    (source / "README.md").write_text("# A title", encoding="utf-8")
    # What the recipes that are still to come will have: a folder of configs each, in JSON too.
    (source / "configs" / "deepspeed").mkdir(exist_ok=True)
    (source / "configs" / "deepspeed" / "zero0.json").write_text("{}", encoding="utf-8")
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(out), str(source))
    [path] = out.glob("*.whl")
    return path


def files_of(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_everything_runnable_is_inside_the_package(wheel):
    files = files_of(wheel)
    missing = [
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
        if path.suffix != ".md" or folder == "efficient_reasoning"
        if f"efficient_reasoning/{path.relative_to(ROOT).as_posix().removeprefix('efficient_reasoning/')}" not in files
    ]
    assert not missing
    assert "efficient_reasoning/configs/deepspeed/zero0.json" in files


def test_one_name_at_the_top_level(wheel):
    info = f"efficient_reasoning-{efficient_reasoning.__version__}.dist-info"
    assert {name.split("/")[0] for name in files_of(wheel)} == {"efficient_reasoning", info}


def test_metadata(wheel):
    info = f"efficient_reasoning-{efficient_reasoning.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        lines = archive.read(f"{info}/METADATA").decode().splitlines()
        scripts = archive.read(f"{info}/entry_points.txt").decode()
    assert {"Name: efficient-reasoning", f"Version: {efficient_reasoning.__version__}"} <= set(lines)
    assert {"Requires-Python: >=3.10", "Requires-Dist: trl<2,>=1.16"} <= set(lines)
    assert [line for line in lines if line.startswith("License") and line.endswith(": Apache-2.0")]
    assert [line for line in lines if line.startswith("Requires-Dist: vllm")] == [
        'Requires-Dist: vllm; extra == "vllm"'
    ]
    assert "efficient-reasoning = efficient_reasoning.cli:main" in scripts


def test_installed_front_door_works_from_another_directory(wheel, tmp_path):
    site, elsewhere = tmp_path / "site packages", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip("install", "--no-deps", "--no-index", "--target", str(site), str(wheel))

    def door(*words):
        environment = os.environ | {"PYTHONPATH": str(site)}
        line = [sys.executable, "-m", "efficient_reasoning.cli", *words]
        return subprocess.run(line, env=environment, cwd=elsewhere, capture_output=True, text=True)

    assert door("--version").stdout == f"{efficient_reasoning.__version__}\n"
    listed = door("train").stdout
    names = sorted(path.stem for path in (ROOT / "recipes").glob("[!_]*.py"))
    assert names == [line.split()[0] for line in listed.splitlines() if line.startswith("  ")]
    for name in names:
        help_of_recipe = door("train", name, "--help")
        assert help_of_recipe.returncode == 0, help_of_recipe.stderr
        assert f"{site}/efficient_reasoning/recipes/{name}.py" in help_of_recipe.stderr

    environment = os.environ | {"PYTHONPATH": str(site)}
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        name = path.relative_to(ROOT / "configs").with_suffix("").as_posix()
        code = f"from efficient_reasoning.config import find_config; print(find_config({name!r}))"
        line = [sys.executable, "-c", code]
        done = subprocess.run(line, env=environment, cwd=elsewhere, capture_output=True, text=True, check=True)
        assert done.stdout == f"{site}/efficient_reasoning/configs/{name}.yaml\n"


def test_constraints_pin_what_setup_asks_for():
    """Every pinned version is of a package that the project names."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    named = setup["options"]["install_requires"] + "\n".join(setup["options.extras_require"].values())
    pinned = [line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    assert pinned
    assert not [package for package in pinned if package not in named]
