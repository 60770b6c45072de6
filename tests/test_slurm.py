"""The batch script for SLURM, on a machine without it: stand-ins for what the cluster gives, torchrun as it is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from efficient_reasoning.files import write_jsonl

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts/train.slurm"


@pytest.fixture
def cluster(tmp_path) -> dict[str, str]:
    """The environment of a job on one node with two GPUs."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in {"srun": 'shift\nexec "$@"', "scontrol": "printf 'localhost\\nother\\n'"}.items():
        (commands / name).write_text(f"#!/bin/bash\n{text}\n")
        (commands / name).chmod(0o755)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
    slurm = {"SUBMIT_DIR": str(ROOT), "JOB_NODELIST": "localhost", "JOB_NUM_NODES": "1", "GPUS_ON_NODE": "2"}
    slurm["JOB_ID"] = "7"
    environment = {f"SLURM_{name}": value for name, value in slurm.items()}
    return os.environ | environment | {"PATH": path, "PORT": port, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def submit(cluster: dict[str, str], *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", str(SCRIPT), *words], env=cluster, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
def test_a_job_runs_a_recipe_in_as_many_processes_as_gpus(cluster, tiny_model, tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "1 + 2\n", "completion": "<think>3</think>3"}] * 8)
    keys = f"--model {tiny_model} --data {tmp_path}/rows.jsonl --output_dir {tmp_path}/run --max_steps 1 --bf16 false"
    done = submit(cluster, "sft_compress", *keys.split(), "--use_cpu", "true", "--dry_run")
    assert done.returncode == 0, done.stderr
    tables = [line for line in done.stdout.splitlines() if line.startswith("steps")]
    assert len(tables) == 1 and "1 of 16 samples" in tables[0]  # eight rows in each of two processes


def test_a_recipe_that_fails_fails_the_job(cluster):
    done = submit(cluster, "sft_compress", "--config", "no_such_config")
    assert done.returncode != 0 and "no_such_config" in done.stderr


def test_without_a_recipe_the_script_says_so(cluster):
    done = submit(cluster)
    assert done.returncode != 0 and "give the name of a recipe" in done.stderr
