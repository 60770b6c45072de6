"""One of two processes dies, or hangs: all end in time, with a code that says so, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.recipes.running import ROOT, weights

TIMEOUT_SECONDS = 15


def begin(argv: list[str], log) -> subprocess.Popen:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    words = [*launcher, str(ROOT / "recipes" / "sft_compress.py"), *argv]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)


def words_of(argv, output) -> list[str]:
    settings = {"max_steps": 100, "save_steps": 20, "per_device_train_batch_size": 2, "learning_rate": 1e-3}
    return argv("sft_compress", output_dir=output, ddp_timeout=TIMEOUT_SECONDS, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_is_lost(argv, tmp_path, harm):
    with open(tmp_path / "log", "w+") as log:
        whole = begin(words_of(argv, tmp_path / "whole"), log)
        whole.communicate()
        assert whole.returncode == 0
        process = begin(words_of(argv, tmp_path / "run"), log)
        for line in process.stdout:
            if line.startswith("{'loss'") and (tmp_path / "run/checkpoint-20/whole.json").exists():
                break
        ranks = psutil.Process(process.pid).children(recursive=True)
        [lost] = [each for each in ranks if each.environ().get("RANK") == "1"]
        began = time.monotonic()
        lost.send_signal(harm)
        process.communicate()
        # A launcher waits half a minute for a process that does not end when it is told to.
        assert time.monotonic() - began < TIMEOUT_SECONDS + 45
        assert process.returncode == 1
        assert not psutil.wait_procs(ranks, timeout=5)[1]
        log.seek(0)
        said = log.read()
        if harm == signal.SIGSTOP:
            assert "error: another process of this run ended or did not answer" in said
        again = begin(words_of(argv, tmp_path / "run"), log)
        assert "going on from checkpoint-" in again.communicate()[0]
        assert again.returncode == 0
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("harm", [None, signal.SIGKILL])
def test_the_launcher_keeps_the_code(argv, tmp_path, harm):
    """Of bad input, which all processes see; and of a signal, which one of them got."""
    command = [sys.executable, "-m", "efficient_reasoning.cli", "train", "sft_compress", "--num-gpus", "2"]
    words = words_of(argv, tmp_path / "run") if harm else argv("sft_compress", max_steps=0)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DS_BUILD_OPS": "0", "DS_ACCELERATOR": "cpu"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(
        [*command, *words, "--deepspeed", "zero2"], cwd=tmp_path, env=environment | {"PYTHONUNBUFFERED": "1"}, **pipes
    )
    if harm:
        for line in process.stdout:
            if line.startswith("{'loss'"):
                break
        ranks = psutil.Process(process.pid).children(recursive=True)
        [lost] = [each for each in ranks if each.environ().get("RANK") == "1" and "-u" in each.cmdline()]
        lost.send_signal(harm)
        process.communicate()
        assert not psutil.wait_procs(ranks, timeout=5)[1]
        assert process.returncode in (1, 256 - harm)  # of the first that the launcher looked at
    else:
        assert "error: max_steps is 0" in process.communicate()[0]
        assert process.returncode == 2
