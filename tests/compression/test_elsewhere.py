"""Rows of other people's files: those of a question together, and what is wrong with a file."""

from __future__ import annotations

import json
import random

import pytest

from efficient_reasoning.compression.elsewhere import Recordings, Unusable, read_recording
from efficient_reasoning.errors import BadInput


def row(number: int, said: str = "7", **columns) -> dict:
    return {"question": f"{number} + 1?", "answer": str(number), "completion": said} | columns


@pytest.fixture
def recordings(tmp_path):
    def read(*rows: dict, query: str = "") -> Recordings:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Recordings(f"{path}{query}")

    return read


def test_rows_of_a_question_come_together_in_the_order_of_their_first(recordings):
    rows = [row(number, said) for number in range(30) for said in "abc"]
    random.Random(0).shuffle(rows)
    source = recordings(*rows)
    first = list(dict.fromkeys(one["question"] for one in rows))
    assert len(source) == 30
    assert list(source.read(0, 99)) == [one for question in first for one in rows if one["question"] == question]
    assert list(source.read(3, 5)) == list(source.read(0, 30))[9:15]
    assert source.digest == recordings(*rows).digest != recordings(*rows[:-1]).digest


def test_rows_that_cannot_be_used_stand_beside_one_that_can(recordings):
    bad = [{"question": None, "completion": "7"}, {"answer": "7"}]
    source = recordings(bad[0], row(1), row(2), bad[1])
    assert list(source.read(0, 1)) == [bad[0], row(1), bad[1]] and list(source.read(1, 2)) == [row(2)]
    assert len(source) == 2 and len(source.shown) == 2
    assert len(recordings(*bad)) == 1


def test_what_the_rows_say_together(recordings):
    assert not recordings(row(1), row(2)).is_math
    assert recordings(row(1), row(2, answer="\\pi")).is_math
    assert recordings(row(1, id="a"), row(2, id="b"), row(1, id="c"), row(3)).has_ids
    assert not recordings(row(1, id="a"), row(2, id="a")).has_ids
    assert not recordings({}, row(1, id="a"), row(2, id="a")).has_ids
    mapped = recordings(row(1, key="3"), query="?answer=key&task=exact")
    assert (mapped.mapping, mapped.name) == ({"answer": "key", "task": "exact"}, "rows")


@pytest.mark.parametrize(
    ("columns", "mapping", "task"),
    [
        ({}, {}, "math"),
        ({"task": "exact"}, {}, "exact"),
        ({"task": None}, {}, "math"),
        ({"task": "exact"}, {"task": "numeric"}, "numeric"),
    ],
)
def test_mathematics_is_what_nobody_calls_otherwise(columns, mapping, task):
    assert read_recording("row", row(1, **columns), mapping, is_math=True).problem["task"] == task
    assert read_recording("row", row(1, **columns), mapping, "judge", True).problem["task"] == "judge"


def test_metadata_is_what_verifiers_read():
    tests = {"tests": "assert f() == 1", "task": "unit_tests", "answer": None}
    assert read_recording("row", row(1, **tests), {}).problem["metadata"]["tests"] == "assert f() == 1"
    own = {"metadata": {"floor_tokens": 3}, "solution": "long"}
    assert read_recording("row", row(1, **own), {}).problem["metadata"] == {"floor_tokens": 3}
    assert read_recording("row", row(1, solution="long", source="web"), {}).problem["metadata"] == {}


def test_half_a_character_is_no_text():
    with pytest.raises(Unusable, match="row: half of a surrogate pair in it") as raised:
        read_recording("row", row(1, "\ud800"), {})
    assert raised.value.kind == "with broken characters"


def test_a_damaged_source_stops(recordings, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BadInput, match=r"rows\.jsonl: no rows in it"):
        recordings()
    (tmp_path / "torn.jsonl").write_text(json.dumps(row(1)) + '\n{"question": "Comp')
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no more")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("torn.jsonl", r"torn\.jsonl, line 2: not valid JSON"),
        ("nowhere.jsonl", r"nowhere\.jsonl: no such file"),
        ("torn.jsonl?anwser=x", "unknown key 'anwser' behind the question mark, did you mean answer"),
        ("empty", "empty: cannot read its split 'train'"),
        ("bad.parquet", r"bad\.parquet: cannot read its split 'train'"),
    ):
        with pytest.raises(BadInput, match=message):
            Recordings(f"{tmp_path}/{name}")
