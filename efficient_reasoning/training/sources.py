"""A source of rows that are read as they are needed: local files, or a data set of the Hub.

1. Nothing is loaded whole. The files are the *shards* of the source; who begins in the midst of one skips what lies
   before at the speed of the disk.
2. A row has a `text`, or `prompt` and `completion` as training rows and traces have them.
3. `datasets` streams Parquet and the Hub. JSONL is read line by line: rows may differ in what else they hold, as
   traces do in their metadata, and a damaged line is named.
4. A fingerprint tells whether it is still the same source. Of large files only both ends and the size are read.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from efficient_reasoning.errors import BadInput, near
from efficient_reasoning.files import read_numbered_jsonl

if TYPE_CHECKING:
    from datasets import IterableDataset

_KINDS = {".jsonl", ".parquet"}
_END_BYTES = 1 << 20
_BATCH_ROWS = 256


@dataclass(frozen=True)
class Source:
    """Rows to stream.

    Attributes:
        name: as the user wrote it.
        fingerprint: another one where the rows are others.
        num_shards: files, as a rule.
        columns: those that are read; none stands for all.
        rows: of a shard, from one of them on: `rows(shard, first_row, columns)`.
    """

    name: str
    fingerprint: str
    num_shards: int
    rows: Callable[[int, int, tuple[str, ...]], Iterator[dict]]
    columns: tuple[str, ...] = ()

    def read(self, shard: int, first_row: int = 0) -> Iterator[dict]:
        """The rows of a shard, from one of them on.

        Raises:
            BadInput: a damaged file, or one that lacks a column.
        """
        with _reading(self.name):
            yield from self.rows(shard, first_row, self.columns)

    def head(self, num_rows: int) -> list[dict]:
        """The first rows, in the order of the files."""
        return list(islice((row for shard in range(self.num_shards) for row in self.read(shard)), num_rows))


def open_source(name: str) -> Source:
    """Open `data` of a config.

    Args:
        name: a .jsonl or .parquet file, a glob of them, a folder that holds them, or `hub:NAME`, also
            `hub:NAME?config=CONFIG&split=SPLIT`.

    Raises:
        BadInput: no such source, one without rows, or one without a column to train on (its columns are named).
    """
    with _reading(name):
        source = _from_hub(name) if name.startswith("hub:") else _from_files(name)
    first = source.head(1)
    if not first:
        raise BadInput(f"{name}: no rows in it; give another source.")
    known = tuple(first[0])
    for wanted in (("prompt", "completion"), ("text",)):
        if {*known} >= {*wanted}:
            marks = ("truncated",) if wanted[0] == "prompt" and "truncated" in known else ()
            return Source(name, source.fingerprint, source.num_shards, source.rows, wanted + marks)
    raise BadInput(f"{name}: neither a column text nor prompt and completion; it has {', '.join(known)}.")


def _from_files(name: str) -> Source:
    path = Path(name).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix in _KINDS)
    else:
        files = [path] if path.is_file() else sorted(map(Path, glob.glob(str(path), recursive=True)))
    kinds = sorted({file.suffix for file in files})
    if not files:
        raise BadInput(f"{name}: no .jsonl or .parquet file there; check the path, or write hub:NAME for the Hub.")
    if len(kinds) > 1 or kinds[0] not in _KINDS:
        raise BadInput(f"{name}: its files end in {', '.join(kinds)}; give .jsonl or .parquet, and of one kind.")
    state = hashlib.blake2b(digest_size=8)
    for file in files:
        size = file.stat().st_size
        state.update(f"{file.name} {size} ".encode())
        with open(file, "rb") as stream:
            state.update(stream.read(_END_BYTES))
            stream.seek(max(0, size - _END_BYTES))
            state.update(stream.read())
    if kinds == [".jsonl"]:
        return Source(name, state.hexdigest(), len(files), partial(_lines, files))
    import datasets

    data_files = [glob.escape(str(file)) for file in files]
    dataset = datasets.load_dataset("parquet", data_files=data_files, split="train", streaming=True)
    return Source(name, state.hexdigest(), dataset.num_shards, partial(_table, dataset))


def _from_hub(name: str) -> Source:
    """Pinned to the revision that it has now, which is its fingerprint."""
    import datasets
    from huggingface_hub import HfApi

    location, _, query = name.removeprefix("hub:").partition("?")
    mapping = dict(parse_qsl(query, keep_blank_values=True))
    for key in mapping.keys() - {"config", "split"}:
        raise BadInput(f"{name}: unknown key {key!r} behind the question mark{near(key, ('config', 'split'))}")
    revision = HfApi().dataset_info(location).sha
    config, split = mapping.get("config"), mapping.get("split", "train")
    dataset = datasets.load_dataset(location, config, split=split, revision=revision, streaming=True)
    return Source(name, revision, dataset.num_shards, partial(_table, dataset))


def _lines(files: list[Path], shard: int, first_row: int, columns: tuple[str, ...]) -> Iterator[dict]:
    for number, row in read_numbered_jsonl(files[shard], skip=first_row):
        for name in columns:
            if name not in row and name != "truncated":
                raise BadInput(f"{files[shard]}, line {number}: no {name!r}; every row needs {' and '.join(columns)}.")
        yield {name: row.get(name) for name in columns} if columns else row


def _table(dataset: IterableDataset, shard: int, first_row: int, columns: tuple[str, ...]) -> Iterator[dict]:
    chosen = dataset.select_columns(list(columns)) if columns else dataset
    # In batches: row by row, `datasets` would share the rows out among workers once more.
    for batch in chosen.shard(num_shards=dataset.num_shards, index=shard).skip(first_row).iter(_BATCH_ROWS):
        yield from (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """What libraries raise while they read becomes one sentence."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except BadInput:
        raise
    except (DatasetsError, OSError, ValueError, KeyError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadInput(f"{name}: cannot be read ({reason}); check it.") from None
