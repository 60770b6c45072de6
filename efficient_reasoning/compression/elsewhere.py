"""Rows of other people's files as problems and what was said to them, those of one question together.

1. A pass over the rows tells which belong together: 24 bytes a row stay in memory. JSONL is then read where its lines
   stand; of Parquet files and data sets of the Hub, `datasets` keeps a table on the disk.
2. A file that is damaged is refused: nobody knows what else is missing. A row that cannot be used is left out and
   counted; the first ones are shown with their places.
3. Rows call their problems by ids where these tell questions apart, else problems are called after a hash of the
   question.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from efficient_reasoning.compression.tool import grouped
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import digest, read_placed_jsonl
from efficient_reasoning.problems.adapters import from_rows
from efficient_reasoning.recorded import KEYS, Said, parse_source, read_row

AGREES = "agrees_with_base"
_TASK_SAMPLE = 1000  # problems that are looked at to tell whether answers are mathematics
_SHOWN = 10
_UNNAMED = "-0"  # what `from_rows` calls a row without an id


class Unusable(BadInput):
    """A row that gives no trace.

    Attributes:
        kind: what a report counts it as.
    """

    def __init__(self, kind: str, message: object):
        super().__init__(str(message))
        self.kind = kind


@dataclass(frozen=True)
class Recording:
    """What a row holds.

    Attributes:
        problem: without an id where the row has none, without metadata that no verifier reads.
        said: the responses, one at least.
        key: equal for rows of one question.
        is_labelled: there is no gold answer; the row says itself which responses are correct.
    """

    problem: dict
    said: list[Said]
    key: str
    is_labelled: bool


def read_recording(
    place: str, row: dict, mapping: Mapping[str, str], verifier: str | None = None, is_math: bool = False
) -> Recording:
    """Read a row.

    Args:
        place: of the row, for messages.
        row: in a shape that `recorded` knows.
        mapping: of its columns.
        verifier: "agrees_with_base" or "judge", where there are no gold answers.
        is_math: gold answers for which neither row nor mapping names a verifier are mathematics.

    Raises:
        Unusable: no response in it, or no question, gold answer or verdict.
    """
    try:
        said, columns = read_row(place, row, mapping)
    except BadInput as error:
        raise Unusable("without a response", error) from None
    if not said:
        raise Unusable("without a response", f"{place}: no response in it, or a request that failed.")
    mapping = {key: mapping[key] for key in ("question", "answer", "task") if key in mapping}
    task = verifier or mapping.get("task") or columns.get("task") or ("math" if is_math else None)
    is_labelled = False
    try:
        [problem] = from_rows([(place, columns)], mapping | ({"task": task} if task else {}), "")
    except BadInput as error:
        is_labelled = "no answer" in str(error) and not verifier and all(one.correct is not None for one in said)
        if not is_labelled:
            raise _unusable(error) from None
        [problem] = from_rows([(place, columns)], mapping | {"task": AGREES}, "")
    has_own = isinstance(columns.get("metadata"), Mapping) or problem["task"] == "unit_tests"
    problem["metadata"] = dict(problem["metadata"]) if has_own else {}
    earlier_turns = columns.get("earlier_turns")
    if earlier_turns:
        problem["metadata"]["earlier_turns"] = earlier_turns
    if problem["id"] == _UNNAMED:
        del problem["id"]
    key = json.dumps([earlier_turns or None, " ".join(problem["question"].split())], default=str)
    recording = Recording(problem, said, key, is_labelled)
    if not _is_text(recording):
        raise Unusable(
            "with broken characters", f"{place}: half of a surrogate pair in it; write the character again."
        )
    return recording


def _is_text(recording: Recording) -> bool:
    """Whether all of it can be written in UTF-8; JSON may hold halves of characters."""
    try:
        json.dumps(recording.problem, ensure_ascii=False, default=str).encode()
        for one in recording.said:
            for text in (one.text, one.reasoning, one.model):
                (text or "").encode()
    except UnicodeEncodeError:
        return False
    return True


def _unusable(error: BadInput) -> Unusable:
    said, _, _ = str(error).partition("; ")
    if "no answer" in said:
        remedy = "map one (?answer=COLUMN), or give --verifier agrees_with_base or judge"
        return Unusable("without a gold answer", f"{said}; {remedy}.")
    if "no question" in said:
        return Unusable("without a question", f"{said}; map one (?question=COLUMN).")
    return Unusable("with columns that no problem has", error)


class Recordings:
    """The rows of a source, a question at a time.

    Args:
        source: a JSONL or Parquet file, a folder of data files or `hub:NAME`, and behind a question mark the mapping
            of its columns; for data sets also `config` and `split` ("train" by default).
        verifier: as for `read_recording`.

    Attributes:
        mapping: of the columns.
        digest: tells one source from another.
        name: what problems without ids are called after.
        is_math: one of the first gold answers has a backslash.
        has_ids: ids of the rows tell questions apart.
        shown: what is wrong with the first rows that cannot be used.

    Raises:
        BadInput: a missing or damaged file, a data set that cannot be read, an unknown key, no rows.
    """

    def __init__(self, source: str, verifier: str | None = None):
        from tqdm import tqdm

        location, self.mapping = parse_source(source, (*KEYS, "config", "split"))
        self._rows = _table(location, self.mapping) or _Lines(Path(location))
        self.name = Path(location.removeprefix("hub:")).name.partition(".")[0]
        self.shown: list[str] = []
        golds: list[str] = []
        keys, names, places = array("Q"), array("Q"), array("Q")
        settings = {"unit": self._rows.unit, "unit_scale": True, "mininterval": 1, "delay": 1}
        with tqdm(total=self._rows.size, desc="looking", **settings) as bar:
            for place, words, row in self._rows:
                try:
                    recording = read_recording(words, row, self.mapping, verifier)
                except Unusable as error:
                    keys.append(0)
                    names.append(0)
                    if len(self.shown) < _SHOWN:
                        self.shown.append(str(error))
                else:
                    keys.append(_hash(recording.key))
                    names.append(_hash(recording.problem.get("id", "")))
                    if len(golds) < _TASK_SAMPLE:
                        golds.append(recording.problem["answer"])
                places.append(place)
                bar.update(self._rows.done(place) - bar.n)
        if not places:
            raise BadInput(f"{location}: no rows in it; give a source with at least one.")
        self.is_math = any("\\" in answer for answer in golds)
        _hand_over(keys, names)
        order, self._bounds = grouped(keys)
        self._places = _numbers(places)[order]
        self.has_ids = _are_distinct(_numbers(names)[order[self._bounds[:-1]]])
        self.digest = self._rows.digest()

    def __len__(self) -> int:
        """How many questions."""
        return len(self._bounds) - 1

    def read(self, start: int, stop: int) -> Iterator[dict]:
        """The rows of questions `start` to `stop`, those of a question together."""
        return self._rows.at(self._places[self._bounds[start] : self._bounds[min(stop, len(self))]].tolist())


class _Lines:
    """The rows of a JSONL file; a place is the byte at which a line begins."""

    unit = "B"

    def __init__(self, path: Path):
        self.path = path
        self.size = path.stat().st_size if path.is_file() else None

    def __iter__(self) -> Iterator[tuple[int, str, dict]]:
        for number, offset, row in read_placed_jsonl(self.path):
            yield offset, f"{self.path}, line {number}", row

    def done(self, place: int) -> int:
        return place

    def at(self, places: list[int]) -> Iterator[dict]:
        with open(self.path, "rb") as stream:
            for offset in places:
                stream.seek(offset)
                yield json.loads(stream.readline().decode("utf-8-sig"))

    def digest(self) -> str:
        return digest([self.path])


class _Table:
    """The rows of a data set; a place is the number of a row."""

    unit = "row"

    def __init__(self, name: str, dataset):
        self.name, self.dataset, self.size = name, dataset, len(dataset)
        self._state = hashlib.blake2b(digest_size=8)

    def __iter__(self) -> Iterator[tuple[int, str, dict]]:
        for number, row in enumerate(self.dataset):
            self._state.update(json.dumps(row, default=str).encode())
            yield number, f"{self.name}, row {number}", row

    def done(self, place: int) -> int:
        return place + 1

    def at(self, places: list[int]) -> Iterator[dict]:
        return (self.dataset[number] for number in places)

    def digest(self) -> str:
        """Of the rows that have been read."""
        return self._state.hexdigest()


def _table(location: str, mapping: Mapping[str, str]) -> _Table | None:
    """The data set of that name; None for a file of lines."""
    is_parquet = location.endswith(".parquet") and Path(location).is_file()
    if not is_parquet and not location.startswith("hub:") and not Path(location).is_dir():
        return None
    import datasets

    split = mapping.get("split", "train")
    try:
        if is_parquet:
            dataset = datasets.load_dataset("parquet", data_files=location, split=split)
        else:
            dataset = datasets.load_dataset(location.removeprefix("hub:"), mapping.get("config"), split=split)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadInput(f"{location}: cannot read its split {split!r} ({reason}); check name and split.") from None
    return _Table(location, dataset)


def _hash(text: str) -> int:
    """64 bits of a text, 0 of an empty one."""
    hashed = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(hashed, "big") if text else 0


def _numbers(values: array):
    import numpy as np

    return np.frombuffer(values, np.uint64)


def _hand_over(keys: array, names: array) -> None:
    """Put the rows that cannot be used, whose keys are 0, beside the first one that can; somebody must count them."""
    numbers = _numbers(keys)
    unusable = numbers == 0
    if unusable.any() and not unusable.all():
        first = unusable.argmin()
        numbers[unusable], _numbers(names)[unusable] = numbers[first], names[first]


def _are_distinct(names) -> bool:
    """Whether no name but the empty one stands for two questions."""
    import numpy as np

    named = names[names > 0]
    return len(np.unique(named)) == len(named)
