"""Scorers in processes that can be killed.

1. sympy can stay for ever inside one C call (`9^{9^{9^9}}`) that holds the interpreter's lock: no thread and no Python
   signal handler gets through. So a scorer runs in a worker process which asks the *kernel* to end it: a real-time
   timer whose signal keeps its default action, death. A hang costs one worker, and none outlives a killed parent.
2. Workers are plain `python -c` programs that speak JSON lines. multiprocessing would import the caller's `__main__`
   again, and so fail in programs without a guard.
3. A worker is kept for the next call, since its imports cost a second. A call takes one from the idle list or starts
   one, and holds no lock while it works, so there are as many as there ever were calls at the same time.
4. Some scorers `eval` the answer, so a worker is confined like the code of `unit_tests` (`sandbox.py`).
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from collections import defaultdict

from efficient_reasoning.answers import sandbox
from efficient_reasoning.errors import BadInput

MEMORY_BYTES = 4 << 30

_idle: defaultdict[str, list[_Worker]] = defaultdict(list)  # append and pop of a list are atomic


def ask(scorer: str, arguments: list, timeout_seconds: float) -> bool:
    """In a worker: call what `efficient_reasoning.answers.<scorer>.load()` returned with the arguments.

    Args:
        scorer: module of this package; its `load` does the imports, once a worker, and may take its time.
        arguments: JSON values.
        timeout_seconds: real time for the call itself.

    Returns:
        What the scorer said; False when it raised, exceeded time or memory, or ended its process.

    Raises:
        BadInput: raised by `load` or by the scorer.
    """
    worker = _take(scorer)
    try:
        reply = worker.ask({"arguments": arguments, "timeout_seconds": timeout_seconds})
    except BaseException:  # Ctrl-C: the reply is still to come and must not meet the next question
        worker.kill()
        raise
    if reply is None:
        worker.kill()
        return False
    _idle[scorer].append(worker)
    if "bad_input" in reply:
        raise BadInput(reply["bad_input"])
    return reply["correct"]


def _take(scorer: str) -> _Worker:
    while True:
        try:
            worker = _idle[scorer].pop()
        except IndexError:
            return _Worker(scorer)
        if worker.alive():
            return worker
        worker.kill()


@atexit.register
def _kill_idle() -> None:
    for workers in _idle.values():
        while workers:
            workers.pop().kill()


# A fork (a data loader's, say) must not speak into its parent's pipes.
os.register_at_fork(after_in_child=_idle.clear)


class _Worker:
    """The caller's end of one worker process."""

    def __init__(self, scorer: str) -> None:
        # The caller's path as it is now: the toolkit may be reachable by nothing else.
        path = [str(folder) for folder in sys.path]
        program = f"import sys; sys.path[:] = {path!r}; from {__name__} import serve; serve({scorer!r})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the caller
            env={**os.environ, **sandbox.ONE_THREAD},
        )
        greeting = self._read()
        if greeting is None:
            self.kill()
            raise RuntimeError(f"The worker process for {scorer} answers did not start; its error stands above.")
        if "bad_input" in greeting:
            self.kill()
            raise BadInput(greeting["bad_input"])

    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, job: dict) -> dict | None:
        """The reply; None when the worker died of the job."""
        with contextlib.suppress(BrokenPipeError):  # a dead worker shows in the missing reply
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict | None:
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def serve(scorer: str) -> None:
    """The worker: load the scorer, greet, then answer jobs, one JSON line each, until the input ends."""
    import logging
    import warnings

    # Scorers that print, or read, must not meddle with the conversation.
    jobs, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    logging.disable()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def say(reply: dict) -> None:
        print(json.dumps(reply), file=replies, flush=True)

    try:
        score = importlib.import_module(f"{__package__}.{scorer}").load()
    except BadInput as error:
        say({"bad_input": str(error)})
        return
    sandbox.confine(memory_bytes=MEMORY_BYTES)
    say({})
    for line in jobs:
        job = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, job["timeout_seconds"])
        try:
            reply = {"correct": bool(score(*job["arguments"]))}
        except BadInput as error:
            reply = {"bad_input": str(error)}
        except (Exception, SystemExit):  # from the scorer, about this answer: the answer is wrong
            reply = {"correct": False}
        signal.setitimer(signal.ITIMER_REAL, 0)
        say(reply)
