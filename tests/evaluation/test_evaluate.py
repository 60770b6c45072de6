"""A run is a folder: complete, resumable, reproducible, and clean enough to publish."""

from __future__ import annotations

import csv
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from efficient_reasoning.errors import BadInput
from efficient_reasoning.evaluation import evaluate, evaluate_model
from efficient_reasoning.evaluation.summary import summarise
from efficient_reasoning.files import read_jsonl, write_jsonl
from efficient_reasoning.traces import sample_seed

FILES = {"samples.jsonl", "summary.json", "curve.csv", "curve.png", "config.yaml", "environment.json"}


def read_samples(run: Path) -> list[dict]:
    return list(read_jsonl(run / "samples.jsonl"))


def keys(samples: list[dict]) -> list[tuple]:
    return [(row["strategy"], row["budget_tokens"], row["id"], row["sample_index"]) for row in samples]


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr("efficient_reasoning.traces.CHUNK_REQUESTS", 16)


def test_a_run_is_the_folder_of_the_contract(problems, fake_reasoner, tmp_path):
    run = evaluate(fake_reasoner(), problems, budgets=(None, 32), samples_per_problem=2, out=tmp_path / "a run")
    assert {path.name for path in run.iterdir()} == FILES | {"coverage.png"}
    samples = read_samples(run)
    assert len(samples) == len(set(keys(samples))) == 2 * 2 * 40

    summary = json.loads((run / "summary.json").read_text())
    unlimited, limited = summary["points"]
    own = [row for row in samples if row["budget_tokens"] is None]
    total = [row["total_tokens"] for row in own]
    assert (unlimited["n"], unlimited["n_problems"]) == (80, 40)
    assert unlimited["accuracy"]["mean"] == pytest.approx(np.mean([row["correct"] for row in own]))
    assert unlimited["total_tokens"]["mean"] == pytest.approx(np.mean(total))
    assert unlimited["total_tokens"]["p95"] == pytest.approx(np.quantile(total, 0.95))
    assert unlimited["thinking_tokens"]["mean"] + 3 == pytest.approx(unlimited["total_tokens"]["mean"])
    for name in ("accuracy", "thinking_tokens", "total_tokens"):
        assert unlimited[name]["low"] < unlimited[name]["mean"] < unlimited[name]["high"]
    assert unlimited["decoded_tokens"] == sum(total) + len(total)
    assert unlimited["seconds"] == pytest.approx(0.8)
    assert (unlimited["forced_close_share"], limited["forced_close_share"]) == (0, 1)
    assert limited["total_tokens"]["mean"] == 32
    assert limited["accuracy"]["mean"] < unlimited["accuracy"]["mean"]

    assert [(group["difficulty"], group["n_problems"]) for group in unlimited["by_difficulty"]] == [
        (3, 14),
        (4, 13),
        (5, 13),
    ]
    assert [(group["task"], group["n"]) for group in unlimited["by_task"]] == [("sums", 80)]
    assert summary["statistics"]["resamples"] == 10_000
    assert summary["config"]["temperature"] == 0.6


def test_what_became_of_forced_closes_and_budgets(problems, fake_reasoner, tmp_path):
    run = evaluate(fake_reasoner(), problems[:4], budgets=(None, 32), out=tmp_path / "run")
    rows = [row for row in read_samples(run) if row["budget_tokens"] == 32]
    # (closed by force, cut off, tokens decoded, forced and masked)
    kinds = [(True, True, 30, 2, 0), (True, False, 20, 1, 3), (False, True, 32, 0, 0), (False, False, 40, 1, 1)]
    for row, (closed, cut, decoded, forced, masked) in zip(rows, kinds, strict=True):
        row |= {"forced_close": closed, "truncated": cut}
        row["spend"] |= {"decoded_tokens": decoded, "forced_tokens": forced, "masked_tokens": masked}
    config = {"strategies": ["budget-forcing"], "budgets": [32]}
    [point] = summarise(rows, config)["points"]
    assert point["forced_close_share"] == point["truncated_share"] == 0.5
    assert point["kept_reasoning_share"] == 0.25
    assert point["within_budget_share"] == 0.75
    assert point["masked_tokens"] == 4
    [point] = summarise([row | {"budget_tokens": None} for row in rows], config | {"budgets": [None]})["points"]
    assert point["within_budget_share"] == 1


@pytest.mark.usefixtures("without_pictures")
def test_the_csv_repeats_the_summary(problems, fake_reasoner, tmp_path):
    run = evaluate(fake_reasoner(), problems, budgets=(None, 32), out=tmp_path / "run")
    point = json.loads((run / "summary.json").read_text())["points"][1]
    with open(run / "curve.csv", newline="") as stream:
        unlimited, row = csv.DictReader(stream)
    assert (unlimited["budget_tokens"], row["budget_tokens"]) == ("", "32")
    assert float(row["accuracy"]) == point["accuracy"]["mean"]
    assert float(row["accuracy_low"]) == point["accuracy"]["low"]
    assert float(row["total_tokens_p95"]) == point["total_tokens"]["p95"]


@pytest.mark.usefixtures("without_pictures")
def test_the_same_command_again_solves_nothing(problems, fake_reasoner, tmp_path):
    first = evaluate(fake_reasoner(), problems, out=tmp_path / "run")
    summary = (first / "summary.json").read_text()
    again = fake_reasoner()
    evaluate(again, problems, out=tmp_path / "run")
    assert again.calls == []
    assert (first / "summary.json").read_text() == summary


@pytest.mark.usefixtures("small_chunks", "without_pictures")
def test_a_killed_run_loses_and_doubles_nothing(problems, fake_reasoner, tmp_path):
    settings = {"budgets": (None, 32), "samples_per_problem": 2}
    whole = evaluate(fake_reasoner(), problems, **settings, out=tmp_path / "whole")
    lines = (whole / "samples.jsonl").read_bytes().splitlines(keepends=True)
    for lines_left, bytes_of_next in ((0, 0), (0, 7), (16, 0), (16, 200), (97, 1), (159, -1)):
        cut = tmp_path / f"cut {lines_left} {bytes_of_next}"
        cut.mkdir()
        (cut / "config.yaml").write_bytes((whole / "config.yaml").read_bytes())
        (cut / "samples.jsonl").write_bytes(b"".join(lines[:lines_left]) + lines[lines_left][:bytes_of_next])
        reasoner = fake_reasoner()
        evaluate(reasoner, problems, **settings, out=cut)
        assert sum(len(call[2]) for call in reasoner.calls) == 160 - lines_left
        assert sorted(read_samples(cut), key=str) == sorted(read_samples(whole), key=str)
        assert (cut / "summary.json").read_text() == (whole / "summary.json").read_text()


@pytest.mark.usefixtures("small_chunks")
def test_what_was_solved_before_an_interruption_is_kept(problems, fake_reasoner, tmp_path):
    class Interrupted(fake_reasoner):
        def solve(self, question, budget, seed):
            if len(self.calls) == 3:
                raise KeyboardInterrupt
            return super().solve(question, budget, seed)

    with pytest.raises(KeyboardInterrupt):
        evaluate(Interrupted(), problems, out=tmp_path / "run")
    assert len(read_samples(tmp_path / "run")) == 32
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.usefixtures("without_pictures")
def test_every_checkpoint_meets_a_problem_with_the_same_seed(problems, fake_reasoner, tmp_path):
    one, other = fake_reasoner("one"), fake_reasoner("other")
    evaluate(one, problems, samples_per_problem=2, budgets=(None, 32), out=tmp_path / "one")
    evaluate(other, list(reversed(problems)), samples_per_problem=2, out=tmp_path / "other")
    seeds = {}
    for row in read_samples(tmp_path / "one") + read_samples(tmp_path / "other"):
        seeds.setdefault((row["id"], row["sample_index"]), set()).add(row["seed"])
    assert all(len(found) == 1 for found in seeds.values())
    assert len(set.union(*seeds.values())) == 80
    assert sample_seed(0, "sum-1", 0) != sample_seed(1, "sum-1", 0)


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize(
    ("change", "named"),
    [({"temperature": 0.0}, "temperature"), ({"budgets": (16,)}, "budgets"), ({"seed": 1}, "seed")],
)
def test_another_configuration_is_refused(problems, fake_reasoner, tmp_path, change, named):
    evaluate(fake_reasoner(), problems, out=tmp_path / "run")
    before = (tmp_path / "run" / "samples.jsonl").read_bytes()
    with pytest.raises(BadInput, match=rf"differs in {named}; choose another out"):
        evaluate(fake_reasoner(), problems, **change, out=tmp_path / "run")
    assert (tmp_path / "run" / "samples.jsonl").read_bytes() == before


@pytest.mark.usefixtures("without_pictures")
def test_other_problems_or_another_model_are_refused(problems, fake_reasoner, tmp_path):
    evaluate(fake_reasoner(), problems, out=tmp_path / "run")
    edited = [{**problems[0], "answer": "7"}, *problems[1:]]
    with pytest.raises(BadInput, match="problems_fingerprint"):
        evaluate(fake_reasoner(), edited, out=tmp_path / "run")
    with pytest.raises(BadInput, match="model"):
        evaluate(fake_reasoner("other"), problems, out=tmp_path / "run")
    elsewhere = fake_reasoner()
    elsewhere.backend = "vllm"
    with pytest.raises(BadInput, match="differs in backend"):
        evaluate(elsewhere, problems, out=tmp_path / "run")


def test_a_folder_of_something_else_is_left_alone(problems, fake_reasoner, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(BadInput, match="no evaluation run"):
        evaluate(fake_reasoner(), problems, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budgets": (0,)}, "budget_tokens is 0"),
        ({"budgets": ()}, "no budgets"),
        ({"strategies": ()}, "no strategies"),
        ({"samples_per_problem": 0}, "samples_per_problem is 0"),
    ],
)
def test_a_request_without_sense_is_refused_before_anything_is_written(
    problems, fake_reasoner, tmp_path, change, message
):
    with pytest.raises(BadInput, match=message):
        evaluate(fake_reasoner(), problems, **change, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_problems_and_repeated_ids_are_refused(problems, fake_reasoner, tmp_path):
    with pytest.raises(BadInput, match="no problems"):
        evaluate(fake_reasoner(), [], out=tmp_path / "run")
    with pytest.raises(BadInput, match="'sum-3' occurs twice"):
        evaluate(fake_reasoner(), [*problems, problems[3]], out=tmp_path / "run")


def test_a_run_can_be_published_as_it_is(problems, fake_reasoner, tmp_path):
    """No path of this machine in any file, also when the model was named by its path."""
    run = evaluate(fake_reasoner(str(tmp_path / "concise-model")), problems, out=tmp_path / "run")
    for name in FILES - {"curve.png"}:
        assert str(tmp_path) not in (run / name).read_text(), name
    assert yaml.safe_load((run / "config.yaml").read_text())["model"] == "concise-model"
    environment = json.loads((run / "environment.json").read_text())
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["packages"]["numpy"] == np.__version__
    assert str(Path.home()) not in json.dumps(environment)


def test_a_retrained_checkpoint_of_the_same_name_is_another_one(problems, fake_reasoner, tmp_path):
    evaluate(fake_reasoner(), problems, out=tmp_path / "run")
    retrained = fake_reasoner()
    retrained.weights = "other"
    with pytest.raises(BadInput, match="differs in weights"):
        evaluate(retrained, problems, out=tmp_path / "run")


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"budgets": (None, 4)}, "budget_tokens is 4, of which 6 are reserved"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"strategies": ("budget-forcin",)}, "Unknown strategy 'budget-forcin'"),
        ({"budgets": (64, 64)}, "budgets are 64, 64; give each of them once"),
    ],
)
def test_a_refused_request_claims_nothing(problems, fake_reasoner, tmp_path, request_, message):
    with pytest.raises(BadInput, match=message):
        evaluate(fake_reasoner(), problems, **request_, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    run = evaluate(fake_reasoner(), problems, out=tmp_path / "run")
    config = (run / "config.yaml").read_text()
    with pytest.raises(BadInput, match=message):
        evaluate(fake_reasoner(), problems, **request_, out=run)
    assert (run / "config.yaml").read_text() == config


def test_the_function_wins_over_the_module_of_the_same_name():
    program = (
        "import efficient_reasoning.evaluation.evaluate, efficient_reasoning.evaluation.compare\n"
        "from efficient_reasoning.evaluation import compare, evaluate\n"
        "from efficient_reasoning import evaluate as same\n"
        "import sys\n"
        "assert callable(evaluate) and callable(compare) and same is evaluate\n"
        "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules), 'heavy imports'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_model_is_evaluated_by_its_name_and_off_target(tmp_path):
    """Twenty short problems, and the shipped checks of half a minute."""
    own = tmp_path / "own.jsonl"
    write_jsonl(own, [{"question": "Compute 3 + 4.", "answer": "7"}])
    run = evaluate_model(
        "overthinker",
        ["sums", "heads_and_legs"],
        num_problems=10,
        strategies=["no-thinking"],
        off_target=[str(own)],
        seed=2,
        max_new_tokens=16,
        out=tmp_path / "run",
    )
    summary = json.loads((run / "summary.json").read_text())
    assert [group["task"] for group in summary["points"][0]["by_task"]] == ["heads_and_legs", "sums"]
    assert summary["contamination"]["problems"] == 20
    checks = json.loads((run / "off_target.json").read_text())
    assert (checks["sampling"]["seed"], checks["sampling"]["max_new_tokens"]) == (2, 16)
    assert set(checks["checks"]) > {"own", "languages"}


def test_several_samples_are_voted_on(problems, fake_reasoner, tmp_path):
    run = evaluate(fake_reasoner(skill=0.6), problems, samples_per_problem=3, out=tmp_path / "run")
    [point] = json.loads((run / "summary.json").read_text())["points"]
    verdicts = {}
    for row in read_samples(run):
        verdicts.setdefault(row["id"], []).append(row["correct"])
    assert point["pass_at_3"]["mean"] == pytest.approx(np.mean([any(own) for own in verdicts.values()]))
    pairs = [np.mean([a or b for a, b in itertools.combinations(own, 2)]) for own in verdicts.values()]
    assert point["pass_at_2"]["mean"] == pytest.approx(np.mean(pairs))
    # Wrong answers are all alike here, so the vote is on right or wrong; an empty answer does not vote.
    assert abs(point["majority"]["mean"] - np.mean([sum(own) > 1 for own in verdicts.values()])) < 0.1
    assert point["coverage_fit"].keys() == {"a", "b", "residual"}
    with open(run / "curve.csv", newline="") as stream:
        assert float(next(csv.DictReader(stream))["coverage_fit_b"]) == point["coverage_fit"]["b"]
    single = evaluate(fake_reasoner(), problems, out=tmp_path / "single")
    assert {path.name for path in single.iterdir()} == FILES
    assert not {"majority", "coverage_fit"} & json.loads((single / "summary.json").read_text())["points"][0].keys()


def test_where_no_law_fits_none_is_written(problems, fake_reasoner, tmp_path):
    run = evaluate(fake_reasoner(skill=-1.0), problems, samples_per_problem=4, out=tmp_path / "run")
    [point] = json.loads((run / "summary.json").read_text())["points"]
    assert point["pass_at_4"]["mean"] == 0 and "coverage_fit" not in point
    assert (run / "coverage.png").exists()


def test_spellings_of_the_right_answer_vote_together_and_programs_do_not_vote(problems, fake_reasoner, tmp_path):
    run = evaluate(fake_reasoner(), problems[:1], samples_per_problem=4, out=tmp_path / "run")
    rows = read_samples(run)
    for row, (answer, correct) in zip(rows, [("3", True), ("3.0", True), ("4", False), ("4", False)], strict=True):
        row |= {"task": "exact", "final_answer": answer, "correct": correct}
    config = {"strategies": ["budget-forcing"], "budgets": [None]}
    assert summarise(rows, config)["points"][0]["majority"]["mean"] == 0.5
    assert "majority" not in summarise([row | {"task": "unit_tests"} for row in rows], config)["points"][0]


def test_what_a_response_does_behind_its_answer(problems, fake_reasoner, tmp_path):
    run = evaluate(fake_reasoner(skill=0.5), problems, budgets=(32,), out=tmp_path / "run")
    rows = read_samples(run)
    for row in rows:
        row["first_correct_tokens"] = 8 if int(row["id"].partition("-")[2]) % 2 else None
        row["spend"]["decoded_tokens"] = 40
    [point] = summarise(rows, {"strategies": ["budget-forcing"], "budgets": [32]})["points"]
    shares = {True: [], False: []}
    for row in rows:
        shares[row["correct"]].append(8 / row["total_tokens"] if row["first_correct_tokens"] else 1.0)
    assert point["outcome_efficiency"]["mean"] == pytest.approx(np.mean(shares[True]))
    assert point["underthinking"]["mean"] == pytest.approx(np.mean([1 - share for share in shares[False]]))
    assert point["overshoot_tokens"] == {"mean": 8.0, "max": 8}
    assert point["within_budget_share"] == 0
    right = [row for row in rows if row["correct"]]
    [point] = summarise(right, {"strategies": ["budget-forcing"], "budgets": [32]})["points"]
    assert point["underthinking"] is None


@pytest.mark.parametrize("text", ["x: [", "- 1", ""])
def test_a_configuration_that_is_none_is_named(problems, fake_reasoner, tmp_path, text):
    evaluate(fake_reasoner(), problems, out=tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text(text)
    with pytest.raises(BadInput, match=r"config\.yaml: no configuration of a run"):
        evaluate(fake_reasoner(), problems, out=tmp_path / "run")
