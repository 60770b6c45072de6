from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from efficient_reasoning.app.samples import (
    ANY,
    AS_SAMPLED,
    CORRECT,
    CUT_OFF,
    LONGEST,
    SHORTEST,
    WRONG,
    SampleIndex,
)
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl

POINT = ("budget-forcing", None)
TESTS = {
    ANY: lambda sample: True,
    CORRECT: lambda sample: sample["correct"],
    WRONG: lambda sample: not sample["correct"],
    CUT_OFF: lambda sample: sample["truncated"],
}
ORDERS = {
    AS_SAMPLED: lambda sample: 0,
    SHORTEST: lambda sample: sample["total_tokens"],
    LONGEST: lambda sample: -sample["total_tokens"],
}


@pytest.fixture
def path(make_run):
    return make_run() / "samples.jsonl"


@pytest.mark.parametrize("verdict", TESTS)
@pytest.mark.parametrize("order", ORDERS)
def test_what_is_chosen_is_what_reading_all_would_choose(path, verdict, order):
    index, samples = SampleIndex(path), list(read_jsonl(path))
    own = [sample for sample in samples if (sample["strategy"], sample["budget_tokens"]) == POINT]
    expected = sorted(filter(TESTS[verdict], own), key=ORDERS[order])
    assert 0 < len(expected) <= len(own) == 30
    assert [index.read(row) for row in index.select(*POINT, verdict, order).tolist()] == expected


def test_a_point_that_is_not_there_has_no_rows(path):
    assert len(SampleIndex(path).select("budget-forcing", 65)) == 0


def test_a_torn_last_line_waits_until_it_is_whole(path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]) + lines[5][:40])
    index = SampleIndex(path)
    assert len(index) == 5
    with open(path, "ab") as stream:
        stream.write(lines[5][40:] + lines[6])
    assert len(index) == 5
    index.refresh()
    assert [index.read(row) for row in range(len(index))] == list(map(json.loads, lines[:7]))


def test_a_file_that_was_cut_is_indexed_anew(path):
    lines = path.read_bytes().splitlines(keepends=True)
    index = SampleIndex(path)
    path.write_bytes(b"".join(lines[2:4]))
    index.refresh()
    assert len(index) == 2
    assert index.read(0) == json.loads(lines[2])


def test_two_who_ask_at_once_index_a_line_once(path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"")
    index = SampleIndex(path)

    def ask(_):
        index.refresh()
        return len(index.select(*POINT))

    with ThreadPoolExecutor(8) as pool:
        for line in lines:
            with open(path, "ab") as stream:
                stream.write(line)
            list(pool.map(ask, range(8)))
    assert [index.read(row) for row in range(len(index))] == list(map(json.loads, lines))


def test_an_empty_file_has_no_samples(path):
    path.write_bytes(b"")
    assert len(SampleIndex(path).select(*POINT)) == 0


def test_progress_comes_to_the_size_of_the_file(path):
    told = []
    SampleIndex(path, told.append)
    assert sum(told) == path.stat().st_size


@pytest.mark.parametrize(
    "line",
    [
        b"{torn\n",
        b"[]\n",
        b"\n",
        b'{"strategy": "s"}\n',
        b'{"strategy": ["s"], "total_tokens": "many"}\n',
        b"\xff\xfe\n",
    ],
)
def test_a_line_that_is_no_sample_is_named(path, line):
    with open(path, "ab") as stream:
        stream.write(line)
    with pytest.raises(BadInput, match=r"samples\.jsonl, line 91: not a sample"):
        SampleIndex(path)


def test_no_file(tmp_path):
    with pytest.raises(BadInput, match=r"samples\.jsonl: no such file"):
        SampleIndex(tmp_path / "samples.jsonl")


@pytest.mark.parametrize("row", [-1, 90])
def test_no_such_row(path, row):
    with pytest.raises(BadInput, match=f"no sample {row}"):
        SampleIndex(path).read(row)
