"""From a question to an answer with the embedded overthinker, and what cannot be loaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from efficient_reasoning import answers
from efficient_reasoning.checkpoint import resolve_model
from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import load_reasoner, solve, solve_many
from efficient_reasoning.problems import load_problems

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
QUESTION = "Compute 34 + 27 - 15 + 88."


@pytest.fixture(scope="module")
def reasoner():
    return load_reasoner("overthinker", device="cpu")


@pytest.fixture(scope="module")
def problems():
    return load_problems("mixed", "test", 64)


def solve_all(reasoner, problems, strategy, budget_tokens, **sampling):
    questions = [problem["question"] for problem in problems]
    return solve_many(reasoner, questions, strategy, budget_tokens, seeds=range(len(questions)), **sampling)


@pytest.mark.parametrize(
    ("strategy", "budget_tokens"),
    [("budget-forcing", budget) for budget in (7, 24, 64, 130)] + [("no-thinking", 3), ("no-thinking", 64)],
)
def test_budgets_hold_and_the_ledger_is_what_stands_in_the_response(reasoner, problems, strategy, budget_tokens):
    for solution in solve_all(reasoner, problems, strategy, budget_tokens):
        assert solution.spend.tokens == len(solution.completion_ids) <= budget_tokens
        ends = not solution.truncated  # EOS was decoded, but is no part of the length
        assert solution.total_tokens == len(solution.completion_ids) - ends
        assert (solution.completion_ids[-1] in reasoner.thinking.eos_ids) == ends
        count = reasoner.thinking.count(solution.completion_ids, solution.prompt_ids)
        assert (solution.thinking_tokens, solution.answer_tokens) == (count.thinking_tokens, count.answer_tokens)
        assert solution.spend.forced_tokens == (0 if not solution.forced_close else 1 + (strategy == "no-thinking"))
        assert solution.spend.seconds > 0


def test_without_a_budget_the_overthinker_is_right_and_long(reasoner, problems):
    solutions = solve_all(reasoner, problems, "budget-forcing", None)
    right = answers.verify_many(problems, [solution.answer for solution in solutions])
    assert sum(right) / len(right) > 0.8
    assert sum(solution.thinking_tokens for solution in solutions) / len(solutions) > 60
    assert not any(solution.forced_close for solution in solutions)
    assert all("<think>" not in solution.thinking and "</think>" not in solution.answer for solution in solutions)


def test_the_same_seeds_give_the_same_solutions_in_any_order(reasoner, problems):
    few = problems[:8]
    questions, seeds = [problem["question"] for problem in few], list(range(8))
    first = solve_many(reasoner, questions, budget_tokens=64, seeds=seeds)
    again = solve_many(reasoner, questions[::-1], budget_tokens=64, seeds=seeds[::-1])[::-1]
    assert [solution.completion_ids for solution in first] == [solution.completion_ids for solution in again]
    other = solve_many(reasoner, questions, budget_tokens=64, seeds=[seed + 1000 for seed in seeds])
    assert [solution.completion_ids for solution in first] != [solution.completion_ids for solution in other]
    alone = solve(reasoner, questions[3], budget_tokens=64, seed=3)
    assert alone.completion_ids == first[3].completion_ids


def test_progress_counts_every_problem(reasoner):
    done = []
    solve_many(reasoner, [QUESTION] * 5, budget_tokens=12, seeds=range(5), progress=done.append)
    assert sum(done) == 5


def test_greedy_solving_is_what_generate_writes(reasoner):
    import torch

    solution = solve(reasoner, QUESTION, temperature=0, max_new_tokens=200)
    ids = torch.tensor([solution.prompt_ids])
    with torch.inference_mode():
        output = reasoner.engine.model.generate(ids, max_new_tokens=200, do_sample=False)
    assert output[0, ids.shape[1] :].tolist() == solution.completion_ids
    assert solution.prompt_ids == reasoner.tokenizer(f"{QUESTION}\n")["input_ids"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"budget_tokens": 0}, "budget_tokens is 0; give at least 1"),
        ({"budget_tokens": -5}, "budget_tokens is -5"),
        ({"budget_tokens": 5}, "of which 6 are reserved"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"strategy": "budget-forcin"}, "did you mean budget-forcing"),
        ({"temprature": 0.5}, "no parameter 'temprature'"),
        ({"top_p": 2.0}, "top_p is 2.0"),
    ],
)
def test_bad_options_are_named(reasoner, options, sentence):
    with pytest.raises(BadInput, match=sentence):
        solve(reasoner, QUESTION, **options)


# ---- the front door ----


def test_solve_from_the_command_line(tmp_path):
    rows = [{"id": str(i), "question": f"Compute {i} + 20 + 3.", "answer": str(i + 23)} for i in range(3)]
    problems, out = tmp_path / "problems.jsonl", tmp_path / "solved.jsonl"
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "efficient_reasoning.cli", "solve", "--model", "overthinker"]
    command += ["--file", str(problems), "--budget-tokens", "40", "--out", str(out)]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    solved = [json.loads(line) for line in out.read_text().splitlines()]
    assert [{key: row[key] for key in rows[0]} for row in solved] == rows
    for row in solved:
        spent = row["spend"]["decoded_tokens"] + row["spend"]["forced_tokens"]
        assert row["total_tokens"] <= spent <= 40


# ---- what cannot be loaded ----


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the overthinker that a test may spoil."""
    return Path(shutil.copytree(resolve_model("overthinker"), tmp_path / "model"))


def test_a_folder_is_called_by_its_name(folder):
    assert load_reasoner(str(folder), device="cpu").name == "model"


def test_a_checkpoint_without_a_tokenizer_is_refused(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(BadInput, match=r"model: the checkpoint has no tokenizer; copy tokenizer\.json"):
        load_reasoner(str(folder))


def test_truncated_weights_are_refused(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(BadInput, match=r"model\.safetensors: truncated"):
        load_reasoner(str(folder))


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        (
            "1 + 1 = " * 125_000,
            r"The question '1 \+ 1 = .*'\.\.\. takes [0-9,]+ tokens, and overthinker reads 1,024; shorten",
        ),
        (" ", "A question is empty"),
    ],
)
def test_questions_that_no_model_can_read_are_refused(question, sentence):
    with pytest.raises(BadInput, match=sentence):
        solve(load_reasoner("overthinker", device="cpu"), question)


def test_backends_give_the_same_answers():
    questions = ["Compute 34 + 27 - 15 + 88.", "Chickens and rabbits: 24 heads and 56 legs. How many chickens?"]
    answers = {
        backend: solve_many(
            load_reasoner("overthinker", backend, device="cpu"), questions, budget_tokens=90, seeds=[1, 2]
        )
        for backend in ("graph", "transformers")
    }
    assert [one.completion_ids for one in answers["graph"]] == [one.completion_ids for one in answers["transformers"]]


def test_an_unknown_backend_is_refused():
    with pytest.raises(BadInput, match="Unknown backend 'transformer', did you mean transformers"):
        load_reasoner("overthinker", backend="transformer")


def test_a_model_may_end_its_turn_with_another_token(folder):
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": [1, 7]}))
    assert load_reasoner(str(folder), device="cpu").engine.eos_ids == {1, 7}


def test_importing_inference_leaves_torch_alone():
    code = (
        "import sys, efficient_reasoning.inference; assert 'torch' not in sys.modules; sys.modules['torch'] = None; "
    )
    code += "from efficient_reasoning.inference import Ledger, get_strategy; get_strategy('budget-forcing')"
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True)


# ---- backends ----

QUESTIONS = ["Compute 34 + 27 - 15 + 88.", "Compute 12 + 9 - 4."]


def test_the_mock_backend_says_its_script():
    script = load_reasoner("overthinker", "mock", script=("34+27=61.", "88"))
    [free] = solve_many(script, QUESTIONS[:1], seeds=[0])
    assert (free.thinking, free.answer, free.truncated) == ("34+27=61.", "88", False)
    [short] = solve_many(script, QUESTIONS[:1], budget_tokens=12, seeds=[0])
    assert short.forced_close
    assert (short.answer, short.truncated) == ("88", False)
    assert "34+27=61.".startswith(short.thinking)
    assert short.spend.tokens <= 12


def test_an_engine_that_cannot_do_what_a_strategy_needs_is_named_with_those_that_can():
    script = load_reasoner("overthinker", "mock", script=("34+27=61.", "88"))
    with pytest.raises(
        BadInput, match="'close-scaling' needs logit_bias, which backend mock does not have; use graph or transformers"
    ):
        solve(script, QUESTIONS[0], strategy="close-scaling", budget_tokens=64)


def test_a_draft_model_passes_through(tmp_path):
    plain = load_reasoner("overthinker", "transformers", device="cpu")
    drafted = load_reasoner("overthinker", "transformers", device="cpu", draft="overthinker")
    ours, theirs = (solve(one, QUESTIONS[0], budget_tokens=40, seed=3) for one in (drafted, plain))
    assert ours.completion_ids == theirs.completion_ids
    assert ours.spend.draft_tokens > 0 == theirs.spend.draft_tokens
    assert ours.spend.flops > theirs.spend.flops


def test_kept_reasoning_is_a_forced_close_that_led_nowhere():
    rambling = load_reasoner("overthinker", "mock", script=("so " * 40, "so " * 40))
    solution = solve(rambling, QUESTIONS[0], budget_tokens=24)
    assert solution.kept_reasoning
    assert not solve(load_reasoner("overthinker", "mock", script=("so " * 40, "8")), QUESTIONS[0]).kept_reasoning


def test_options_may_stand_behind_the_backend():
    engine = load_reasoner("overthinker", "graph?rows=7&stride=2", compile_step=False).engine
    assert (engine.rows, engine.stride, engine.compile_step) == (7, 2, False)
    with pytest.raises(BadInput, match=r"backend graph: rows must be int, found 'many'"):
        load_reasoner("overthinker", "graph?rows=many")
    with pytest.raises(BadInput, match=r"Backend auto has no option 'rows'"):
        load_reasoner("overthinker", "auto?rows=7")
    for backend in ("auto", "graph", "transformers"):
        assert str(load_reasoner("overthinker", f"{backend}?dtype=bfloat16").engine.model.dtype) == "torch.bfloat16"
    with pytest.raises(BadInput, match=r"dtype is .int8.; give one of float32, bfloat16, float16\."):
        load_reasoner("overthinker", "graph?dtype=int8")


@pytest.mark.parametrize(
    ("backend", "option", "sentence"),
    [
        ("graph", "row", "Backend graph has no option 'row', did you mean rows"),
        ("transformers", "rows", "Backend transformers has no option 'rows'"),
        ("mock", "rows", "Backend mock has no option 'rows'"),
        ("openai", "concurrency", "Backend openai has no option 'concurrency'"),
    ],
)
def test_unknown_options_of_a_backend_are_refused(backend, option, sentence):
    with pytest.raises(BadInput, match=sentence):
        load_reasoner("overthinker", backend, **{option: 1})


def test_a_script_without_an_answer_is_one_sentence_under_a_budget():
    silent = load_reasoner("overthinker", "mock", script=("", ""))
    with pytest.raises(BadInput, match="nothing to say that is not forbidden"):
        solve(silent, QUESTIONS[0], budget_tokens=20)
    assert solve(load_reasoner("overthinker", "mock"), QUESTIONS[0], budget_tokens=20).answer == "0"
