"""Files are whole or absent, whatever goes wrong, and JSON lines name their own mistakes."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from efficient_reasoning import files
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import (
    atomic_file,
    atomic_folder,
    hold,
    read_jsonl,
    read_numbered_jsonl,
    write_json,
    write_jsonl,
)


class Stop(Exception):
    """Whatever interrupts a block."""


def everything(folder: Path) -> dict[str, str | None]:
    """All that lies in a folder, hidden files too, with the text of files."""
    return {str(path.relative_to(folder)): path.read_text() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def full_disk(monkeypatch):
    """A disk that turns out full when what was written has to reach it."""

    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)


def under_a_size_limit(program: str, folder: Path) -> subprocess.CompletedProcess:
    """Run a program that may write no file beyond 64 KiB: what fails is the kernel's write, not a stand-in."""
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
    return subprocess.run(
        [sys.executable, "-c", limit + program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[1])},
        capture_output=True,
        text=True,
    )


# ---- atomic_file ----


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    with atomic_file(path) as stream:
        stream.write("grüß")
        assert not path.exists()
    assert everything(path.parent) == {"file.txt": "grüß"}
    with atomic_file(path, "wb") as stream:
        stream.write(b"bytes")
        assert path.read_text() == "grüß"
    assert everything(path.parent) == {"file.txt": "bytes"}


@pytest.mark.parametrize("interruption", [Stop, KeyboardInterrupt, SystemExit])
def test_an_interrupted_file_leaves_the_old_one(tmp_path, interruption):
    write_json(tmp_path / "file.json", 1)
    with pytest.raises(interruption), atomic_file(tmp_path / "file.json") as stream:
        stream.write("half of")
        raise interruption
    with pytest.raises(interruption), atomic_file(tmp_path / "none.json") as stream:
        raise interruption
    assert everything(tmp_path) == {"file.json": "1\n"}


def test_a_full_disk_leaves_the_old_file(tmp_path, full_disk):
    (tmp_path / "file.json").write_text("1")
    with pytest.raises(OSError, match="No space left"):
        write_json(tmp_path / "file.json", 2)
    assert everything(tmp_path) == {"file.json": "1"}


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}\n")
    done = under_a_size_limit(
        "from efficient_reasoning.files import write_jsonl\n"
        "write_jsonl('rows.jsonl', ({'text': 'x' * 1000} for _ in range(1000)))",
        tmp_path,
    )
    assert done.returncode == 1 and "OSError: [Errno 27] File too large" in done.stderr
    assert everything(tmp_path) == {"rows.jsonl": "{}\n"}


def test_rows_that_fail_half_way_leave_the_old_file(tmp_path):
    def rows():
        yield {"number": 1}
        raise Stop

    write_jsonl(tmp_path / "rows.jsonl", [{"number": 0}])
    with pytest.raises(Stop):
        write_jsonl(tmp_path / "rows.jsonl", rows())
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_jsonl(tmp_path / "rows.jsonl", [{"number": 1}, {"number": object()}])
    assert list(read_jsonl(tmp_path / "rows.jsonl")) == [{"number": 0}]
    assert len(everything(tmp_path)) == 1


# ---- atomic_folder ----


def test_a_folder_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "runs" / "model"
    with atomic_folder(path) as folder:
        (folder / "config.json").write_text("{}")
        assert not path.exists()
    assert everything(path) == {"config.json": "{}"}
    with atomic_folder(path) as folder:
        assert not everything(folder)
        (folder / "weights").mkdir()
        (folder / "weights" / "1.bin").write_text("1")
        assert everything(path) == {"config.json": "{}"}
    assert everything(path.parent) == {"model": None, "model/weights": None, "model/weights/1.bin": "1"}


def test_a_folder_is_as_readable_as_any_other(tmp_path):
    with atomic_folder(tmp_path / "model"):
        (tmp_path / "other").mkdir()
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("model", "other")}
    assert len(modes) == 1


@pytest.mark.parametrize("interruption", [Stop, KeyboardInterrupt])
def test_an_interrupted_folder_leaves_the_old_one(tmp_path, interruption):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("old")
    for name in ("model", "none"):
        with pytest.raises(interruption), atomic_folder(tmp_path / name) as folder:
            (folder / "config.json").write_text("new")
            raise interruption
    assert everything(tmp_path) == {"model": None, "model/config.json": "old"}


def test_a_full_disk_leaves_the_old_folder(tmp_path, full_disk):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("old")
    with pytest.raises(OSError, match="No space left"), atomic_folder(tmp_path / "model") as folder:
        (folder / "config.json").write_text("new")
    assert everything(tmp_path) == {"model": None, "model/config.json": "old"}


def test_a_write_that_fails_leaves_the_old_folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_text("old")
    done = under_a_size_limit(
        "from efficient_reasoning.files import atomic_folder\n"
        "with atomic_folder('model') as folder:\n"
        "    (folder / 'config.json').write_text('new')\n"
        "    (folder / 'weights.bin').write_bytes(bytes(1 << 20))",
        tmp_path,
    )
    assert done.returncode == 1 and "OSError: [Errno 27] File too large" in done.stderr
    assert everything(tmp_path) == {"model": None, "model/weights.bin": "old"}


def test_a_failed_exchange_puts_the_old_folder_back(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("old")
    replace = os.replace

    def fail_on_the_new_one(source: Path, target: Path) -> None:
        if str(source).endswith(".tmp"):
            raise Stop
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_on_the_new_one)
    with pytest.raises(Stop), atomic_folder(tmp_path / "model") as folder:
        (folder / "config.json").write_text("new")
    assert everything(tmp_path) == {"model": None, "model/config.json": "old"}


# ---- JSON lines ----


def test_rows_come_back_as_they_were(tmp_path):
    rows = [{"text": "grüß\u2028 \n🙂", "ids": [1, 2]}, {}, {"none": None}]
    assert write_jsonl(tmp_path / "rows.jsonl", iter(rows)) == 3
    assert list(read_jsonl(tmp_path / "rows.jsonl")) == rows
    assert (tmp_path / "rows.jsonl").read_bytes().count(b"\n") == 3


def test_blank_lines_do_not_count_as_rows_but_as_lines(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'\n{"a": 1}\r\n  \n{"a": 2}')
    assert list(read_numbered_jsonl(tmp_path / "rows.jsonl")) == [(2, {"a": 1}), (4, {"a": 2})]
    assert list(read_numbered_jsonl(tmp_path / "rows.jsonl", skip=1)) == [(4, {"a": 2})]


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n', encoding="utf-8-sig")
    assert list(read_jsonl(tmp_path / "rows.jsonl")) == [{"a": 1}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": 1', "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b'{"a": "gr\xfc\xdf"}', "not valid JSON .*decode byte 0xfc"),
        (b"[1]", "expected a JSON object, found list"),
        (b"null", "expected a JSON object, found NoneType"),
        (b'{"a": ' * 31 + b"1" + b"}" * 31, "nested deeper than 30 levels; remove the line"),
        (b'{"a":' + b"[" * 100_000, "nested deeper than 30 levels"),
        (b"[" * 100_000 + b"]" * 100_000, "nested deeper than 30 levels"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, message):
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": 1}\n\n' + line + b'\n{"a": 2}\n')
    rows = read_jsonl(tmp_path / "rows.jsonl")
    assert next(rows) == {"a": 1}
    with pytest.raises(BadInput, match=rf"rows\.jsonl, line 3: {message}"):
        next(rows)


def test_thirty_levels_and_many_objects_are_no_mistake(tmp_path):
    line = '{"a": ' * 30 + "1" + "}" * 30 + "\n" + json.dumps({"a": [{"b": []}] * 100, "text": "[" * 100}) + "\n"
    (tmp_path / "rows.jsonl").write_text(line)
    assert len(list(read_jsonl(tmp_path / "rows.jsonl"))) == 2


def test_a_missing_file_is_named(tmp_path):
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(BadInput, match=f"{path}: no such file; check the path"):
            next(read_jsonl(path))


def test_json_has_no_word_for_what_is_no_number(tmp_path):
    write_json(tmp_path / "file.json", {"aes": float("nan"), "tokens": (1.5, float("inf"))})
    text = (tmp_path / "file.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"aes": None, "tokens": [1.5, None]}


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"a"', "[" * 100_000])
def test_a_damaged_document_is_named(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(BadInput, match=r"run\.json: no JSON object; restore the file"):
        files.read_json(tmp_path / "run.json")
    files.write_json(tmp_path / "run.json", {"a": 1})
    assert files.read_json(tmp_path / "run.json") == {"a": 1}


# A reader that a trainer forked, and that outlives it.
HOLD = """
import os, sys, time
from efficient_reasoning.files import hold
assert hold(sys.argv[1]) and hold(sys.argv[1])
if child := os.fork():
    print(child, flush=True)
time.sleep(60)
"""


def test_a_file_is_held_by_one_process_until_it_ends(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[1])}
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    holder = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    child = int(holder.stdout.readline())
    assert not hold(tmp_path / "lock")
    holder.kill()
    holder.wait()
    assert hold(tmp_path / "lock")
    os.kill(child, signal.SIGKILL)  # it was still there
