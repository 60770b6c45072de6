"""unit_tests: does the code of the answer pass the problem's tests?

1. The code is the last ```python block of the text, or all of it. `metadata.tests` holds Python statements (asserts as
   a rule; one text or a list) that run after it, in its namespace.
2. It runs in a fresh process: an empty working folder that is removed afterwards, isolated Python, an empty
   environment, limits on time, memory, files and processes (`sandbox.py`). This guards against accidents, such as
   endless loops, fork bombs, full disks and early exits, not against an attacker: code that is out to do harm needs a
   container or a virtual machine around the whole program.
3. What the process says goes to files, under the same limit: an answer that finds the way out of its sandbox in a list
   of open files can fill no memory here, and what it writes there need not be text.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from efficient_reasoning.answers import fields, sandbox

TIMEOUT_SECONDS = 10.0
MEMORY_BYTES = 1 << 30
FILE_BYTES = 1 << 20

_BLOCK = re.compile(r"^```(?:python|py)\d?[ \t]*\n(.*?)^```", re.DOTALL | re.MULTILINE | re.IGNORECASE)


def extract(answer_text: str) -> str | None:
    """The code of the last closed ```python block, or the whole text; None when that is empty."""
    blocks = _BLOCK.findall(answer_text)
    code = blocks[-1] if blocks else answer_text
    return code if code.strip() else None


def check(problem: Mapping, answer: str) -> bool:
    """Whether the code runs, and passes every test, within the limits."""
    tests = fields.texts(problem, "tests", "the asserts that the code has to pass")
    token = os.urandom(16).hex()
    job = {
        "code": answer,
        "tests": "\n".join(tests),
        "token": token,
        "memory_bytes": MEMORY_BYTES,
        "cpu_seconds": math.ceil(TIMEOUT_SECONDS),
        "file_bytes": FILE_BYTES,
    }
    with (
        _working_folder() as folder,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [sys.executable, "-I", "-B", "-X", "utf8", str(Path(sandbox.__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            cwd=folder,
            env={**sandbox.ONE_THREAD, "HOME": folder, "TMPDIR": folder},
            start_new_session=True,
        ) as process,
    ):
        try:
            process.communicate(json.dumps(job).encode(), timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        finally:
            with contextlib.suppress(ProcessLookupError):  # the usual case: nobody is left in its group
                os.killpg(process.pid, signal.SIGKILL)
        output.seek(0)
        errors.seek(0)
        ready, *verdict = output.read().split(b"\n")
        # Once it is ready, an answer may overwrite the one file, but has no way to the other.
        if ready != sandbox.READY.encode() and (said := errors.read().decode(errors="replace").strip()):
            raise RuntimeError(f"The sandbox of task unit_tests did not start: {said}")
    return ready == sandbox.READY.encode() and verdict == [token.encode(), b""]


@contextlib.contextmanager
def _working_folder() -> Iterator[str]:
    """An empty folder that is gone afterwards, however deep an answer has nested others in it."""
    folder = tempfile.TemporaryDirectory(prefix="answer-", ignore_cleanup_errors=True)
    try:
        yield folder.name
    finally:
        try:
            folder.cleanup()
        except RecursionError:
            subprocess.run(["rm", "-rf", folder.name], check=False)
