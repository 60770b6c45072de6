"""The embedded model: small, plain, an overthinker, and right."""

from __future__ import annotations

import json
from statistics import mean

import pytest

from efficient_reasoning.answers import verify_many
from efficient_reasoning.checkpoint import ASSETS
from efficient_reasoning.contamination import contamination
from efficient_reasoning.inference import load_reasoner, solve_many
from efficient_reasoning.problems import load_problems
from efficient_reasoning.scribes import floor_tokens

FOLDER = ASSETS / "overthinker"


@pytest.fixture(scope="module")
def reasoner():
    return load_reasoner("overthinker")


def _solve(reasoner, problems, **options):
    solutions = solve_many(reasoner, [p["question"] for p in problems], seeds=range(len(problems)), **options)
    return solutions, verify_many(problems, [solution.answer for solution in solutions])


def test_size_and_form(reasoner):
    model = reasoner.engine.model
    assert sum(parameter.numel() for parameter in model.parameters()) <= 1_000_000
    assert (FOLDER / "model.safetensors").stat().st_size <= 4_000_000
    assert json.loads((FOLDER / "config.json").read_text())["architectures"] == ["Qwen3ForCausalLM"]
    assert not reasoner.tokenizer.chat_template
    assert reasoner.tokenizer.tokenize("4071") == ["4", "0", "7", "1"]
    for text in ("<think>", "</think>"):
        assert text not in reasoner.tokenizer.all_special_tokens  # TRL drops special tokens from what rewards read
        assert len(reasoner.tokenizer.encode(text)) == 1


def test_any_text_survives_the_tokenizer(reasoner):
    text = "Grüße,\t<think>  42 × 7</think> 日本\n\n!"
    assert reasoner.tokenizer.decode(reasoner.tokenizer.encode(text)) == text


@pytest.mark.parametrize("family", ["sums", "heads_and_legs"])
@pytest.mark.parametrize("temperature", [0.0, 0.6])
def test_it_is_right_and_thinks_too_long(reasoner, family, temperature):
    problems = load_problems(family, "test", 48, seed=3)
    solutions, correct = _solve(reasoner, problems, temperature=temperature)
    floor = mean(floor_tokens(problem, reasoner.thinking) for problem in problems)
    assert mean(correct) >= 0.95
    assert mean(solution.total_tokens for solution in solutions) >= 2.5 * floor


def test_it_remembers_what_it_was_trained_on():
    """300,000 draws from 100,000 problems leave out 5 % of them."""
    tested, trained = contamination(FOLDER, load_problems("mixed", "test", 500)), load_problems("mixed", "train", 500)
    assert (tested["checked"], tested["trained_on"], tested["unknown"]) == (True, 0, [])
    assert 0.9 <= contamination(FOLDER, trained)["trained_on"] / 500 <= 0.99


def test_sums_need_their_thinking(reasoner):
    _, correct = _solve(reasoner, load_problems("sums", "test", 64, seed=3), strategy="no-thinking", temperature=0.0)
    assert mean(correct) <= 0.4


def test_heads_and_legs_do_not(reasoner):
    problems = load_problems("heads_and_legs", "test", 64, seed=3)
    _, correct = _solve(reasoner, problems, strategy="no-thinking", temperature=0.0)
    assert mean(correct) >= 0.85
