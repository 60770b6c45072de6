"""The way from problems to training rows, with the shipped configs and the embedded model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_tools import reference_lengths, sample, shortest_correct
from efficient_reasoning.config import find_config
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl

ROOT = Path(__file__).parents[2]
TINY = ["--config", "data/sample_overthinker", "--num_problems", "6", "--samples_per_problem", "2"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The configs name their files relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs" / "quickstart"


def test_the_shipped_configs_lead_from_problems_to_rows(here, capsys):
    sample.main(TINY)
    traces = list(read_jsonl(here / "traces.jsonl"))
    assert len(traces) == 12 == len({(trace["id"], trace["seed"]) for trace in traces})
    assert "12 traces, " in capsys.readouterr().out

    shortest_correct.main(["--config", "data/shortest_correct_overthinker"])
    rows = list(read_jsonl(here / "shortest_correct.jsonl"))
    assert all(row["completion"].startswith("<think>") and "</think>" in row["completion"] for row in rows)
    correct = {trace["id"] for trace in traces if trace["correct"] and trace["thinking_tokens"]}
    assert {row["source_id"] for row in rows} == correct != set()

    reference_lengths.main(["--config", "data/reference_lengths_overthinker"])
    rows = list(read_jsonl(here / "reference_lengths.jsonl"))
    assert {row["source_id"] for row in rows} == {trace["id"] for trace in traces if trace["correct"]}


def test_the_same_command_again_keeps_what_is_there(here, monkeypatch):
    sample.main(TINY)
    before = (here / "traces.jsonl").read_bytes()
    monkeypatch.setattr("efficient_reasoning.inference.solve_many", None)  # nothing is left to solve
    sample.main(TINY)
    assert (here / "traces.jsonl").read_bytes() == before
    with pytest.raises(BadInput, match=r"traces\.config\.yaml: holds a run that differs in temperature"):
        sample.main([*TINY, "--temperature", "0.6"])
    assert (here / "traces.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "tool",
    [
        "sample",
        "shortest_correct",
        "reference_lengths",
        "import_traces",
        "c3ot",
        "cot_valve",
        "tale",
        "first_correct",
        "long2short_pairs",
        "dast_pairs",
        "spirit",
        "step_skip",
    ],
)
def test_help_is_light(tool):
    code = (
        f"import runpy, sys; sys.argv = ['{tool}.py', '--help']\n"
        "try:\n"
        f"    runpy.run_path({str(ROOT / 'data_tools' / f'{tool}.py')!r}, run_name='__main__')\n"
        "finally:\n"
        "    assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--out" in done.stdout


@pytest.mark.parametrize(
    "tool",
    [
        "sample",
        "shortest_correct",
        "reference_lengths",
        "c3ot",
        "cot_valve",
        "tale",
        "first_correct",
        "long2short_pairs",
        "dast_pairs",
        "spirit",
        "step_skip",
    ],
)
def test_a_config_begins_with_its_command(tool):
    first_line = find_config(f"data/{tool}_overthinker").read_text().splitlines()[0]
    assert first_line == f"# efficient-reasoning data {tool} --config configs/data/{tool}_overthinker.yaml"


def test_examples_are_read_and_the_prompt_stays_the_question(here, tmp_path):
    words = ["--config", "data/sample_overthinker", "--num_problems", "4", "--samples_per_problem", "1"]
    sample.main(words)
    shown = [*words, "--examples", str(here / "traces.jsonl"), "--num_examples", "1", "--out", "shown.jsonl"]
    sample.main(shown)
    pairs = list(zip(read_jsonl(here / "traces.jsonl"), read_jsonl(tmp_path / "shown.jsonl"), strict=True))
    for plain, with_examples in pairs:
        assert (with_examples["id"], with_examples["prompt"]) == (plain["id"], plain["prompt"])
        # A line of the question, and another that ends with the plain prompt.
        assert with_examples["prompt_ids"][-len(plain["prompt_ids"]) :] == plain["prompt_ids"]
        assert len(with_examples["prompt_ids"]) > 2 * len(plain["prompt_ids"])
        assert with_examples["seed"] != plain["seed"]
    assert "num_examples: 1" in (tmp_path / "shown.config.yaml").read_text()
    with pytest.raises(BadInput, match=r"shown\.config\.yaml: holds a run that differs in num_examples"):
        sample.main([*shown, "--num_examples", "2"])
    (tmp_path / "fewer.jsonl").write_text("".join(json.dumps(plain) + "\n" for plain, _ in pairs[:3]))
    with pytest.raises(BadInput, match=r"shown\.config\.yaml: holds a run that differs in examples"):
        sample.main([*shown, "--examples", "fewer.jsonl"])
