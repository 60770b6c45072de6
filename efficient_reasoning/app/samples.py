"""Reading one sample of many: an index of where each line of a JSONL file begins, and of what it is chosen by.

1. Texts stay on the disk; 21 bytes a sample stay in memory. Showing a sample costs one seek and one line.
2. The file may still be growing: whoever asks first calls `refresh`, which reads what is new. A last line without its
   end is being written, or was torn by a kill; it is left alone until it is whole.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np

from efficient_reasoning.errors import BadInput

ANY, CORRECT, WRONG, CUT_OFF = "all", "correct", "wrong", "cut off"
AS_SAMPLED, SHORTEST, LONGEST = "as sampled", "shortest first", "longest first"
_NEEDED = ("strategy", "correct", "truncated", "total_tokens", "thinking_tokens", "answer_tokens", "question", "spend")


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
        self._forget()
        self.refresh(progress)

    def __len__(self) -> int:
        return len(self._offsets)

    def _forget(self) -> None:
        self._indexed_bytes = 0
        self._points: dict[tuple[str, int | None], int] = {}
        self._offsets, self._lengths = array("q"), array("i")  # one a sample, as those below
        self._point, self._total_tokens = array("i"), array("i")
        self._correct, self._truncated = array("b"), array("b")

    def refresh(self, progress: Callable[[int], object] | None = None) -> None:
        """Index the lines that are new; from the start if the file became shorter than what is indexed."""
        try:
            size = self.path.stat().st_size
        except OSError:
            raise BadInput(f"{self.path}: no such file; give a folder that `evaluate` wrote.") from None
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
        point = (sample["strategy"], sample.get("budget_tokens"))
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
        missing = [name for name in _NEEDED if sample.get(name) is None] if isinstance(sample, dict) else _NEEDED
        if missing:
            raise BadInput(
                f"{self.path}, line {row + 1}: not a sample ({missing[0]} is missing); "
                "give a folder that `efficient-reasoning evaluate` wrote."
            )
        return sample

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
        # Copies: an array that a view holds cannot grow.
        chosen = np.array(self._point) == self._points.get((strategy, budget_tokens), -1)
        if verdict in (CORRECT, WRONG):
            chosen &= np.array(self._correct, dtype=bool) == (verdict == CORRECT)
        elif verdict == CUT_OFF:
            chosen &= np.array(self._truncated, dtype=bool)
        rows = np.flatnonzero(chosen)
        if order == AS_SAMPLED:
            return rows
        sign = -1 if order == LONGEST else 1
        return rows[np.argsort(sign * np.array(self._total_tokens)[rows], kind="stable")]

    def read(self, row: int) -> dict:
        """The sample of a row.

        Raises:
            BadInput: no such row, or the file was changed under it.
        """
        if not 0 <= row < len(self):
            raise BadInput(f"{self.path} has no sample {row}; it has {len(self):,}.")
        with open(self.path, "rb") as stream:
            stream.seek(self._offsets[row])
            return self._parse(stream.read(self._lengths[row]), row)
