"""Which test problems has a model been trained on? A checkpoint remembers the questions of its training rows.

1. Training writes `training_problems.json` into the checkpoint: one hash of eight bytes a question, so that 600,000 of
   them take 6 MB and none can be read back. A later stage adds its own to those of the checkpoint that it starts from.
2. Questions are compared without regard to case, white space, quotes and the punctuation of sentences; signs,
   operators and the points inside numbers count, because problems differ in nothing else.
3. Only the same question is found. Overlaps of n words (13 in GPT-3, arXiv 2005.14165) are not looked for: what a
   generator draws shares its sentences and differs in its numbers. Paraphrases and translations go unseen.
4. What a model from elsewhere was trained on is not known, nor what streamed by; its name stands under `unknown`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import write_json

RECORD_NAME = "training_problems.json"
EXAMPLES = 5
_HASH = np.dtype("<u8")
_URL_SAFE = b"-_"  # a slash might begin what looks like a path of this machine (`hub.checks`)
_PUNCTUATION = re.compile(r"[.,;:!?](?!\d)|[\"'`‘’“”«»]")


@dataclass(frozen=True)
class TrainingProblems:
    """The contents of `training_problems.json`.

    Attributes:
        hashes: of the questions: (N,) of uint64, sorted, each once.
        unknown: names of checkpoints, itself or earlier ones, of which not all rows are recorded.
    """

    hashes: np.ndarray
    unknown: tuple[str, ...] = ()

    def save(self, folder: str | Path) -> None:
        text = base64.b64encode(self.hashes.astype(_HASH).tobytes(), _URL_SAFE).decode()
        entries = {"problems": len(self.hashes), "unknown": list(self.unknown), "hashes": text}
        write_json(Path(folder) / RECORD_NAME, entries)

    @classmethod
    def load(cls, folder: str | Path) -> TrainingProblems | None:
        """Read the record of a local checkpoint; None where there is none.

        Raises:
            BadInput: the file is there but is not ours.
        """
        path = Path(folder) / RECORD_NAME
        if not path.is_file():
            return None
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            hashes = np.frombuffer(base64.b64decode(entries["hashes"], _URL_SAFE, validate=True), dtype=_HASH)
            unknown = tuple(map(str, entries["unknown"]))
            if len(hashes) != entries["problems"]:
                raise ValueError(f"{len(hashes)} hashes, not {entries['problems']}")
        except (ValueError, TypeError, LookupError, binascii.Error) as error:
            raise BadInput(f"{path}: not a valid {RECORD_NAME} ({error}); restore the file or delete it.") from None
        return cls(hashes, unknown)


def training_problems(
    rows: Iterable[Mapping], base: str | Path | None = None, base_name: str | None = None
) -> TrainingProblems:
    """The record of what training on these rows makes of a checkpoint.

    Args:
        rows: with `question`, or else `prompt`, as text or messages, of which the last of the user counts.
        base: folder of the checkpoint that training starts from; None from scratch.
        base_name: what it is called if nobody knows what it was trained on; the folder's name by default.
    """
    hashes = np.unique(np.array([question_hash(_question(row)) for row in rows], dtype=_HASH))
    if base is None:
        return TrainingProblems(hashes)
    before = TrainingProblems.load(base)
    if before is None:
        return TrainingProblems(hashes, (base_name or Path(base).name,))
    return TrainingProblems(np.union1d(before.hashes, hashes), before.unknown)


def contamination(folder: str | Path, problems: Sequence[Mapping]) -> dict:
    """Look test problems up among those that a checkpoint was trained on.

    Args:
        folder: the checkpoint; a Hub id or a folder without a record means that nothing is known.
        problems: with `id` and `question`.

    Returns:
        `{"checked", "problems", "trained_on", "examples", "unknown"}`: whether there is a record, how many problems
        were looked up and found (None without a record), the first ids that were found, and the names of earlier
        checkpoints whose training is unknown.

    Raises:
        BadInput: a record that cannot be read.
    """
    record = TrainingProblems.load(folder)
    if record is None:
        is_path = Path(folder).is_absolute() or Path(folder).is_dir()
        unknown = [Path(folder).name if is_path else str(folder)]  # runs are published; paths are not
        return {"checked": False, "problems": len(problems), "trained_on": None, "examples": [], "unknown": unknown}
    hashes = np.array([question_hash(problem["question"]) for problem in problems], dtype=_HASH)
    found = np.flatnonzero(np.isin(hashes, record.hashes))
    return {
        "checked": True,
        "problems": len(problems),
        "trained_on": len(found),
        "examples": [problems[index]["id"] for index in found[:EXAMPLES]],
        "unknown": list(record.unknown),
    }


def question_hash(question: str) -> int:
    """64 bits of a question, the same for every spelling of it that point 2 above does not tell apart."""
    plain = _PUNCTUATION.sub("", unicodedata.normalize("NFKC", question).casefold())
    text = " ".join(plain.split()).encode("utf-8", errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _question(row: Mapping) -> str:
    question = row.get("question")
    if not isinstance(question, str) or not question:
        question = row.get("prompt")
    if isinstance(question, str):
        return question
    if not isinstance(question, list) or not question or not all(isinstance(turn, Mapping) for turn in question):
        raise BadInput("Training rows: one has neither a question nor a prompt, as text or messages; give it one.")
    asked = [turn for turn in question if turn.get("role") == "user"]
    content = (asked or question)[-1].get("content") or ""
    # Parts of a message, of which some may be pictures.
    return content if isinstance(content, str) else " ".join(map(_text, content))


def _text(part: object) -> str:
    text = part.get("text") if isinstance(part, Mapping) else part
    return text if isinstance(text, str) else ""
