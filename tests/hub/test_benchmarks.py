"""A leaderboard gets a number only from a run of all that it ranks."""

from __future__ import annotations

import json

import pytest
import yaml

from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl, write_json, write_jsonl
from efficient_reasoning.hub import benchmarks, publish
from tests.hub.hub_server import files_of

NAME = "ORG/concise-tiny"


@pytest.fixture
def gsm8k(run, monkeypatch):
    """The benchmark, which happens to hold the run's problems; a test may change it."""
    samples = read_jsonl(run / "samples.jsonl")
    problems = [{key: row[key] for key in ("id", "question", "answer", "task")} for row in samples]

    def load(source, split, num_problems):
        assert (source, split) == ("hub:openai/gsm8k?config=main", "test") and num_problems > 8000
        return problems

    monkeypatch.setattr(benchmarks, "load_problems", load)
    return problems


@pytest.mark.usefixtures("gsm8k")
def test_the_number_is_that_of_the_model_as_it_is(run, model):
    from huggingface_hub import parse_eval_result_entries

    folder = publish(run, model, NAME, benchmark="openai/gsm8k")
    [entry] = parse_eval_result_entries(yaml.safe_load((folder / ".eval_results" / "gsm8k.yaml").read_text()))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("openai/gsm8k", "gsm8k", 90.0)
    assert entry.notes.startswith("budget-forcing, no budget, at most 24 new tokens; mean of 1 samples")
    assert entry.notes.endswith("25.0 tokens a problem")


def test_it_goes_up_with_the_rest(run, model, hub, gsm8k):
    publish(run, model, NAME, dry_run=False, benchmark="openai/gsm8k")
    assert ".eval_results/gsm8k.yaml" in hub.model().files


def test_without_a_request_there_is_none(run, model):
    assert not any("eval_results" in path for path in files_of(publish(run, model, NAME)))


@pytest.mark.parametrize("change", ["one more", "another answer", "another verifier", "one less"])
def test_a_run_of_other_problems_is_refused(run, model, gsm8k, change):
    if change == "one more":
        gsm8k.append({"id": "new", "question": "What is 1 + 1?", "answer": "2", "task": "numeric"})
    elif change == "another answer":
        gsm8k[0]["answer"] = "8"
    elif change == "another verifier":
        gsm8k[0]["task"] = "exact"
    else:
        gone = gsm8k[0]["question"]
        gsm8k[:] = [problem for problem in gsm8k if problem["question"] != gone]
    with pytest.raises(BadInput, match=r"problems of openai/gsm8k are among its 20; a leaderboard takes them all"):
        publish(run, model, NAME, benchmark="openai/gsm8k")
    assert not (run / "hub").exists()


@pytest.mark.usefixtures("gsm8k")
def test_a_run_with_budgets_only_is_refused(run, model):
    summary = json.loads((run / "summary.json").read_text())
    write_json(run / "summary.json", summary | {"points": summary["points"][1:]})
    write_jsonl(run / "samples.jsonl", [row for row in read_jsonl(run / "samples.jsonl") if row["budget_tokens"]])
    with pytest.raises(BadInput, match="has no point without a budget"):
        publish(run, model, NAME, benchmark="openai/gsm8k")


def test_a_data_set_that_is_no_benchmark_is_refused(run, model):
    with pytest.raises(BadInput, match=r"--benchmark gsm8k: not among those registered"):
        publish(run, model, NAME, benchmark="gsm8k")
