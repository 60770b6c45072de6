"""That scripts/reliability/soak.py sees what grows."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from scripts.reliability import soak

GROWS = """
import time
held, files = [], []
while True:
    held.append(b"x" * 4_000_000)
    files.append(open("/dev/null"))
    time.sleep(0.02)
"""


@pytest.fixture
def program():
    started = []

    def start(text: str) -> subprocess.Popen:
        words = [sys.executable, "-c", f"print(flush=True)\n{text}"]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE))
        started[-1].stdout.readline()  # what it takes to begin is no growth
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(("text", "flat"), [(GROWS, False), ("import time; time.sleep(60)", True)])
def test_what_grows_is_seen(monkeypatch, program, text, flat):
    monkeypatch.setattr(soak, "SECONDS_BETWEEN", 0.05)
    rows = soak.summary(soak.watch(program(text), 2.0))
    seen = {name: soak.is_flat(*row) for name, row in rows.items()}
    assert seen == {"memory in MiB": flat, "open files": flat, "processes": True}


def test_processes_under_it_count(program):
    nested = program("import subprocess; subprocess.run(['sleep', '5'])")
    while (look := soak.look_at(nested.pid))["processes"] == 1:
        assert nested.poll() is None
    assert look["processes"] == 2


def test_a_run_that_ends_by_itself_is_no_longer_watched(monkeypatch, program):
    monkeypatch.setattr(soak, "SECONDS_BETWEEN", 0.05)
    assert len(soak.watch(program("pass"), 60.0)) < 600
    assert soak.look_at(2**22 + os.getpid()) is None


def test_too_few_looks_are_no_measurement():
    with pytest.raises(SystemExit, match="too few looks"):
        soak.summary([{"seconds": 0.0, "processes": 1}])
