"""Reading one sample of many: an index of where each line of a JSONL file begins, and of what it is chosen by.

1. Texts stay on the disk; 26 bytes a sample stay in memory. Showing a sample costs one seek and one line.
2. The file may still be growing: whoever asks first calls `refresh`, which reads what is new. A last line without its
   end is being written, or was torn by a kill; it is left alone until it is whole.
"""

from __future__ import annotations

import json
import threading
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np

from efficient_reasoning.errors import BadInput

ANY, CORRECT, WRONG, CUT_OFF = "all", "correct", "wrong", "cut off"
AS_SAMPLED, SHORTEST, LONGEST = "as sampled", "shortest first", "longest first"
_NEEDED = {
    "strategy": str,
    "budget_tokens": (int, type(None)),
    "question": str,
    "correct": bool,
    "truncated": bool,
    "thinking_tokens": int,
    "answer_tokens": int,
    "total_tokens": int,
    "spend": dict,
}


class SampleIndex:
    """The samples of a run, by row: the number of a whole line, from 0.

    Args:
        path: samples.jsonl, as `traces.sample_traces` writes it.
        progress: told how many more bytes are indexed.

    Raises:
        BadInput: the file is missing, or a whole line is no sample (its number is named).
    """

    def __init__(self, path: str | Path, progress: Callable[[int], object] | None = None):
        self.path = Path(path)
        self._lock = threading.Lock()  # two browsers may ask at once
        self._forget()
        self.refresh(progress)

    def __len__(self) -> int:
        return len(self._offsets)

    def _forget(self) -> None:
        self._indexed_bytes = 0
        self._points: dict[tuple[str, int | None], int] = {}
        self._offsets, self._lengths = array("q"), array("i")  # one a sample, as those below
        self._point, self._total_tokens = array("i"), array("q")
        self._correct, self._truncated = array("b"), array("b")

    def refresh(self, progress: Callable[[int], object] | None = None) -> None:
        """Index the lines that are new; from the start if the file became shorter than what is indexed."""
        with self._lock:
            self._refresh(progress)

    def _refresh(self, progress: Callable[[int], object] | None) -> None:
        try:
            size = self.path.stat().st_size
        except OSError:
            raise self._gone() from None
        if size < self._indexed_bytes:
            self._forget()
        if size == self._indexed_bytes:
            return
        with open(self.path, "rb") as stream:
            stream.seek(self._indexed_bytes)
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                self._add(line)
                if progress is not None:
                    progress(len(line))

    def _add(self, line: bytes) -> None:
        sample = self._parse(line, len(self))
        point = (sample["strategy"], sample["budget_tokens"])
        self._point.append(self._points.setdefault(point, len(self._points)))
        self._total_tokens.append(sample["total_tokens"])
        self._correct.append(bool(sample["correct"]))
        self._truncated.append(bool(sample["truncated"]))
        self._lengths.append(len(line))
        self._offsets.append(self._indexed_bytes)
        self._indexed_bytes += len(line)

    def _parse(self, line: bytes, row: int) -> dict:
        try:
            sample = json.loads(line)
        except ValueError:
            sample = None
        fields = sample if isinstance(sample, dict) else {}
        unfit = [name for name, kind in _NEEDED.items() if not isinstance(fields.get(name), kind)]
        if unfit:
            raise BadInput(
                f"{self.path}, line {row + 1}: not a sample ({unfit[0]} is missing or of another kind); "
                "give a folder that `efficient-reasoning evaluate` wrote."
            )
        return sample

    def _gone(self) -> BadInput:
        return BadInput(f"{self.path}: no such file; give a folder that `evaluate` wrote.")

    def select(
        self,
        strategy: str,
        budget_tokens: int | None,
        verdict: str = ANY,
        order: str = AS_SAMPLED,
    ) -> np.ndarray:
        """Rows of a point's samples.

        Args:
            strategy, budget_tokens: the point; one that is not there has no rows.
            verdict: ANY, CORRECT, WRONG or CUT_OFF. A sample that was cut off is correct or wrong, too.
            order: AS_SAMPLED, or by `total_tokens`: SHORTEST or LONGEST.

        Returns:
            (rows,) of int64.
        """
        with self._lock:  # copies: an array that a view holds cannot grow
            correct, truncated = np.array(self._correct, dtype=bool), np.array(self._truncated, dtype=bool)
            total_tokens = np.array(self._total_tokens)
            chosen = np.array(self._point) == self._points.get((strategy, budget_tokens), -1)
        if verdict in (CORRECT, WRONG):
            chosen &= correct == (verdict == CORRECT)
        elif verdict == CUT_OFF:
            chosen &= truncated
        rows = np.flatnonzero(chosen)
        if order == AS_SAMPLED:
            return rows
        return rows[np.argsort(total_tokens[rows] * (-1 if order == LONGEST else 1), kind="stable")]

    def read(self, row: int) -> dict:
        """The sample of a row.

        Raises:
            BadInput: no such row, or the file was changed under it.
        """
        with self._lock:
            if not 0 <= row < len(self):
                raise BadInput(f"{self.path} has no sample {row}; it has {len(self):,}.")
            offset, length = self._offsets[row], self._lengths[row]
        try:
            with open(self.path, "rb") as stream:
                stream.seek(offset)
                return self._parse(stream.read(length), row)
        except OSError:
            raise self._gone() from None
