"""DLER: groups that teach nothing are dropped and the batch is filled up."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset

from efficient_reasoning.checkpoint import load_tokenizer
from efficient_reasoning.errors import BadInput
from efficient_reasoning.rl.dler import DLERConfig, DLERTrainer
from efficient_reasoning.rl.rollouts import EngineRollouts
from efficient_reasoning.thinking import ThinkingFormat


class Taught:
    """A reward by which only some prompts teach anything."""

    __name__ = "taught"
    remembers = False

    def __init__(self, share: int):
        self.share, self.batches = share, []

    def __call__(self, prompts, completions, completion_ids, **columns) -> list[float]:
        assert len(prompts) == len(completions) == len(completion_ids) == len(columns["number"])
        self.batches.append(list(columns["number"]))
        return [float(number % self.share == 0 and i % 4 == 0) for i, number in enumerate(columns["number"])]


def build(model: str, folder: Path, reward: Taught, columns: dict | None = None, **settings) -> DLERTrainer:
    options = {"output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": "none", "max_steps": 2}
    options |= {"gradient_checkpointing": False, "disable_tqdm": True, "per_device_train_batch_size": 8, "seed": 3}
    options |= {"num_generations": 4, "max_completion_length": 6, "logging_steps": 1, "learning_rate": 1e-3}
    config = DLERConfig(**options | settings)
    tokenizer = load_tokenizer(model)
    rows = [{"prompt": f"Compute {n} + 3.\n", "number": n, **(columns or {})} for n in range(40)]
    return DLERTrainer(
        model=str(model),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        rollout_func=EngineRollouts(ThinkingFormat.from_tokenizer(tokenizer), config),
    )


def test_a_batch_is_filled_up_with_groups_that_teach_something(tiny_model, tmp_path):
    reward = Taught(share=2)
    trainer = build(tiny_model, tmp_path, reward, max_refills=8)
    trainer.train()
    paid = [batch for batch in reward.batches if all(number % 2 == 0 for number in batch)]
    assert len(paid) >= 2  # the batches that were trained on: two groups each
    assert all(len(batch) == 8 and len(set(batch[:4])) == len(set(batch[4:])) == 1 for batch in paid[-1:])
    first, second = (row for row in trainer.state.log_history if "loss" in row)
    for row in (first, second):
        assert row["frac_reward_zero_std"] == 0
        assert row["rewards/taught/mean"] == 0.25
    assert sum(row["refills"] for row in (first, second)) > 0
    assert 0 < max(first["dropped_groups"], second["dropped_groups"]) < 1


def test_rows_may_be_traces(tiny_model, tmp_path):
    reward = Taught(share=2)
    columns = {"completion": "<think>", "completion_ids": [1, 2], "prompt_ids": [3]}
    build(tiny_model, tmp_path, reward, columns, max_steps=1).train()
    assert len(reward.batches) > 1


def test_where_nothing_teaches_the_batch_stays_as_large(tiny_model, tmp_path):
    reward = Taught(share=100)  # number 0 alone
    trainer = build(tiny_model, tmp_path, reward, max_refills=2, max_steps=1)
    trainer.train()
    row = trainer.state.log_history[0]
    assert row["refills"] == 2
    assert len(reward.batches) == 4  # three that were looked at, and the one that is trained on
    assert len(reward.batches[-1]) == 8


def test_without_refills_it_is_grpo(tiny_model, tmp_path):
    reward = Taught(share=2)
    trainer = build(tiny_model, tmp_path, reward, max_refills=0)
    trainer.train()
    assert len(reward.batches) == 2
    assert "refills" not in trainer.state.log_history[0]
    assert (trainer.args.epsilon_high, trainer.args.scale_rewards) == (0.28, "batch")


def test_a_reward_that_remembers_is_refused(tiny_model, tmp_path):
    reward = Taught(share=2)
    reward.remembers = True
    with pytest.raises(BadInput, match="Reward taught or its shaping remembers batches, and dler pays some twice"):
        build(tiny_model, tmp_path, reward)
    with pytest.raises(BadInput, match="max_refills is -1; give 0 or more"):
        build(tiny_model, tmp_path, Taught(share=2), max_refills=-1)
