"""Guards: each is provoked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from efficient_reasoning.checkpoint import load_tokenizer, resolve_model
from efficient_reasoning.errors import BadInput
from efficient_reasoning.rewards import get_length_reward
from efficient_reasoning.rl.config import LengthRewardConfig
from efficient_reasoning.rl.guards import CollapseGuard, check_loss, check_settings
from efficient_reasoning.thinking import ThinkingFormat

THINKING = ThinkingFormat.from_tokenizer(load_tokenizer(resolve_model("overthinker")))


def settings(reward: str, tmp_path, parameters: dict | None = None, **changes) -> None:
    config = LengthRewardConfig(output_dir=str(tmp_path), bf16=False, **changes)
    check_settings(get_length_reward(reward, thinking=THINKING, **parameters or {}), config)


def test_a_weight_that_scaling_divides_out_is_refused(tmp_path):
    settings("kimi", tmp_path)
    settings("kimi", tmp_path, scale_rewards="none")
    settings("accuracy", tmp_path, scale_rewards="group")
    with pytest.raises(BadInput, match="scale_rewards is group, which divides weight of reward kimi out again"):
        settings("kimi", tmp_path, scale_rewards="group")
    with pytest.raises(BadInput, match="divides alpha of reward arora_zanette"):
        settings("arora_zanette", tmp_path, scale_rewards="group")


def test_a_reward_for_cutting_off_needs_what_was_cut_off(tmp_path):
    settings("kimi", tmp_path, mask_truncated_completions=True)
    with pytest.raises(BadInput, match="mask_truncated_completions leaves out what reward thinkprune is to punish"):
        settings("thinkprune", tmp_path, {"limit_tokens": 9}, mask_truncated_completions=True)


def logging(guard: CollapseGuard, *values: float, metric: str, every: int = 5) -> None:
    """A run that logs these values of a metric, one after the other."""
    guard.on_train_begin(None, SimpleNamespace(global_step=0), None)
    for number, value in enumerate(values, 1):
        guard.on_log(None, SimpleNamespace(global_step=every * number), None, logs={metric: value, "loss": 0.0})


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


def test_a_resumed_run_does_not_count_the_steps_before():
    guard = CollapseGuard(10)
    guard.on_train_begin(None, SimpleNamespace(global_step=100), None)
    guard.on_log(None, SimpleNamespace(global_step=105), None, logs={"informative_groups": 0.0})
    with pytest.raises(BadInput, match="for 10 steps"):
        guard.on_log(None, SimpleNamespace(global_step=110), None, logs={"informative_groups": 0.0})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops(value):
    check_loss(torch.tensor(-3.0), 4)
    with pytest.raises(BadInput, match=r"Stopped in step 5: the loss is (nan|inf); the last checkpoint"):
        check_loss(torch.tensor(value), 4)
