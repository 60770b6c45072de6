"""Planning: which point is chosen for a budget, where it is written, and what follows it."""

from __future__ import annotations

import dataclasses
import json

import pytest

from efficient_reasoning import load_reasoner, solve
from efficient_reasoning.checkpoint import ReasoningMetadata, weights_fingerprint
from efficient_reasoning.errors import BadInput
from efficient_reasoning.evaluation import evaluate, plan
from efficient_reasoning.inference.mock_engine import MockEngine
from efficient_reasoning.problems import load_problems
from efficient_reasoning.traces import FORMAT
from tests.inference.minds import PLAIN, WORD, reasoner_of, stubborn

# By (strategy, budget): accuracy, mean cost and the upper end of its interval.
POINTS = {
    ("no-thinking", None): (0.6, 5, 6),
    ("budget-forcing", 64): (0.8, 60, 62),
    ("probe-switch?probe=p", None): (0.95, 90, 101),
    ("adaptive-consistency", None): (0.95, 95, 99),
    ("budget-forcing", None): (1.0, 140, 150),
}


def write_run(folder, points=POINTS, **config) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    measured = [
        {
            "strategy": strategy,
            "budget_tokens": budget,
            "accuracy": {"mean": accuracy},
            "total_tokens": {"mean": mean},
            "generated_tokens": {"mean": mean, "high": most},
            "flops": {"mean": 1e6 * mean, "high": 1e6 * most},
            "seconds_per_problem": {"mean": mean / 100},
        }
        for (strategy, budget), (accuracy, mean, most) in points.items()
    ]
    given = {"format": FORMAT, "problems_fingerprint": "p", "weights": "w", "temperature": 0.6} | config
    (folder / "summary.json").write_text(json.dumps({"config": given, "points": measured}))
    return str(folder)


@pytest.mark.parametrize(
    ("budget", "unit", "expected"),
    [
        (1000, "tokens", ("budget-forcing", None)),
        (149, "tokens", ("probe-switch?probe=p", None)),  # as accurate as the next, and cheaper
        (100, "tokens", ("adaptive-consistency", None)),  # whose interval lies within
        (61, "tokens", ("no-thinking", None)),
        (62e6, "flops", ("budget-forcing", 64)),
        (0.6, "seconds", ("budget-forcing", 64)),
    ],
)
def test_the_most_accurate_that_surely_fits_is_chosen(tmp_path, budget, unit, expected):
    chosen = plan([write_run(tmp_path / "run")], budget, unit).chosen
    assert (chosen.strategy, chosen.budget_tokens) == expected


def test_points_of_several_runs_are_one_choice(tmp_path):
    cheap = dict(list(POINTS.items())[:2])
    dear = dict(list(POINTS.items())[2:])
    runs = [write_run(tmp_path / "dear", dear), write_run(tmp_path / "cheap", cheap)]
    found = plan(runs, 70)
    assert (found.chosen.strategy, found.chosen.budget_tokens, found.chosen.run) == ("budget-forcing", 64, runs[1])
    assert [point.cost for point in found.points] == [5, 60, 90, 95, 140]
    assert "* budget-forcing" in str(found) and "- budget-forcing" in str(found)


def test_runs_that_do_not_belong_together_are_refused(tmp_path):
    runs = [write_run(tmp_path / "one"), write_run(tmp_path / "two", problems_fingerprint="q", temperature=1.0)]
    with pytest.raises(BadInput, match=r"two: differs from .*one in problems_fingerprint, temperature"):
        plan(runs, 100)


def test_runs_with_another_file_under_one_name_are_refused(tmp_path):
    runs = [write_run(tmp_path / name, others={"p": name}) for name in ("one", "two")]
    with pytest.raises(BadInput, match=r"two: p was another when .*one was measured; evaluate with it again"):
        plan(runs, 100)


def test_a_budget_that_nothing_keeps_is_refused(tmp_path):
    with pytest.raises(BadInput, match="budget of 5 tokens is below what the cheapest setting takes: no-thinking"):
        plan([write_run(tmp_path / "run")], 5)


def test_a_plan_is_not_planned_with(tmp_path):
    run = write_run(tmp_path / "run", POINTS | {("planned?tokens=9", None): (1.0, 1, 1)})
    assert plan([run], 100).chosen.strategy == "adaptive-consistency"


def test_runs_of_plans_alone_leave_nothing_to_choose_from(tmp_path):
    with pytest.raises(BadInput, match="run: holds points of planned alone"):
        plan([write_run(tmp_path / "run", {("planned", None): (1.0, 1, 1)})], 100)


def test_operations_that_a_backend_does_not_know_are_not_planned_with(tmp_path):
    run = write_run(tmp_path / "run", backend="vllm")
    assert plan([run], 1000).chosen.accuracy == 1.0
    with pytest.raises(BadInput, match=r"run: backend vllm does not know .* in operations; plan for tokens"):
        plan([run], 1e9, "flops")


@pytest.fixture
def checkpoint(tiny_model, tmp_path):
    """A folder of ours."""
    import shutil

    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_model, folder)
    ReasoningMetadata("sft", "sft", operating_points=[{"strategy": "l1-max"}]).save(folder)
    return folder


def test_a_checkpoint_remembers_one_plan_a_budget_and_solves_by_it(tmp_path, checkpoint):
    run = write_run(tmp_path / "run", weights=weights_fingerprint(str(checkpoint)))
    for budget in (70, 20, 70):
        plan([run], budget).save(checkpoint)
    points = ReasoningMetadata.load(checkpoint).operating_points
    assert [point.get("planned_for") for point in points] == [None, {"tokens": 20}, {"tokens": 70}]

    reasoner = load_reasoner(str(checkpoint), "mock")
    within = solve(reasoner, "Compute 3 + 4.", "planned?tokens=70")
    assert within == solve(reasoner, "Compute 3 + 4.", "budget-forcing", 64)
    assert solve(reasoner, "Compute 3 + 4.", "planned?tokens=70", 9).spend.tokens <= 9
    at_once = solve(reasoner, "Compute 3 + 4.", "planned?tokens=20")
    assert at_once == solve(reasoner, "Compute 3 + 4.", "no-thinking")
    with pytest.raises(BadInput, match=r"name one of planned\?tokens=20, planned\?tokens=70"):
        solve(reasoner, "Compute 3 + 4.", "planned")


def test_a_run_of_a_plan_is_not_resumed_with_another(tmp_path, checkpoint):
    problems = load_problems("sums", "test", 2, seed=0)
    run = write_run(tmp_path / "run", weights=weights_fingerprint(str(checkpoint)))
    given = {"strategies": ["planned?tokens=70"], "max_new_tokens": 40, "out": tmp_path / "planned"}
    plan([run], 70).save(checkpoint)
    evaluate(load_reasoner(str(checkpoint), "mock"), problems, **given)
    plan([run], 20).save(checkpoint)  # for another budget
    evaluate(load_reasoner(str(checkpoint), "mock"), problems, **given)
    plan(
        [
            write_run(
                tmp_path / "run", {("no-thinking", None): (0.6, 5, 6)}, weights=weights_fingerprint(str(checkpoint))
            )
        ],
        70,
    ).save(checkpoint)
    with pytest.raises(BadInput, match="holds a run that differs in others"):
        evaluate(load_reasoner(str(checkpoint), "mock"), problems, **given)


def test_a_planned_budget_holds_the_latents_that_it_held_when_it_was_measured():
    point = {"strategy": "budget-forcing", "budget_tokens": 40, "planned_for": {"tokens": 50}}
    reasoner = reasoner_of(MockEngine(stubborn(WORD, PLAIN), PLAIN.eos_ids), PLAIN)
    reasoner = dataclasses.replace(
        reasoner, metadata=ReasoningMetadata("sft", "sft", operating_points=[point]), latent_ids=(WORD,) * 8
    )
    measured = solve(reasoner, "so so?", "budget-forcing", 40)
    assert measured.spend.tokens == 40
    assert solve(reasoner, "so so?", "planned").spend.tokens == 40


def test_a_checkpoint_without_a_plan_says_how_to_get_one(checkpoint):
    with pytest.raises(BadInput, match="has 0 plans like that; write one with `efficient-reasoning plan`"):
        solve(load_reasoner(str(checkpoint), "mock"), "Compute 3 + 4.", "planned")


def test_other_weights_and_other_folders_hold_no_plan(tmp_path, checkpoint):
    found = plan([write_run(tmp_path / "run")], 70)
    with pytest.raises(BadInput, match="measured other weights than those in"):
        found.save(checkpoint)
    with pytest.raises(BadInput, match=r"has no reasoning\.json"):
        dataclasses.replace(found).save(tmp_path)
