"""AdaptThink: modes that are drawn by lot, what the policy is told of it, and what they earn."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from efficient_reasoning.checkpoint import load_tokenizer
from efficient_reasoning.errors import BadInput
from efficient_reasoning.rewards import get_length_reward
from efficient_reasoning.rl.adaptthink import AdaptThinkConfig, AdaptThinkTrainer, drawn_by_lot
from efficient_reasoning.rl.rollouts import EngineRollouts
from efficient_reasoning.thinking import ThinkingFormat


def test_the_probabilities_of_a_choice_by_lot_sum_to_one():
    policy = torch.tensor([0.7, 0.2, 0.1])  # the first closes the block
    drawn = drawn_by_lot(policy.log(), torch.tensor([True, False, False]), policy[0].log(), 0.5).exp()
    torch.testing.assert_close(drawn, torch.tensor([0.5, 0.5 * 2 / 3, 0.5 / 3]))
    drawn = drawn_by_lot(policy.log(), torch.tensor([True, False, False]), policy[0].log(), 0.25).exp()
    assert drawn.sum() == pytest.approx(1)
    sure = drawn_by_lot(torch.tensor([-20.0]), torch.tensor([False]), torch.tensor([0.0]), 0.5)
    assert sure.isfinite().all()


def build(model: str, folder: Path, rows=None, reward: str = "accuracy", **settings) -> AdaptThinkTrainer:
    options = {"output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": "none", "max_steps": 1}
    options |= {"gradient_checkpointing": False, "disable_tqdm": True, "per_device_train_batch_size": 8, "seed": 3}
    options |= {"num_generations": 4, "max_completion_length": 30, "logging_steps": 1, "learning_rate": 1e-3}
    config = AdaptThinkConfig(**options | settings)
    tokenizer = load_tokenizer(model)
    thinking = ThinkingFormat.from_tokenizer(tokenizer)
    rows = rows or [
        {"prompt": f"Compute {n} + 3.\n", "answer": str(n + 3), "task": "numeric", "reference_accuracy": 0.25}
        for n in range(8)
    ]
    return AdaptThinkTrainer(
        model=str(model),
        reward_funcs=get_length_reward(reward, thinking=thinking),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        rollout_func=EngineRollouts(thinking, config, empty_share=config.empty_share),
    )


@pytest.mark.parametrize("corrects", [False, True])
def test_half_of_each_group_does_not_think_and_the_batch_says_how_that_was_drawn(tiny_model, tmp_path, corrects):
    trainer = build(tiny_model, tmp_path, vllm_importance_sampling_correction=corrects)
    thinking = trainer.reward_funcs[0].thinking
    empty, opened = thinking.empty(), thinking.open([])
    batches = []
    score = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: batches.append(score(inputs)) or batches[-1]
    trainer.train()
    [batch] = batches
    ids, choice = batch["completion_ids"], len(opened)
    for row in range(8):
        if row % 4 < 2:
            assert ids[row, : len(empty)].tolist() == empty
        else:
            assert ids[row, :choice].tolist() == opened
            assert ids[row, choice] != empty[choice]
    assert (batch["tool_mask"][:, :choice] == 0).all()
    assert (batch["tool_mask"][:, choice] == 1).all()
    assert batch["old_per_token_logps"][[0, 1, 4, 5], choice].tolist() == pytest.approx([math.log(0.5)] * 4)
    if corrects:
        torch.testing.assert_close(batch["importance_sampling_ratio"], torch.ones(8, ids.shape[1]))
        assert abs(trainer.state.log_history[0]["sampling/kl"]) < 1e-4
    # Against what the first weights give to all first tokens.
    plain = type(trainer.model).from_pretrained(tiny_model).eval()
    for row in (2, 3, 6, 7):
        prompt = batch["prompt_ids"][row][batch["prompt_mask"][row] > 0]
        with torch.no_grad():
            logits = plain(torch.cat([prompt, ids[row, :choice]])[None]).logits[0, -1]
        policy = logits.softmax(-1)
        drawn = 0.5 * policy[ids[row, choice]] / (1 - policy[empty[choice]])
        assert batch["old_per_token_logps"][row, choice].exp().item() == pytest.approx(drawn.item(), rel=1e-3)
    correct = batch["advantages"] + 0.25 - 0.05 * torch.tensor([1.0, 1, 0, 0] * 2)
    assert all(min(abs(one), abs(one - 1)) < 1e-6 for one in correct.tolist())
    [row] = [row for row in trainer.state.log_history if "loss" in row]
    assert 0 < row["empty_probability"] < 1
    assert row["grad_norm"] > 0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"empty_share": 0.05}, r"empty_share is 0\.05: of 4 responses all or none would not think"),
        ({"vllm_importance_sampling_mode": "sequence_mask"}, "one token of each response is drawn by lot"),
        ({"use_vllm": True}, "leave out use_vllm"),
        ({"reward": "kimi"}, "reward is kimi, and AdaptThink pays accuracy alone"),
        ({"rows": [{"prompt": "a", "answer": "1", "task": "numeric"}] * 8}, "needs column 'reference_accuracy'"),
    ],
)
def test_bad_settings_get_one_sentence(tiny_model, tmp_path, settings, sentence):
    with pytest.raises(BadInput, match=sentence):
        build(tiny_model, tmp_path, **settings)
