"""The README's first command, at a small scale: the whole main job, twice."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """What a clone holds, under a path with a space in it."""
    folder = tmp_path_factory.mktemp("a clone")
    for name in ("efficient_reasoning", "recipes", "data_tools", "configs", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def _run(checkout: Path) -> str:
    command = [sys.executable, str(checkout / "scripts" / "quickstart.py"), "--fast"]
    result = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_the_main_job_ends_with_table_picture_and_folder_and_runs_twice(checkout):
    first = _run(checkout)
    assert "under a minute" in first.splitlines()[0]
    assert "[10/10" in first
    for label in ("overthinker", "control", "sft", "rl"):
        assert re.search(rf"^{label} +budget-forcing +unlimited", first, re.MULTILINE)
    folder = checkout / "runs" / "quickstart-fast"
    assert (folder / "comparison" / "curve.png").stat().st_size > 10_000
    names = {path.name for path in (folder / "published").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "reasoning.json", "README.md", "evaluation"} <= names
    assert json.loads((folder / "published" / "reasoning.json").read_text())["stage"] == "rl"

    weights = (folder / "published" / "model.safetensors").read_bytes()
    second = _run(checkout)
    assert (folder / "published" / "model.safetensors").read_bytes() == weights
    assert _table(second) == _table(first)
    assert _seconds(second) < _seconds(first)


def _table(output: str) -> list[str]:
    return [line for line in output.splitlines() if "budget-forcing" in line and "%" in line]


def _seconds(output: str) -> int:
    return int(re.search(r"^took +(\d+) s", output, re.MULTILINE)[1])
