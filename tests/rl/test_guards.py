"""Guards: each is provoked."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from datasets import Dataset

from efficient_reasoning.checkpoint import load_tokenizer, resolve_model
from efficient_reasoning.errors import BadInput
from efficient_reasoning.rewards import get_length_reward
from efficient_reasoning.rl.config import LengthRewardConfig
from efficient_reasoning.rl.guards import (
    CollapseGuard,
    check_columns,
    check_rows,
    check_settings,
    check_vllm,
)
from efficient_reasoning.thinking import ThinkingFormat

THINKING = ThinkingFormat.from_tokenizer(load_tokenizer(resolve_model("overthinker")))


def settings(reward: str, tmp_path, parameters: dict | None = None, algorithm: str = "grpo", **changes) -> None:
    config = LengthRewardConfig(output_dir=str(tmp_path), bf16=False, **changes)
    check_settings(get_length_reward(reward, thinking=THINKING, **parameters or {}), config, algorithm)


@pytest.mark.parametrize("reward", ["kimi", "o1_pruner", "arora_zanette"])
@pytest.mark.parametrize(
    ("key", "value"), [("scale_rewards", "group"), ("multi_objective_aggregation", "normalize_then_sum")]
)
def test_a_weight_that_scaling_divides_out_is_refused(tmp_path, reward, key, value):
    settings(reward, tmp_path)
    settings(reward, tmp_path, scale_rewards="none")
    settings("accuracy", tmp_path, **{key: value})
    with pytest.raises(BadInput, match=f"{key} is {value}, which divides the weight of reward {reward}'s length term"):
        settings(reward, tmp_path, **{key: value})


@pytest.mark.parametrize(("reward", "limit"), [("thinkprune", "limit_tokens"), ("cosine", "max_tokens")])
def test_a_reward_for_cutting_off_needs_what_was_cut_off(tmp_path, reward, limit):
    settings("kimi", tmp_path, mask_truncated_completions=True)
    with pytest.raises(BadInput, match=f"mask_truncated_completions leaves out what reward {reward} has to see"):
        settings(reward, tmp_path, {limit: 9}, mask_truncated_completions=True)


@pytest.mark.parametrize(
    ("steps_per_generation", "num_iterations", "gradient_accumulation_steps", "period"),
    [(1, 1, 1, 1), (4, 1, 1, 4), (4, 1, 4, 1), (4, 3, 2, 6), (3, 1, 2, 3)],
)
def test_checkpoints_stand_between_generations(
    tmp_path, steps_per_generation, num_iterations, gradient_accumulation_steps, period
):
    shared = {"steps_per_generation": steps_per_generation, "num_iterations": num_iterations}
    shared |= {"gradient_accumulation_steps": gradient_accumulation_steps, "num_generations": 2}
    settings("kimi", tmp_path, save_steps=2 * period, **shared)
    if period == 1:
        settings("kimi", tmp_path, save_steps=0.3, **shared)
    for refused in () if period == 1 else (0.3, period + 1):
        with pytest.raises(BadInput, match=f"save_steps is {refused}, .* make it a multiple of {period}"):
            settings("kimi", tmp_path, save_steps=refused, **shared)
        settings("kimi", tmp_path, save_steps=refused, save_strategy="no", **shared)


@pytest.mark.parametrize("algorithm", ["dler", "adaptthink", "mrt"])
def test_so_does_an_algorithm(tmp_path, algorithm):
    settings("accuracy", tmp_path, mask_truncated_completions=True)
    with pytest.raises(BadInput, match=f"mask_truncated_completions leaves out what {algorithm} has to see"):
        settings("accuracy", tmp_path, algorithm=algorithm, mask_truncated_completions=True)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("reward_weights", [0.5], r"is \[0.5\], and there is one reward, whose weight its reward_parameters give"),
        ("remove_unused_columns", True, "is True, and the reward reads them"),
    ],
)
def test_what_has_no_use_here_is_refused(tmp_path, key, value, why):
    with pytest.raises(BadInput, match=f"{key} {why}.*; leave it out"):
        settings("kimi", tmp_path, **{key: value})


def test_vllm_has_to_be_there(tmp_path, monkeypatch):
    monkeypatch.setattr("efficient_reasoning.rl.guards.find_spec", lambda name: None)
    with pytest.raises(BadInput, match="use_vllm needs vLLM; install it with"):
        check_vllm(LengthRewardConfig(output_dir=str(tmp_path), bf16=False, use_vllm=True))
    monkeypatch.setattr("efficient_reasoning.rl.guards.find_spec", lambda name: name)
    check_vllm(LengthRewardConfig(output_dir=str(tmp_path), bf16=False, use_vllm=True))


@pytest.mark.parametrize("name", ["prompts", "completions", "log_metric", "image"])
def test_a_column_with_a_name_of_the_trainer_s_is_refused(name):
    check_columns("rows.jsonl", ["prompt", "completion", "completion_ids", "answer"])
    with pytest.raises(BadInput, match=f"rows.jsonl has a column '{name}', a name that the trainer takes; rename it"):
        check_columns("rows.jsonl", ["prompt", name])


def test_responses_have_a_limit(tmp_path):
    with pytest.raises(BadInput, match="max_completion_length is null"):
        settings("kimi", tmp_path, max_completion_length=None)


@pytest.mark.parametrize("value", [None, "12", True, float("nan")])
def test_every_row_has_its_numbers(value):
    rows = Dataset.from_dict({"budget_tokens": [12, 30]})
    check_rows("rows.jsonl", rows, ["budget_tokens"], "lcpo_exact", 30)
    with pytest.raises(BadInput, match=r"rows.jsonl, row 2: its budget_tokens is .*, no number"):
        check_rows("rows.jsonl", {"budget_tokens": [12, value]}, ["budget_tokens"], "lcpo_exact", 30)
    with pytest.raises(BadInput, match="asks for up to 30 tokens, and max_completion_length is 29; raise it"):
        check_rows("rows.jsonl", rows, ["budget_tokens"], "lcpo_exact", 29)
    check_rows("rows.jsonl", rows, ["budget_tokens"], "lcpo_max", 29)


def logging(guard: CollapseGuard, *values: float, metric: str, every: int = 5, saved: dict | None = None) -> None:
    """A run that logs these values of a metric, and others in between."""
    state = SimpleNamespace(global_step=0, stateful_callbacks={} if saved is None else saved)
    guard.on_train_begin(None, state, None)
    for value in values:
        state.global_step += every
        guard.on_log(None, state, None, logs={metric: value, "loss": 0.0})
        guard.on_log(None, state, None, logs={"loss": 0.0})


@pytest.mark.parametrize(
    ("metric", "bad", "good", "advice"),
    [
        ("completions/clipped_ratio", 0.51, 0.5, "more than half of the responses were cut off; raise max_completion"),
        ("informative_groups", 0.19, 0.2, "in more than 80 % of the groups"),
        ("entropy", 0.09, 0.1, "the entropy was below a tenth of what it was at first"),
    ],
)
def test_what_collapses_for_long_is_stopped_with_advice(metric, bad, good, advice):
    first = 1.0 if metric == "entropy" else good
    logging(CollapseGuard(10), first, bad, good, bad, good, metric=metric)
    logging(CollapseGuard(0), first, bad, bad, bad, metric=metric)
    with pytest.raises(BadInput, match=f"Stopped at step 20: for 10 steps {advice}.*guard_steps: 0"):
        logging(CollapseGuard(10), first, good, bad, bad, metric=metric)


def test_steps_of_which_nothing_was_logged_are_not_bad():
    """The length did not count in them."""
    guard = CollapseGuard(10)
    state = SimpleNamespace(global_step=0, stateful_callbacks={})
    guard.on_train_begin(None, state, None)
    for step, logs in ((1, {"informative_groups": 0.9}), *((step, {}) for step in range(2, 35)), (35, None)):
        state.global_step = step
        guard.on_log(None, state, None, logs={"loss": 0.0, **(logs if logs is not None else {})})
    for step in range(36, 45):
        state.global_step = step
        guard.on_log(None, state, None, logs={"informative_groups": 0.1})
    state.global_step = 45
    with pytest.raises(BadInput, match="Stopped at step 45: for 10 steps"):
        guard.on_log(None, state, None, logs={"informative_groups": 0.1})


@pytest.mark.parametrize(
    ("algorithm", "metric", "bad"),
    [
        ("adaptthink", "informative_groups", 0.0),
        ("ppo", "informative_groups", 0.0),
        ("dler", "completions/clipped_ratio", 0.9),
    ],
)
def test_what_an_algorithm_is_made_for_is_no_sign(algorithm, metric, bad):
    logging(CollapseGuard(10, algorithm), *[bad] * 5, metric=metric)
    with pytest.raises(BadInput, match="Stopped at step 10"):
        logging(CollapseGuard(10), *[bad] * 5, metric=metric)


def test_a_resumed_run_goes_on_counting():
    saved = {}
    logging(CollapseGuard(10), 1.0, 0.05, metric="entropy", saved=saved)
    saved = json.loads(json.dumps(saved))
    guard = CollapseGuard(10)
    state = SimpleNamespace(global_step=10, stateful_callbacks=saved)
    guard.on_train_begin(None, state, None)
    state.global_step = 15
    with pytest.raises(BadInput, match="Stopped at step 15: for 10 steps the entropy"):
        guard.on_log(None, state, None, logs={"entropy": 0.05})
