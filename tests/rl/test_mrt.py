"""MRT: where thinking is cut, what its parts are worth, and which tokens are paid for that."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from efficient_reasoning.checkpoint import load_tokenizer, resolve_model
from efficient_reasoning.errors import BadInput
from efficient_reasoning.rewards import get_length_reward
from efficient_reasoning.rl.mrt import MRTConfig, MRTTrainer, episode_cuts
from efficient_reasoning.rl.rollouts import EngineRollouts
from efficient_reasoning.thinking import ThinkingFormat


@pytest.fixture(scope="module")
def thinking() -> ThinkingFormat:
    return ThinkingFormat.from_tokenizer(load_tokenizer(resolve_model("overthinker")))


def test_the_thinking_is_cut_into_equal_parts(thinking):
    encode = thinking.tokenizer.encode
    ids = encode("<think>First, 3+4=7. Then 7+5=12.</think>12")
    cuts = episode_cuts(thinking, ids, encode("Compute 3 + 4 + 5.\n"), 3)
    assert len(cuts) == 4
    assert cuts[0] == ids.index(encode("<think>")[0]) + 1
    assert ids[cuts[-1]] == encode("</think>")[0]
    lengths = [after - before for before, after in itertools.pairwise(cuts)]
    assert max(lengths) - min(lengths) <= 1
    assert episode_cuts(thinking, encode("<think></think>12"), [], 3) == [2] * 4
    unclosed = encode("<think>3+4")
    assert episode_cuts(thinking, unclosed, [], 2)[-1] == len(unclosed)
    assert episode_cuts(thinking, [], [], 2) == [0] * 3


def build(model: str, folder: Path, **settings) -> MRTTrainer:
    options = {"output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": "none", "max_steps": 1}
    options |= {"gradient_checkpointing": False, "disable_tqdm": True, "per_device_train_batch_size": 4, "seed": 3}
    options |= {"num_generations": 2, "max_completion_length": 220, "logging_steps": 1, "learning_rate": 1e-5}
    config = MRTConfig(**options | settings)
    tokenizer = load_tokenizer(resolve_model(model))
    thinking = ThinkingFormat.from_tokenizer(tokenizer)
    problems = [("Compute 3 + 4.\n", "7"), ("Compute 86 - 51 + 72.\n", "107")]
    return MRTTrainer(
        model=resolve_model(model),
        reward_funcs=get_length_reward("accuracy", thinking=thinking),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": p, "answer": a, "task": "numeric"} for p, a in problems]),
        processing_class=tokenizer,
        rollout_func=EngineRollouts(thinking, config),
    )


def test_a_part_is_paid_for_what_it_adds_to_the_value_of_its_prefix(tmp_path, thinking):
    trainer = build("overthinker", tmp_path, episodes=3, progress_weight=0.5)
    batches, asked = [], []
    score, generate = trainer._generate_and_score_completions, trainer.rollout_func.generate
    trainer._generate_and_score_completions = lambda inputs: batches.append(score(inputs)) or batches[-1]
    trainer.rollout_func.generate = lambda requests, one: asked.append(requests) or generate(requests, one)
    trainer.train()
    [batch] = batches
    rollouts, forced = asked
    assert len(rollouts) == 4
    assert 2 + 4 * 2 - 4 <= len(forced) <= 2 + 4 * 2  # without thinking once a prompt, twice more a response
    assert all(request.max_new_tokens == 32 for request in forced)
    means = batch["advantages"][:, -1]  # behind the thinking nothing is paid but the group's
    ends = []
    for row in range(4):
        ids = batch["completion_ids"][row][batch["completion_mask"][row] > 0].tolist()
        prompt = batch["prompt_ids"][row][batch["prompt_mask"][row] > 0].tolist()
        cuts = episode_cuts(thinking, ids, prompt, 3)
        paid = (batch["advantages"][row] - means[row]) / 0.5
        parts = [paid[before:after].unique().tolist() for before, after in itertools.pairwise(cuts)]
        assert all(len(part) == 1 and round(part[0], 4) in (-1, 0, 1) for part in parts)
        assert not paid[: cuts[0]].any()
        assert not paid[cuts[-1] :].any()
        ends.append(sum(part[0] for part in parts))  # its accuracy less that without thinking
    [row] = [row for row in trainer.state.log_history if "loss" in row]
    assert row["progress"] == pytest.approx(sum(ends) / 4, abs=1e-5)
    assert torch.isfinite(batch["advantages"]).all()
    assert any(ends)  # this model needs its thinking


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"episodes": 0}, "episodes is 0; give at least 1"),
        ({"forced_answer_tokens": 0}, "forced_answer_tokens is 0; give at least 1"),
        ({"use_vllm": True}, "leave out use_vllm with mrt"),
    ],
)
def test_bad_settings_get_one_sentence(tmp_path, settings, sentence):
    with pytest.raises(BadInput, match=sentence):
        build("overthinker", tmp_path, **settings)
