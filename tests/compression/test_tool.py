"""The frame of every data tool: grouped, resumable, locked, whole."""

from __future__ import annotations

import fcntl
import json
from collections import Counter
from dataclasses import dataclass

import pytest

from efficient_reasoning.compression import CompressionArguments, by_problem, compress, tool
from efficient_reasoning.compression.tool import TraceFiles
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl, write_jsonl


@dataclass(kw_only=True)
class HalveArguments(CompressionArguments):
    """Of the method below."""

    share: float = 0.5


fails_at: set[str] = set()


def halve(rows, engine=None, *, rejected=None, share: float = 0.5):
    """Rows of an even number of traces."""
    for group in by_problem(rows):
        if group[0]["id"] in fails_at:
            raise KeyboardInterrupt
        if len(group) % 2:
            rejected["odd"] += 1
            continue
        for row in group:
            kept = {"total_tokens": row["total_tokens"] * share, "source_tokens": row["total_tokens"]}
            yield {"source_id": row["id"], "seed": row["seed"], **kept}


def trace(problem: str, seed: int) -> dict:
    return {
        "id": problem,
        "task": "numeric",
        "prompt": "?",
        "completion": "ä",
        "prompt_ids": [1],
        "seed": seed,
        "completion_ids": [1, 2],
        "thinking": "",
        "final_answer": "",
        "correct": True,
        "truncated": False,
        "thinking_tokens": 1,
        "total_tokens": 10,
    }


@pytest.fixture
def source(tmp_path):
    """Problems a to j in turn, twice; e has a third trace."""
    rows = [trace(problem, seed) for seed in range(2) for problem in "abcdefghij"] + [trace("e", 2)]
    write_jsonl(tmp_path / "traces.jsonl", rows)
    return tmp_path / "traces.jsonl"


@pytest.fixture
def run(source, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "CHUNK_PROBLEMS", 2)

    def run(**settings) -> dict:
        return compress(HalveArguments(traces=str(source), out=str(tmp_path / "rows.jsonl"), **settings), halve)

    return run


def rows_of(folder) -> list[tuple[str, int]]:
    return [(row["source_id"], row["seed"]) for row in read_jsonl(folder / "rows.jsonl")]


def test_traces_of_a_problem_come_together(run, tmp_path, capsys):
    report = run()
    assert rows_of(tmp_path) == [(problem, seed) for problem in "abcdfghij" for seed in range(2)]
    assert (report["rows"], report["rejected"], report["ratio"], report["problems"]) == (18, {"odd": 1}, 0.5, 10)
    said = capsys.readouterr().out
    assert "18 rows from 10 problems, mean tokens 10.0 -> 5.0 (ratio 0.50)." in said
    assert "Left out 5.3%: 1 odd." in said
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("fail_at", list("acj"))
def test_a_cut_run_goes_on_where_it_was(run, tmp_path, fail_at):
    fails_at.add(fail_at)
    with pytest.raises(KeyboardInterrupt):
        run()
    fails_at.clear()
    assert not (tmp_path / "rows.jsonl").exists()
    done = json.loads((tmp_path / "rows.jsonl.report.json").read_text())["problems_done"] if fail_at != "a" else 0
    assert done == "abcdefghij".index(fail_at) // 2 * 2
    with open(tmp_path / "rows.jsonl.partial", "ab") as stream:
        stream.write(b'{"source_id": "half a l')  # written, but not yet counted
    assert run()["rows"] == 18
    assert rows_of(tmp_path) == [(problem, seed) for problem in "abcdfghij" for seed in range(2)]


def test_a_finished_run_is_shown_again(run, tmp_path, capsys):
    run()
    (tmp_path / "rows.jsonl").write_text("")
    assert run()["rows"] == 18
    assert (tmp_path / "rows.jsonl").read_text() == ""  # nothing was done again
    (tmp_path / "rows.jsonl").rename(tmp_path / "rows.jsonl.partial")  # a kill before the last step
    run()
    assert (tmp_path / "rows.jsonl").exists()
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(BadInput, match=r"rows\.jsonl: its rows are gone; delete rows\.jsonl\.report\.json too"):
        run()


def test_another_configuration_is_refused(run, source, tmp_path):
    run()
    with pytest.raises(BadInput, match=r"holds rows that differ in share; choose another out"):
        run(share=0.25)
    write_jsonl(source, [trace("a", 0), trace("a", 1)])
    with pytest.raises(BadInput, match=r"holds rows that differ in source; choose"):
        run()
    (tmp_path / "rows.jsonl.report.json").write_text("[]")
    with pytest.raises(BadInput, match=r"report\.json: no report of a data tool"):
        run()
    (tmp_path / "rows.jsonl.report.json").unlink()
    with pytest.raises(BadInput, match=r"rows\.jsonl: was there before, without its report"):
        run()


def test_two_runs_do_not_write_one_output(run, tmp_path):
    with open(tmp_path / "rows.jsonl.partial", "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BadInput, match=r"rows\.jsonl: another run is writing it"):
            run()
    assert run()["rows"] == 18


def test_a_run_that_was_finished_meanwhile_is_not_written_into(run, tmp_path, monkeypatch):
    fails_at.add("c")
    with pytest.raises(KeyboardInterrupt):
        run()
    fails_at.clear()

    class Late(tool._Output):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.partial.rename(self.path)  # by another run, behind the look at the report

    monkeypatch.setattr(tool, "_Output", Late)
    with pytest.raises(BadInput, match="another run is writing it"):
        run()


def test_rows_without_a_control_are_none_of_its(source, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "CHUNK_PROBLEMS", 2)

    def method(rows, engine=None):
        for row in rows:
            yield {"source_tokens": 10, "total_tokens": 5, "control": "<|x|>" if row["seed"] else None}

    report = compress(HalveArguments(traces=str(source), out=str(tmp_path / "out.jsonl")), method)
    assert report["controls"] == {"<|x|>": {"rows": 11, "source_tokens": 110, "total_tokens": 55}}


def test_half_a_character_is_left_out_and_counted(source, tmp_path):
    def method(rows, engine=None, *, rejected=None):
        for row in rows:
            yield {"text": "\ud800" if row["id"] == "e" else "ü"}

    report = compress(HalveArguments(traces=str(source), out=str(tmp_path / "out.jsonl")), method)
    assert (report["rows"], report["rejected"]) == (18, {"with broken characters": 3})
    assert [row["text"] for row in read_jsonl(tmp_path / "out.jsonl")] == ["ü"] * 18


def test_nothing_to_keep_leaves_nothing_behind(source, run, tmp_path):
    write_jsonl(source, [trace("a", 0)])
    with pytest.raises(BadInput, match=r"rows\.jsonl: none of 1 problems gives a row \(1 odd\)"):
        run()
    assert [path.name for path in tmp_path.iterdir()] == ["traces.jsonl"]


def test_several_files_are_one_source(source, tmp_path):
    write_jsonl(tmp_path / "more.jsonl", [trace("e", 3), trace("k", 0)])
    files = TraceFiles([source, tmp_path / "more.jsonl"])
    assert len(files) == 11
    assert [row["seed"] for row in files.read(4, 5)] == [0, 1, 2, 3]
    assert [row["id"] for row in files.read(10, 99)] == ["k"]
    assert files.digest != TraceFiles([source]).digest


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"traces\.jsonl: no traces in it"),
        ('{"id": "a", "task', r"traces\.jsonl, line 1: not valid JSON"),
        ('{"id": "a"}', r"traces\.jsonl, line 1: no 'task' in it"),
        ('{"id": 7}', r"traces\.jsonl, line 1: its 'id' is 7; give a file"),
    ],
)
def test_a_bad_file_is_named_before_anything_is_written(source, run, tmp_path, text, sentence):
    source.write_text(text)
    with pytest.raises(BadInput, match=sentence):
        run()
    assert [path.name for path in tmp_path.iterdir()] == ["traces.jsonl"]


def test_a_method_is_given_what_it_has_parameters_for(source, tmp_path):
    seen = Counter()

    def method(rows, engine=None, *, rejected=None, extra=None):
        seen[extra] += len(list(rows))
        yield {"source_id": "a"}

    compress(HalveArguments(traces=str(source), out=str(tmp_path / "out.jsonl")), method, extra="given")
    assert seen == {"given": 21}


def test_what_a_method_notes_is_added_up_and_said(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "CHUNK_PROBLEMS", 3)

    def method(rows, engine=None, *, rejected=None, noted=None):
        for row in rows:
            noted["vowel" if row["id"] in "aei" else "consonant"] += 1
            yield {"source_id": row["id"]}

    report = compress(HalveArguments(traces=str(source), out=str(tmp_path / "out.jsonl")), method)
    assert (report["rows"], report["noted"]) == (21, {"vowel": 7, "consonant": 14})
    assert capsys.readouterr().out.endswith("out.jsonl: 21 rows from 10 problems.\nNoted: 14 consonant, 7 vowel.\n")
