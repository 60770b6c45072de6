"""Rollouts: what TRL would have generated, drawn by the engine."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from trl import GRPOConfig

from efficient_reasoning.checkpoint import load_model, load_tokenizer
from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import Request, Sampling
from efficient_reasoning.inference.graph_engine import GraphEngine
from efficient_reasoning.inference.transformers_engine import TransformersEngine
from efficient_reasoning.rl.rollouts import EngineRollouts, _copy
from efficient_reasoning.thinking import ThinkingFormat

PROMPTS = ["Compute 3 + 4.\n", "Compute 3 + 4.\n", "Compute 12 + 40 - 7.\n", "Compute 12 + 40 - 7.\n"]


class Accelerator:
    """Of one process: nothing is wrapped."""

    state = SimpleNamespace(deepspeed_plugin=None, fsdp_plugin=None)

    @staticmethod
    def unwrap_model(model):
        return model


@pytest.fixture
def trainer(tiny_model):
    return SimpleNamespace(model_wrapped=load_model(tiny_model, "cpu", None), accelerator=Accelerator())


@pytest.fixture
def thinking(tiny_model):
    return ThinkingFormat.from_tokenizer(load_tokenizer(tiny_model))


def config(tmp_path, **changes) -> GRPOConfig:
    settings = {"max_completion_length": 12, "bf16": False, "use_cpu": True, "num_generations": 2} | changes
    return GRPOConfig(output_dir=str(tmp_path), per_device_train_batch_size=4, **settings)


def test_greedy_rollouts_equal_generate(tmp_path, trainer, thinking):
    rolled = EngineRollouts(thinking, config(tmp_path, temperature=0.0))(PROMPTS, trainer)
    for prompt, prompt_ids, completion_ids in zip(
        PROMPTS, rolled["prompt_ids"], rolled["completion_ids"], strict=True
    ):
        assert prompt_ids == thinking.tokenizer(prompt)["input_ids"]
        with torch.no_grad():
            whole = trainer.model_wrapped.generate(
                torch.tensor([prompt_ids]), do_sample=False, max_new_tokens=12, eos_token_id=list(thinking.eos_ids)
            )
        assert completion_ids == whole[0, len(prompt_ids) :].tolist()


def test_log_probabilities_are_those_of_the_policy_at_its_temperature(tmp_path, trainer, thinking):
    rolled = EngineRollouts(thinking, config(tmp_path, temperature=0.7))(PROMPTS, trainer)
    for prompt_ids, completion_ids, logprobs in zip(
        rolled["prompt_ids"], rolled["completion_ids"], rolled["logprobs"], strict=True
    ):
        with torch.no_grad():
            logits = trainer.model_wrapped(torch.tensor([prompt_ids + completion_ids])).logits[0]
        policy = (logits / 0.7).log_softmax(-1)[len(prompt_ids) - 1 : -1]
        assert logprobs == pytest.approx(policy[range(len(completion_ids)), completion_ids].tolist(), abs=1e-4)


def test_without_the_correction_there_are_none(tmp_path, trainer, thinking):
    settings = config(tmp_path, vllm_importance_sampling_correction=False)
    assert EngineRollouts(thinking, settings)(PROMPTS, trainer)["logprobs"] is None


def test_a_response_that_ends_at_once_is_not_empty(tmp_path, trainer, thinking):
    """TRL looks at the last token of every completion."""
    [end] = thinking.eos_ids
    embeddings = trainer.model_wrapped.get_input_embeddings().weight
    with torch.no_grad():
        embeddings.fill_(1.0)
        trainer.model_wrapped.model.norm.weight.fill_(1.0)
        embeddings[end] = 1e3
    rolled = EngineRollouts(thinking, config(tmp_path))(PROMPTS, trainer)
    assert rolled["completion_ids"] == [[end]] * len(PROMPTS)
    assert rolled["logprobs"] == [[pytest.approx(0)]] * len(PROMPTS)


def test_samples_of_a_prompt_differ_and_follow_the_generator(tmp_path, trainer, thinking):
    roll_out = EngineRollouts(thinking, config(tmp_path))
    torch.manual_seed(0)
    first, second = (roll_out(PROMPTS, trainer)["completion_ids"] for _ in range(2))
    assert first[0] != first[1]
    assert first != second
    torch.manual_seed(0)
    assert roll_out(PROMPTS, trainer)["completion_ids"] == first


def test_checkpointing_is_back_on_after_the_rollouts(tmp_path, trainer, thinking):
    trainer.model_wrapped.gradient_checkpointing_enable()
    EngineRollouts(thinking, config(tmp_path))(PROMPTS, trainer)
    assert trainer.model_wrapped.is_gradient_checkpointing


@pytest.mark.parametrize(
    "changes",
    [
        {"min_p": 0.1},
        {"repetition_penalty": 1.2},
        {"generation_kwargs": {"num_beams": 2}},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"ds3_gather_for_generation": False},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_settings_that_the_engine_lacks_are_refused(tmp_path, thinking, changes):
    [name] = changes
    with pytest.raises(BadInput, match=f"{name} is .*, which rollouts do not know; leave it out"):
        EngineRollouts(thinking, config(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"top_p": 0.95}, "top_p is 0.95, .*; set top_p to 1.0, or vllm_importance_sampling_correction to false"),
        ({"top_k": 20}, "top_k is 20, .*; set top_k to 0, or vllm_importance_sampling_correction to false"),
    ],
    ids=["top_p", "top_k"],
)
def test_a_distribution_that_is_cut_is_refused_with_the_correction(tmp_path, thinking, changes, remedy):
    with pytest.raises(BadInput, match=remedy):
        EngineRollouts(thinking, config(tmp_path, **changes))
    EngineRollouts(thinking, config(tmp_path, vllm_importance_sampling_correction=False, **changes))


def test_weights_of_whole_responses_are_refused_where_the_loss_wants_those_of_tokens(tmp_path, thinking):
    with pytest.raises(BadInput, match=r"mode is sequence_mask, .*; set it to token_truncate or token_mask"):
        EngineRollouts(thinking, config(tmp_path, loss_type="vespo"))


def test_the_copy_that_captured_steps_read_follows_the_weights(trainer, thinking):
    model = trainer.model_wrapped
    own = _copy(model, bf16=False)
    ends = (thinking.eos_ids, thinking.tokenizer.pad_token_id)
    requests = [Request(thinking.tokenizer.encode(prompt), 12, Sampling(0)) for prompt in PROMPTS]
    engine = GraphEngine(own, *ends)
    model.critic = torch.nn.Linear(16, 1)  # as PPO's, of which the engine knows nothing
    for _ in range(2):
        engine.refresh(model)
        expected = TransformersEngine(model, *ends).generate(requests)
        assert [one.ids for one in engine.generate(requests)] == [one.ids for one in expected]
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(torch.linspace(-1, 1, 16))
    assert model.config._attn_implementation != own.config._attn_implementation
    rounded = _copy(model, bf16=True)
    assert {weight.dtype for weight in rounded.parameters()} == {torch.bfloat16}
    buffers = dict(model.named_buffers())
    assert buffers  # the frequencies of rotary positions
    for name, buffer in rounded.named_buffers():
        assert torch.equal(buffer, buffers[name])
