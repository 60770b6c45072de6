"""What every data tool shares: it reads traces a problem at a time, writes rows as they come, and tells what it did.

    compress(arguments, method)    # method(rows, engine, rejected=Counter(), **parameters) yields training rows

1. A pass over the files checks every line and notes where it begins: 18 bytes a line stay in memory, not the lines.
   So the traces of a problem come together, whatever their order on the disk; problems come in the order in which they
   first appear.
2. A method sees a few hundred problems at a time and treats each on its own. Its rows go to OUT.partial, and are on
   the disk before the next problems are read; OUT.report.json says how far it has come. The same command again goes
   on there; with other settings, other traces or another model it is refused.
3. A lock on OUT.partial, which the system takes back from a killed process, keeps a second run out.
4. The report: rows, what was left out and why, what was noted of the rest, tokens before and after.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import digest, lock, write_json

if TYPE_CHECKING:
    import numpy as np

    from efficient_reasoning.inference import Reasoner

CHUNK_PROBLEMS = 256
_SUMS = ("rows", "source_tokens", "total_tokens")
_INCIDENTAL = ("out", "backend")  # settings that do not decide the rows


@dataclass(kw_only=True)
class CompressionArguments:
    """What every data tool reads and writes."""

    traces: str | list[str] = field(
        metadata={"help": "JSONL file of traces, or several, as `data sample` or `data import_traces` write them."}
    )
    out: str = field(metadata={"help": "JSONL file of training rows; a report is kept beside it."})


def compress(
    arguments: CompressionArguments,
    method: Callable[..., Iterable[dict]],
    engine: Reasoner | None = None,
    source: Source | None = None,
    chunk_problems: int | None = None,
    **given: object,
) -> dict:
    """Run a data tool over its traces, from the start or from where it was stopped.

    Args:
        arguments: of the program; those that the method has parameters for are handed to it.
        method: `method(rows, engine, *, rejected, **parameters)`, which yields training rows and counts in `rejected`
            why traces or problems gave none. In a parameter `noted` it counts what else the report should say.
        engine: for methods that ask a model.
        source: of what the method reads; by default the files `arguments.traces`.
        chunk_problems: how many problems the method sees at a time; slow methods take fewer.
        given: further parameters of the method.

    Returns:
        the report.

    Raises:
        BadInput: unreadable traces, none that gives a row, an output that belongs to other settings, or one that
            another run is writing.
    """
    if source is None:
        source = TraceFiles([arguments.traces] if isinstance(arguments.traces, str) else arguments.traces)
    known = inspect.signature(method).parameters
    settings = {name: value for name, value in asdict(arguments).items() if name not in _INCIDENTAL}
    parameters = {name: value for name, value in settings.items() if name in known} | given
    identity = {
        "method": method.__name__,
        "settings": json.loads(json.dumps(settings, default=str)),
        "source": source.digest,
        "weights": None if engine is None else engine.weights,
    }
    output = _Output(Path(arguments.out), identity, len(source))
    chunk_problems = chunk_problems or CHUNK_PROBLEMS
    if not output.report["finished"]:
        with output:
            for start in range(output.report["problems_done"], len(source), chunk_problems):
                counts = {name: Counter() for name in ("rejected", "noted") if name in known}
                rows = source.read(start, start + chunk_problems)
                output.write(method(rows, engine, **counts, **parameters), counts, chunk_problems)
            if not output.report["rows"]:
                output.discard()
                reasons = _reasons(output.report["rejected"]) or "nothing fits the settings"
                raise BadInput(f"{arguments.out}: none of {len(source):,} problems gives a row ({reasons}).")
            output.finish()
    print(describe(output.path, output.report))
    return output.report


def describe(path: Path, report: Mapping) -> str:
    """A report in a line or two."""
    rows, left_out = report["rows"], sum(report["rejected"].values())
    lines = [f"{path}: {rows:,} rows from {report['problems']:,} problems"]
    if report["source_tokens"]:
        before, after = report["source_tokens"] / rows, report["total_tokens"] / rows
        lines[0] += f", mean tokens {before:.1f} -> {after:.1f} (ratio {report['ratio']:.2f})"
    for control, sums in sorted(report["controls"].items()):
        lines.append(f"{control}: {sums['rows']:,} rows, ratio {sums['total_tokens'] / sums['source_tokens']:.2f}")
    if left_out:
        lines.append(f"Left out {left_out / (rows + left_out):.1%}: {_reasons(report['rejected'])}")
    if report["noted"]:
        lines.append(f"Noted: {_reasons(report['noted'])}")
    return ".\n".join(lines) + "."


def _reasons(rejected: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(rejected.items(), key=lambda item: -item[1]))


class Source(Protocol):
    """What a data tool reads, a problem at a time.

    Attributes:
        digest: tells one source from another.
    """

    digest: str

    def __len__(self) -> int:
        """How many problems."""
        ...

    def read(self, start: int, stop: int) -> Iterator[dict]:
        """The rows of problems `start` to `stop`, those of a problem together."""
        ...


class TraceFiles:
    """Traces of JSONL files by problem; in memory is where their lines begin.

    Attributes:
        digest: of the files' contents.

    Raises:
        BadInput: a missing file, or a line that is no trace (its number is named).
    """

    def __init__(self, paths: Sequence[str | Path]):
        import numpy as np

        from efficient_reasoning.traces import placed_traces

        self.paths = list(map(Path, paths))
        problems, files, offsets = array("Q"), array("H"), array("Q")
        for index, path in enumerate(self.paths):
            if path.suffix == ".parquet":
                raise BadInput(f"{path}: traces are read as JSONL; `data import_traces` makes them of Parquet.")
            for offset, trace in placed_traces(path):
                hashed = hashlib.blake2b(trace["id"].encode(errors="surrogatepass"), digest_size=8).digest()
                problems.append(int.from_bytes(hashed, "big"))
                files.append(index)
                offsets.append(offset)
        if not problems:
            raise BadInput(f"{', '.join(map(str, paths))}: no traces in it; give a file that `data sample` wrote.")
        self.digest = digest(self.paths)
        order, self._bounds = grouped(problems)
        self._files = np.frombuffer(files, np.uint16)[order]
        self._offsets = np.frombuffer(offsets, np.uint64)[order]

    def __len__(self) -> int:
        """How many problems."""
        return len(self._bounds) - 1

    def read(self, start: int, stop: int) -> Iterator[dict]:
        """The traces of problems `start` to `stop`, those of a problem together."""
        lines = slice(self._bounds[start], self._bounds[min(stop, len(self))])
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(open(path, "rb")) for path in self.paths]
            for index, offset in zip(self._files[lines].tolist(), self._offsets[lines].tolist(), strict=True):
                streams[index].seek(offset)
                yield json.loads(streams[index].readline().decode("utf-8-sig"))


def grouped(keys: array) -> tuple[np.ndarray, np.ndarray]:
    """Bring equal keys together, in the order in which they first appear.

    Returns:
        the places of the keys in that order, and where in it each group begins, with the end of the last one.
    """
    import numpy as np

    _, first, inverse = np.unique(np.frombuffer(keys, np.uint64), return_index=True, return_inverse=True)
    first_place = first[inverse]
    order = np.argsort(first_place, kind="stable")
    return order, np.flatnonzero(np.diff(first_place[order], prepend=-1, append=-1))


class _Output:
    """The rows that are there, and the report that says how they came about.

    Raises:
        BadInput: it belongs to other settings, or to no report.
    """

    def __init__(self, path: Path, identity: dict, problems: int):
        self.path = path
        self.partial = path.with_name(f"{path.name}.partial")
        self.report_path = path.with_name(f"{path.name}.report.json")
        if self.report_path.is_file():
            self.report = _read_report(self.report_path)
            differing = sorted(key for key in identity["settings"] if self._said(key) != identity["settings"][key])
            differing += [key for key in ("method", "source", "weights") if self.report.get(key) != identity[key]]
            if differing:
                raise BadInput(
                    f"{path}: holds rows that differ in {', '.join(dict.fromkeys(differing))}; choose another out, or "
                    f"delete it with {self.report_path.name}."
                )
            self._check_files()
            return
        if path.exists():
            raise BadInput(f"{path}: was there before, without its report; choose another out, or delete it.")
        self.report = identity | {
            "finished": False,
            "problems": problems,
            "problems_done": 0,
            "bytes": 0,
            "rows": 0,
            "rejected": {},
            "noted": {},
            "source_tokens": 0,
            "total_tokens": 0,
            "ratio": None,
            "controls": {},
            "seconds": 0.0,
        }

    def _check_files(self) -> None:
        """Finish what a kill has left between two steps; refuse what somebody has taken away."""
        if self.report["finished"]:
            if not self.path.is_file() and self.partial.is_file():
                os.replace(self.partial, self.path)
            is_whole = self.path.is_file()
        else:
            is_whole = (self.partial.stat().st_size if self.partial.is_file() else 0) >= self.report["bytes"]
        if not is_whole:
            raise BadInput(f"{self.path}: its rows are gone; delete {self.report_path.name} too, and start again.")

    def _said(self, key: str) -> object:
        return self.report.get("settings", {}).get(key)

    def __enter__(self) -> _Output:
        from tqdm import tqdm

        self.partial.parent.mkdir(parents=True, exist_ok=True)
        self._stream = open(self.partial, "ab")
        if not self._lock():
            self._stream.close()
            raise BadInput(f"{self.path}: another run is writing it; wait for that one, or choose another out.")
        self._stream.truncate(self.report["bytes"])
        self._bar = tqdm(
            total=self.report["problems"],
            initial=self.report["problems_done"],
            desc=self.report["method"],
            unit="problem",
            mininterval=0.1 if sys.stderr.isatty() else 10,  # a log file keeps every state of the bar
        )
        self._began = time.perf_counter()
        return self

    def _lock(self) -> bool:
        """Whether the file is ours alone, still the one of that name, and holds what the report says."""
        if not lock(self._stream):
            return False
        opened = os.fstat(self._stream.fileno())
        is_whole = opened.st_size >= self.report["bytes"]  # not one that was renamed since the report was read
        with contextlib.suppress(FileNotFoundError):
            return is_whole and os.path.samestat(opened, os.stat(self.partial))
        return False

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
        self._stream.close()

    def write(self, rows: Iterable[dict], counts: Mapping[str, Mapping[str, int]], problems: int) -> None:
        """Bring the rows of so many problems to the disk, then the report that counts them."""
        report = self.report
        broken = 0
        for row in rows:
            try:
                line = json.dumps(row, ensure_ascii=False).encode()
            except UnicodeEncodeError:  # JSON may hold halves of characters, UTF-8 may not
                broken += 1
                continue
            self._stream.write(line + b"\n")
            report["rows"] += 1
            if "source_tokens" in row:
                for name in ("source_tokens", "total_tokens"):
                    report[name] += row.get(name, 0)
            if row.get("control"):  # what was asked for, beside what came of it
                sums = report["controls"].setdefault(row["control"], dict.fromkeys(_SUMS, 0))
                for name, value in zip(_SUMS, (1, row["source_tokens"], row["total_tokens"]), strict=True):
                    sums[name] += value
        self._stream.flush()
        os.fsync(self._stream.fileno())
        now = time.perf_counter()
        problems = min(problems, report["problems"] - report["problems_done"])
        report["problems_done"] += problems
        report["bytes"] = self._stream.tell()
        for name, counted in counts.items():
            report[name] = dict(Counter(report[name]) + Counter(counted))
        if broken:
            report["rejected"]["with broken characters"] = report["rejected"].get("with broken characters", 0) + broken
        report["ratio"] = report["total_tokens"] / report["source_tokens"] if report["source_tokens"] else None
        report["seconds"] += now - self._began
        self._began = now
        write_json(self.report_path, report)
        self._bar.update(problems)

    def finish(self) -> None:
        """Give the file its name; the next call does it where a kill comes in between."""
        self.report["finished"] = True
        write_json(self.report_path, self.report)
        os.replace(self.partial, self.path)

    def discard(self) -> None:
        """Leave nothing behind: there was nothing to keep."""
        self.partial.unlink()
        self.report_path.unlink(missing_ok=True)


def _read_report(path: Path) -> dict:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        report = None
    if not isinstance(report, dict) or "problems_done" not in report:
        raise BadInput(f"{path}: no report of a data tool; delete it together with its rows.")
    return report
