"""Rollout correction: weights of one where engine and trainer agree, and what TRL makes of those where they do not."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig

from efficient_reasoning.inference import graph_engine
from efficient_reasoning.rl.rollout_correction import CorrectedGRPOTrainer
from efficient_reasoning.rl.rollouts import EngineRollouts, _copy
from efficient_reasoning.training import load_base

NEW_TOKENS = 12


class PerturbedEngine(graph_engine.GraphEngine):
    """Decodes with other weights than the trainer's, as a copy in fewer bits does, only more so."""

    def __init__(self, model, *ends, **settings):
        own = _copy(model, bf16=False)
        own.load_state_dict(model.state_dict())
        weight = own.get_input_embeddings().weight
        weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
        super().__init__(own, *ends, **settings)


@pytest.fixture
def perturbed(monkeypatch):
    monkeypatch.setattr(graph_engine, "GraphEngine", PerturbedEngine)


@pytest.fixture
def make_trainer(tmp_path, tiny_model):
    def first_tokens(completion_ids, **_) -> list[float]:
        return [float(ids[0] % 5) for ids in completion_ids]

    def make(reward=first_tokens, compile_step: bool = False, **changes):
        settings = {
            "max_steps": 2,
            "temperature": 0.8,
            "learning_rate": 1e-2,
            "bf16": False,
            "use_cpu": True,
        } | changes
        config = GRPOConfig(
            str(tmp_path / "run"),
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=NEW_TOKENS,
            loss_type="dr_grpo",
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            seed=3,
            **settings,
        )
        base = load_base(str(tiny_model))
        rows = Dataset.from_dict({"prompt": [f"Compute {a} + {a + 20}.\n" for a in range(3, 9)]})
        return CorrectedGRPOTrainer(
            base.path,
            reward,
            config,
            train_dataset=rows,
            eval_dataset=rows.select(range(2)),
            processing_class=base.tokenizer,
            rollout_func=EngineRollouts(base.thinking, config, compile_step),
        )

    return make


@pytest.fixture
def trained(make_trainer):
    """`trained(key=value, ...)`: what each step logged, and what `_compute_loss` took and gave."""

    def train(**changes) -> tuple[list[dict], list[tuple[dict, float]]]:
        trainer, losses = make_trainer(**changes), []
        compute_loss = trainer._compute_loss

        def record(model, inputs):
            loss = compute_loss(model, inputs)
            losses.append((inputs, loss.item()))
            return loss

        trainer._compute_loss = record
        trainer.train()
        return [entry for entry in trainer.state.log_history if "loss" in entry], losses

    return train


def weights(entry: dict) -> list[float]:
    return [entry[f"sampling/importance_sampling_ratio/{name}"] for name in ("min", "mean", "max")]


@pytest.mark.parametrize("mode", ["token_truncate", "sequence_mask"])
def test_with_equal_weights_nothing_is_corrected(trained, mode):
    logged, losses = trained(vllm_importance_sampling_mode=mode)
    plain, plain_losses = trained(vllm_importance_sampling_correction=False)
    assert len(logged) == len(plain) == 2
    for entry in logged:
        assert weights(entry) == pytest.approx([1, 1, 1], abs=1e-4)
        assert entry["sampling/sampling_logp_difference/max"] < 1e-5
        assert entry["sampling/kl"] == pytest.approx(0, abs=1e-5)
        assert entry["sampling/kl_k3"] == pytest.approx(0, abs=1e-6)
    assert [entry["grad_norm"] for entry in logged] == pytest.approx([entry["grad_norm"] for entry in plain], rel=1e-3)
    assert [loss for _, loss in losses] == pytest.approx([loss for _, loss in plain_losses], abs=1e-5)
    assert not [key for key in plain[0] if key.startswith("sampling/")]


def test_an_engine_with_other_weights_is_corrected(trained, perturbed):
    logged, losses = trained(vllm_importance_sampling_mode="token_truncate", vllm_importance_sampling_clip_max=1.5)
    plain, plain_losses = trained(vllm_importance_sampling_correction=False)
    batch, loss = losses[0]
    mask = batch["completion_mask"].bool()
    log_ratio = batch["old_per_token_logps"] - batch["sampling_per_token_logps"]
    ratio = log_ratio.exp().clamp(max=1.5)
    torch.testing.assert_close(batch["importance_sampling_ratio"][mask], ratio[mask])
    used = ratio[mask]
    assert weights(logged[0]) == pytest.approx([used.min().item(), used.mean().item(), used.max().item()])
    assert used.min() < 0.9
    assert used.max() > 1.1
    log_ratio = log_ratio[mask]
    assert logged[0]["sampling/kl"] == pytest.approx(-log_ratio.mean().item(), rel=1e-3)
    assert logged[0]["sampling/kl_k3"] == pytest.approx((log_ratio.exp() - 1 - log_ratio).mean().item(), rel=1e-3)
    assert logged[0]["sampling/kl_k3"] > 1e-3

    # The same completions, since nothing has been trained yet: the weights alone make the difference.
    assert torch.equal(batch["completion_ids"], plain_losses[0][0]["completion_ids"])
    surrogate = -batch["advantages"][:, None] * ratio * mask
    assert loss == pytest.approx(surrogate.sum().item() / (len(mask) * NEW_TOKENS), abs=1e-6)
    assert abs(loss - plain_losses[0][1]) > 1e-4
    assert logged[0]["grad_norm"] != pytest.approx(plain[0]["grad_norm"], rel=1e-3)


def test_masked_responses_teach_nothing(trained, perturbed):
    settings = {"vllm_importance_sampling_mode": "sequence_mask", "vllm_importance_sampling_clip_max": 1e-3}
    logged, losses = trained(max_steps=1, **settings)
    assert losses[0][0]["importance_sampling_ratio"].shape == (8, 1)
    assert losses[0][1] == logged[0]["grad_norm"] == 0


def test_vllm_is_named_neither_in_generation_nor_afterwards(make_trainer):
    trainer = make_trainer(max_steps=1)
    roll_out, seen = trainer.rollout_func, []

    def watched(prompts, trainer):
        seen.append(trainer.use_vllm)
        return roll_out(prompts, trainer)

    trainer.rollout_func = watched
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_sampling/kl"] == pytest.approx(0, abs=1e-5)
    assert len(seen) > 1
    assert not any([*seen, trainer.use_vllm])


def test_a_reward_that_fails_leaves_the_trainer_as_it_was(make_trainer):
    def fails(**_):
        raise KeyError("answer")

    trainer = make_trainer(reward=fails)
    with pytest.raises(KeyError):
        trainer.train()
    assert trainer.use_vllm is False


@pytest.mark.gpu
@pytest.mark.parametrize("compile_step", [False, True])
def test_the_copy_on_a_gpu_follows_the_trainer_but_for_rounding(trained, compile_step):
    logged, _ = trained(bf16=True, use_cpu=False, max_steps=4, compile_step=compile_step)
    for entry in logged:  # weights that had not been refreshed would be further off from the second step on
        assert 0 < entry["sampling/sampling_logp_difference/mean"] < 0.02
        assert weights(entry) == pytest.approx([1, 1, 1], abs=0.2)
        assert entry["sampling/kl_k3"] < 1e-3
