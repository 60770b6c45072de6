"""Confinement of a process that runs what a model wrote: a protection against accidents, not against an attacker.

1. `confine` sets limits of the kernel (memory, processor time, size of files, processes) and an audit hook, through
   which Python asks before it acts. The hook refuses processes, threads, signals, connections, and changes to files
   outside one folder. It is there because the kernel's limit on processes spares root, and because an answer that
   deletes a folder by accident should not. Code that wants to get around the hook can.
2. Run as a program it is the child of `unit_tests`: it reads `{code, tests, token, ...}` from stdin, confines itself,
   runs the code and then the tests, and writes the token to stdout. The token, not the exit status, is the verdict, so
   that code which calls `sys.exit(0)` before its tests fails them.

Standard library only: the child is isolated from the caller's path.
"""

from __future__ import annotations

import _posixsubprocess
import _thread
import json
import os
import resource
import sys
import types

READY = "ready"
# Numerical libraries start their threads when they are imported.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

# Names of audit events (docs.python.org/3/library/audit_events.html).
_REFUSED = {
    *("os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn", "subprocess.Popen"),
    *("os.kill", "os.killpg", "_thread.start_new_thread", "_thread.start_joinable_thread"),
    *("socket.bind", "socket.connect", "socket.sendto"),
}
_CHANGES_FILES = {
    *("os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink"),
    *("os.truncate", "shutil.rmtree"),
}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_MOST_FILES = 500  # that are opened for writing where each of them has a limit: no kernel's limit is on their sum


def confine(
    memory_bytes: int,
    cpu_seconds: int = resource.RLIM_INFINITY,
    file_bytes: int = resource.RLIM_INFINITY,
    folder: str | None = None,
) -> None:
    """Confine this process for good.

    Args:
        memory_bytes: of address space.
        cpu_seconds: of processor time; then the kernel kills the process.
        file_bytes: of any one file; with it, only so many may be opened for writing.
        folder: where files may be made, changed and removed; None for nowhere.
    """
    limits = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
    }
    for name, limit in limits.items():
        # A limit that is there already may be lowered, never raised; "infinity" is -1.
        limit = min((value for value in (limit, resource.getrlimit(name)[1]) if value >= 0), default=limit)
        resource.setrlimit(name, (limit, limit))

    inside = os.path.realpath(folder) + os.sep if folder else None

    def outside(path: object) -> bool:
        if path is None or isinstance(path, int) or path == os.devnull:  # not given, or a file that is open already
            return False
        return inside is None or not os.path.realpath(os.fsdecode(path)).startswith(inside)

    opened = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal opened
        if event == "open":
            paths = arguments[:1] if arguments[2] & _WRITES else ()
            opened += len(paths)
            if opened > _MOST_FILES and file_bytes != resource.RLIM_INFINITY:
                raise PermissionError("more files are refused to the code of an answer")
        else:
            paths = arguments if event in _CHANGES_FILES else ()
        if event in _REFUSED or any(map(outside, paths)):
            raise PermissionError(f"{event} is refused to the code of an answer")

    sys.addaudithook(hook)

    def refuse(*arguments: object) -> None:
        raise PermissionError("processes and threads are refused to the code of an answer")

    # Doors at which Python does not ask: threads (before 3.12), and processes that multiprocessing spawns.
    _thread.start_new_thread = refuse
    _posixsubprocess.fork_exec = refuse


def main() -> None:
    """Run the code and the tests of one job."""
    job = json.load(sys.stdin)
    verdict = os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDWR)
    confine(job["memory_bytes"], job["cpu_seconds"], job["file_bytes"], folder=os.getcwd())
    print(READY, file=verdict, flush=True)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    # A module of its own: dataclasses and pickle look their classes up by module, and no `__main__` guard fires.
    module = types.ModuleType("answer")
    sys.modules["answer"] = module
    for part in ("code", "tests"):
        exec(compile(job[part], f"{part}.py", "exec", dont_inherit=True), module.__dict__)
    print(job["token"], file=verdict, flush=True)


if __name__ == "__main__":
    main()
