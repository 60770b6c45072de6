"""Files that are whole or absent, and JSON lines that name their own mistakes.

1. Whatever is written goes to a temporary name beside its target and is renamed when it is complete and on the disk:
   a full disk, a Ctrl-C or a kill leaves the old file, or none, never half of one.
2. JSONL is streamed. A line that is not an object, or nested beyond all sense, is reported by file and number.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from efficient_reasoning.errors import BadInput

_HELD: list[IO] = []  # by `hold`; a closed file is free
_MOST_LEVELS = 30  # of objects and lists; tables, and Python's own stack, end soon behind it


@contextlib.contextmanager
def atomic_file(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file for writing that becomes `path` when the block ends without an exception."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `path`, or becomes it, when the block ends without an exception."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        yield temporary
        flush_folder(temporary)
        temporary.chmod(0o777 & ~_umask())
        if path.exists():
            # A folder cannot be replaced in one step; the old one steps aside, so that an interruption loses neither.
            aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            os.replace(path, aside)
            try:
                os.replace(temporary, path)
            except BaseException:
                os.replace(aside, path)
                raise
            shutil.rmtree(aside)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def digest(paths: Iterable[str | Path]) -> str:
    """Hash of the contents of files, in their order."""
    state = hashlib.blake2b(digest_size=8)
    for path in paths:
        with open(path, "rb") as stream:
            while block := stream.read(1 << 22):
                state.update(block)
    return state.hexdigest()


def flush_folder(folder: Path) -> None:
    """Bring every file of a folder to the disk; some file systems say only now that it is full."""
    for file in folder.rglob("*"):
        if file.is_file():
            with open(file, "rb") as stream:
                os.fsync(stream.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def lock(stream: IO) -> bool:
    """Keep other processes from locking this file until it is closed, or its process ends; False where one has it."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def hold(path: str | Path) -> bool:
    """Keep other processes from holding this file until this one ends, however it ends; False where one does.

    Unlike `lock`, it does not go on in what this process forked, such as readers that outlive it for seconds.
    """
    stream = open(path, "a")  # noqa: SIM115, closed when the process ends
    try:
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        stream.close()
        return False
    _HELD.append(stream)
    return True


def read_jsonl(path: str | Path) -> Iterator[dict]:
    """Yield the objects of a JSONL file one by one; blank lines are skipped.

    Raises:
        BadInput: the file is missing, or a line of it is not a JSON object in UTF-8, or nested deeper than 30 levels
            (its number is named).
    """
    for _, row in read_numbered_jsonl(path):
        yield row


def read_numbered_jsonl(path: str | Path, skip: int = 0) -> Iterator[tuple[int, dict]]:
    """`read_jsonl` with the number of each line, for messages that name it; the first `skip` objects stay unread."""
    for number, _, row in read_placed_jsonl(path, skip):
        yield number, row


def read_placed_jsonl(path: str | Path, skip: int = 0) -> Iterator[tuple[int, int, dict]]:
    """`read_numbered_jsonl` with the byte at which each line begins."""
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such file; check the path.")
    next_offset = 0
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            offset, next_offset = next_offset, next_offset + len(line)
            if not line.strip():
                continue
            if skip:
                skip -= 1
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))  # Windows begins files with a byte order mark
            except ValueError as error:
                problem = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                raise BadInput(f"{path}, line {number}: not valid JSON ({problem}); fix or remove the line.") from None
            except RecursionError:
                row = None
            has_many = line.count(b"{") + line.count(b"[") > _MOST_LEVELS  # at most as many levels: a quick look first
            if has_many and (row is None or _is_deep(row)):
                raise BadInput(f"{path}, line {number}: nested deeper than {_MOST_LEVELS} levels; remove the line.")
            if not isinstance(row, dict):
                raise BadInput(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}.")
            yield number, offset, row


def _is_deep(value: object) -> bool:
    """Whether it is nested deeper than it may be, layer by layer: a function that calls itself would run out too."""
    layer = [value]
    for _ in range(_MOST_LEVELS):
        inner = (part for one in layer for part in (one.values() if isinstance(one, dict) else one))
        layer = [part for part in inner if isinstance(part, (dict, list))]
    return bool(layer)


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> int:
    """Write rows to a JSONL file, whole or not at all, and return how many there were."""
    count = 0
    with atomic_file(path) as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def read_json(path: str | Path) -> dict:
    """One JSON object.

    Raises:
        BadInput: it is damaged.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BadInput(f"{path}: no JSON object; restore the file, or delete its folder.")
    return value


def write_json(path: str | Path, value: object) -> None:
    """Write one indented JSON document, whole or not at all; JSON has null where a number is infinite or none."""
    with atomic_file(path) as stream:
        json.dump(_finite(value), stream, ensure_ascii=False, indent=2, allow_nan=False)
        stream.write("\n")


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
