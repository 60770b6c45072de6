"""The do-no-harm suite: its problems are sound, a run gets its numbers, and two runs are compared if they can be."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from efficient_reasoning import cli
from efficient_reasoning.answers import verify, verify_many
from efficient_reasoning.checkpoint import ASSETS
from efficient_reasoning.errors import BadInput
from efficient_reasoning.evaluation import compare_off_target, load_suite, run_off_target
from efficient_reasoning.evaluation.off_target import CHECKS, TOGETHER
from efficient_reasoning.files import read_jsonl, write_jsonl
from efficient_reasoning.prompts import conversation

ROOT = Path(__file__).parents[2]


@pytest.fixture
def knowing(fake_reasoner):
    """`knowing(checks)`: a reasoner that is right on all problems of these checks, and wrong on the others."""

    class Knowing(fake_reasoner):
        def __init__(self, known=CHECKS, suite=None, thinking_tokens=60):
            super().__init__(thinking_tokens=thinking_tokens)
            suite = suite or load_suite()
            self.golds = {str(conversation(row)): row["answer"] for check in known for row in suite[check]}

        def solve(self, question, budget, seed):
            solution = super().solve("Compute 1 + 1.", budget, seed)
            solution.answer = self.golds.get(str(question), "no idea")
            return solution

    return Knowing


# ---- the problems ----


def test_every_check_has_a_few_dozen_problems_that_verify_their_answers():
    suite = load_suite()
    assert tuple(suite) == CHECKS
    assert {path.stem for path in (ASSETS / "off_target").iterdir()} == set(CHECKS)
    for problems in suite.values():
        assert 20 <= len(problems) <= 50
        assert len({str(conversation(problem)) for problem in problems}) == len(problems)
        assert all(verify_many(problems, [problem["answer"] for problem in problems]))
        assert not any(verify_many(problems, ["I cannot say."] * len(problems)))
    assert sum(map(len, suite.values())) <= 200


def test_checks_are_about_what_their_names_say():
    suite = load_suite()
    assert len({problem["metadata"]["language"] for problem in suite["languages"]}) == 8
    # Above, languages part thousands with points, commas or blanks.
    assert max(int(problem["answer"]) for problem in suite["languages"]) < 1000
    assert all(len(problem["metadata"]["earlier_turns"]) in (2, 4) for problem in suite["multi_turn"])
    calls = [json.loads(problem["answer"]) for problem in suite["tool_calls"]]
    assert all(call["name"] in problem["question"] for call, problem in zip(calls, suite["tool_calls"], strict=True))
    assert len({call["name"] for call in calls}) == 6
    unknown = [verify(problem, 'Hm. {"answer": "unknown"}') for problem in suite["abstention"]]
    assert sum(unknown) == len(unknown) / 2


def test_the_script_writes_the_files_that_are_there(tmp_path, capsys):
    script = runpy.run_path(str(ROOT / "scripts" / "off_target_suite.py"))
    script["main"].__globals__["FOLDER"] = tmp_path
    script["main"]()
    for check in CHECKS:
        assert (tmp_path / f"{check}.jsonl").read_bytes() == (ASSETS / "off_target" / f"{check}.jsonl").read_bytes()


# ---- a run ----


def test_a_run_gets_its_numbers(knowing, tmp_path):
    reasoner = knowing(("tool_calls", "multi_turn"))
    result = run_off_target(reasoner, load_suite(), tmp_path, seed=4)
    assert result == json.loads((tmp_path / "off_target.json").read_text())
    assert (result["model"], result["weights"], result["sampling"]["seed"]) == ("fake", "0123abcd", 4)
    for check, numbers in result["checks"].items():
        traces = list(read_jsonl(tmp_path / "off_target" / f"{check}.jsonl"))
        assert numbers["n"] == len(traces) == len(load_suite()[check])
        assert numbers["accuracy"]["mean"] == (check in ("tool_calls", "multi_turn"))
        assert numbers["accuracy"]["low"] < numbers["accuracy"]["high"]
        tokens = [trace["total_tokens"] for trace in traces]
        assert numbers["total_tokens"]["mean"] == pytest.approx(sum(tokens) / len(tokens))
        assert numbers["strategy"] == ("no-thinking" if check == "no_thinking" else "budget-forcing")
        assert {trace["strategy"] for trace in traces} == {numbers["strategy"]}
    asked = [question for call in reasoner.calls for question in call[2]]
    assert [question[0]["role"] for question in asked if isinstance(question, list)] == ["user"] * 24


def test_what_is_there_is_not_solved_again(knowing, tmp_path):
    first = knowing()
    done = run_off_target(first, load_suite(), tmp_path)
    (tmp_path / "off_target.json").unlink()
    (tmp_path / "off_target" / "languages.jsonl").unlink()
    again = knowing()
    assert run_off_target(again, load_suite(), tmp_path) == done
    assert [len(call[2]) for call in again.calls] == [done["checks"]["languages"]["n"]]


def test_own_files_stand_beside_the_shipped_ones(knowing, tmp_path):
    write_jsonl(tmp_path / "mine.jsonl", ({"ask": f"{n}+1?", "answer": n + 1} for n in range(60)))
    suite = load_suite([f"{tmp_path / 'mine.jsonl'}?question=ask"])
    result = run_off_target(knowing(["mine"], suite), suite, tmp_path / "run")
    assert tuple(result["checks"]) == (*CHECKS, "mine")
    assert (result["checks"]["mine"]["n"], result["checks"]["mine"]["accuracy"]["mean"]) == (50, 1.0)


def test_own_checks_stay_when_they_are_not_named_again(knowing, tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    first = run_off_target(knowing(), load_suite([str(tmp_path / "mine.jsonl")]), tmp_path / "run")
    assert run_off_target(knowing(), load_suite(), tmp_path / "run") == first
    assert list(run_off_target(knowing(), load_suite(), tmp_path / "run", seed=0)["checks"]) == [*CHECKS, "mine"]


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("languages.jsonl", {"question": "1+1?", "answer": "2"}, "there is a check 'languages' already; rename"),
        ("all.jsonl", {"question": "1+1?", "answer": "2"}, "there is a check 'all' already; rename"),
        ("mine.jsonl", {"question": "1+1?"}, "line 1: no answer among its columns"),
        ("mine.jsonl", {"question": "?", "answer": "[1]", "task": "json"}, "the answer is no JSON object"),
    ],
)
def test_bad_files_are_named_before_anything_runs(tmp_path, name, row, message):
    write_jsonl(tmp_path / name, [row])
    with pytest.raises(BadInput, match=message):
        load_suite([str(tmp_path / name)])


def test_a_check_that_the_model_cannot_read_says_so(knowing, tmp_path):
    reasoner = knowing()
    reasoner.context_tokens = 300
    checks = run_off_target(reasoner, load_suite(), tmp_path)["checks"]
    assert list(checks["tool_calls"]) == ["not_checked"]
    assert "tokens, and fake reads 300" in checks["tool_calls"]["not_checked"]
    assert checks["abstention"]["accuracy"]["mean"] == 1


def test_a_folder_of_other_weights_is_left_alone(knowing, tmp_path):
    (tmp_path / "config.yaml").write_text("weights: ffff\n")
    with pytest.raises(BadInput, match="holds a run of other weights than those of fake; choose another out"):
        run_off_target(knowing(), load_suite(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_from_the_command_line(tmp_path, capsys, monkeypatch):
    """The mock says 0 to everything, which is where water freezes."""
    line = ["evaluate", "--model", "overthinker", "--backend", "mock", "--task", "sums", "--num-problems", "4"]
    cli.main([*line, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run" / "off_target.json").exists()
    cli.main([*line, "--out", str(tmp_path / "run"), "--off-target"])
    checks = json.loads((tmp_path / "run" / "off_target.json").read_text())["checks"]
    right = {check: round(numbers["accuracy"]["mean"] * numbers["n"]) for check, numbers in checks.items()}
    assert right == dict.fromkeys(CHECKS, 0) | {"no_thinking": 1}
    assert checks["multi_turn"]["total_tokens"]["mean"] == 4  # a thought, an answer, and the delimiters


# ---- two runs ----


@pytest.fixture
def two_runs(knowing, tmp_path):
    """The second has forgotten how to call tools, and is brief."""
    run_off_target(knowing(), load_suite(), tmp_path / "a")
    forgetful = knowing([check for check in CHECKS if check != "tool_calls"], thinking_tokens=20)
    run_off_target(forgetful, load_suite(), tmp_path / "b")
    return tmp_path / "a", tmp_path / "b"


def test_harm_is_shown_check_by_check_and_together(two_runs):
    changes = {change.check: change for change in compare_off_target(*two_runs)}
    assert tuple(changes) == (*CHECKS, TOGETHER)
    harmed = changes["tool_calls"]
    assert (harmed.mark, harmed.n, harmed.baseline_accuracy, harmed.accuracy) == ("-", 24, 1.0, 0.0)
    assert harmed.accuracy_change.mean == -1
    assert changes["languages"].mark == "?" and changes["languages"].accuracy_change.mean == 0
    assert changes["languages"].tokens_change.mean == pytest.approx(-40 / 63, abs=0.05)
    together = changes[TOGETHER]
    assert (together.mark, together.n) == ("-", 168)
    assert together.accuracy_change.mean == pytest.approx(-24 / 168)
    back = compare_off_target(two_runs[1], two_runs[0])[1]
    assert (back.mark, back.reason) == ("+", "the baseline solves none of them, so nothing can be lost")
    assert harmed.reason == ""


def test_what_was_not_checked_says_so(two_runs, tmp_path):
    for pair, reason in (
        ((two_runs[0], tmp_path / "none"), "the run has no such check"),
        ((tmp_path / "none", two_runs[0]), "the baseline has no such check"),
        ((tmp_path / "none", tmp_path / "none either"), "the baseline has no such check"),
    ):
        changes = compare_off_target(*pair)
        assert [(change.check, change.mark, change.reason) for change in changes] == [
            (check, "not checked", reason) for check in CHECKS
        ]
        assert {change.accuracy_change for change in changes} == {None}


def test_numbers_that_are_torn_are_named(two_runs):
    (two_runs[1] / "off_target.json").write_text("{")
    with pytest.raises(BadInput, match=r"off_target\.json: not valid JSON"):
        compare_off_target(*two_runs)


def test_other_problems_and_other_settings_are_told(two_runs, knowing, tmp_path):
    path = two_runs[1] / "off_target.json"
    result = json.loads(path.read_text())
    result["checks"]["languages"]["problems_fingerprint"] = "0"
    result["checks"]["abstention"] = {"not_checked": "It is too long."}
    result["sampling"]["temperature"] = 0
    path.write_text(json.dumps(result))
    changes = {change.check: change for change in compare_off_target(*two_runs)}
    assert (changes["languages"].mark, changes["languages"].reason) == (
        "not checked",
        "the runs have other problems under this name",
    )
    assert changes["abstention"].reason == "It is too long."
    assert changes["tool_calls"].mark == "-" and changes["tool_calls"].reason == "the runs differ in temperature"
    assert changes[TOGETHER].n == 168 - 32 - 32
