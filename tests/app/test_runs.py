from __future__ import annotations

import re

import pytest

from efficient_reasoning.app.runs import open_runs
from efficient_reasoning.errors import BadInput


def test_runs_are_called_by_their_folders(make_run):
    one, other = open_runs([make_run("a"), make_run("b", num_problems=4)])
    assert (one.label, other.label) == ("a", "b")
    assert (len(one.samples), len(other.samples)) == (90, 12)
    assert [point["budget_tokens"] for point in other.points] == [64, None, None]


def test_runs_of_one_name_are_called_by_their_paths(make_run):
    folders = [make_run("x/run"), make_run("y/run"), make_run("z")]
    assert [run.label for run in open_runs(folders)] == [str(folders[0]), str(folders[1]), "z"]


def test_a_torn_last_line_is_left_out(make_run):
    folder = make_run()
    with open(folder / "samples.jsonl", "a") as stream:
        stream.write('{"id": "to')
    [run] = open_runs([folder])
    assert len(run.samples) == 90


def test_bad_runs(make_run, tmp_path):
    folder = make_run()
    with pytest.raises(BadInput, match="There are no runs"):
        open_runs([])
    with pytest.raises(BadInput, match="run: this run is named twice"):
        open_runs([folder, folder / ".." / "run"])
    with pytest.raises(BadInput, match=r"nowhere: no summary\.json there; check the path"):
        open_runs([tmp_path / "nowhere"])
    (folder / "samples.jsonl").unlink()
    with pytest.raises(BadInput, match=r"samples\.jsonl: no such file"):
        open_runs([folder])


def test_an_unfinished_run_is_refused(make_run):
    folder = make_run()
    (folder / "summary.json").unlink()
    with pytest.raises(BadInput, match=r"no summary\.json there; the run was cut off"):
        open_runs([folder])


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"points": [], "statistics": {"level": 0.95}}',
        '{"points": [{}], "statistics": {}}',
        "NUMBERS",
    ],
)
def test_a_summary_of_another_making_is_refused(make_run, text):
    folder = make_run()
    (folder / "summary.json").write_text(text)
    with pytest.raises(BadInput, match=r"run/summary\.json: no(t one that `evaluate` wrote| summary of a run)"):
        open_runs([folder])


def test_a_summary_without_numbers_is_refused(make_run):
    folder = make_run()
    text = (folder / "summary.json").read_text()
    (folder / "summary.json").write_text(re.sub(r'"mean": [-\d.]+', '"mean": NaN', text))
    with pytest.raises(BadInput, match="not one that `evaluate` wrote"):
        open_runs([folder])
