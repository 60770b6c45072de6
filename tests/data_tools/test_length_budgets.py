"""Problems with a number of tokens in the prompt: in inference's words, drawn evenly, the same on every machine."""

from __future__ import annotations

import pytest

from data_tools.length_budgets import length_budgets, main
from efficient_reasoning.checkpoint import load_tokenizer, resolve_model
from efficient_reasoning.contamination import question_hash, training_problems
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl
from efficient_reasoning.inference import Assignment, Sampling, get_strategy
from efficient_reasoning.problems import load_problems
from efficient_reasoning.thinking import ThinkingFormat

TOKENIZER = load_tokenizer(resolve_model("overthinker"))


def problems(count: int = 300) -> list[dict]:
    return load_problems("mixed", "train", count, 0)


@pytest.mark.parametrize("form", ["exact", "max"])
def test_the_prompt_is_the_one_of_inference(form):
    """Of the strategy that names the same number."""
    [problem] = problems(1)
    [row] = length_budgets([problem], tokenizer=TOKENIZER, form=form, min_budget_tokens=50, max_budget_tokens=50)
    asked = []
    assignment = Assignment(
        [],
        ThinkingFormat.from_tokenizer(TOKENIZER),
        budget_tokens=57,  # less a reserve of seven
        max_new_tokens=100,
        sampling=Sampling(),
        seed=0,
        question=problem["question"],
        render=lambda question: asked.append(question) or TOKENIZER.encode(question),
    )
    next(get_strategy(f"l1-{form}").solve(assignment))
    assert [f"{question}\n" for question in asked] == [row["prompt"]]
    assert row["budget_tokens"] == 50 and row["question"] == problem["question"]


def test_numbers_are_drawn_evenly_and_follow_from_the_problem():
    given = problems()
    rows = list(length_budgets(given, tokenizer=TOKENIZER, min_budget_tokens=16, max_budget_tokens=128))
    numbers = [row["budget_tokens"] for row in rows]
    assert min(numbers) >= 16 and max(numbers) <= 128 and len(set(numbers)) > 90
    assert abs(sum(numbers) / len(numbers) - 72) < 6  # three standard errors
    backwards = length_budgets(given[::-1], tokenizer=TOKENIZER, min_budget_tokens=16, max_budget_tokens=128)
    assert [row["budget_tokens"] for row in backwards] == numbers[::-1]
    other = length_budgets(given, tokenizer=TOKENIZER, min_budget_tokens=16, max_budget_tokens=128, seed=1)
    assert [row["budget_tokens"] for row in other] != numbers


def test_a_problem_may_come_with_several_numbers():
    rows = list(length_budgets(problems(2), tokenizer=TOKENIZER, rows_per_problem=5))
    assert len(rows) == 10 and len({row["prompt"] for row in rows[:5]}) == 5
    assert len({row["source_id"] for row in rows[:5]}) == 1


def test_the_record_of_training_problems_knows_the_question():
    [row] = length_budgets(problems(1), tokenizer=TOKENIZER)
    assert question_hash(row["question"]) in training_problems([row]).hashes


def test_the_command_writes_rows(tmp_path, capsys):
    out = tmp_path / "rows.jsonl"
    main(["--task", "sums", "--model", "overthinker", "--num_problems", "5", "--out", str(out), "--form", "max"])
    rows = list(read_jsonl(out))
    assert len(rows) == 5 and all("Think for maximum" in row["prompt"] for row in rows)
    assert "rows.jsonl: 5 rows from 5 problems, 100 to 4,000 tokens." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--min_budget_tokens", "0"], "min_budget_tokens is 0 and max_budget_tokens 4000; give a range"),
        (["--min_budget_tokens", "9", "--max_budget_tokens", "8"], "min_budget_tokens is 9 and max_budget_tokens 8"),
        (["--rows_per_problem", "0"], "rows_per_problem is 0; give at least 1"),
    ],
)
def test_bad_values_are_refused(flags, sentence, tmp_path):
    out = tmp_path / "rows.jsonl"
    with pytest.raises(BadInput, match=sentence):
        main(["--task", "sums", "--model", "overthinker", "--out", str(out), *flags])
    assert not out.exists()
