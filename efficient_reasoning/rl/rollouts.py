"""Rollouts of TRL's GRPOTrainer from the engine that inference uses.

Responses of one batch differ in length by an order of magnitude, and `generate` decodes all of them to the end of the
longest; the engine lets a row go when it is done. Every response samples from a stream of its own. On CUDA the engine
decodes with a copy of the weights, in bf16 where training is, which is refreshed in place before every batch: captured
steps read it where it is. What the copy computes otherwise than the trainer, `CorrectedGRPOTrainer` corrects.

    CorrectedGRPOTrainer(..., rollout_func=EngineRollouts(thinking, config))
"""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from efficient_reasoning.errors import BadInput
from efficient_reasoning.prompts import encode_prompt
from efficient_reasoning.thinking import ThinkingFormat

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from trl import GRPOConfig, GRPOTrainer

    from efficient_reasoning.inference.engine import Completion, Engine, Request

# Settings of GRPOConfig that the engine does not have, and what they are when they change nothing.
_NEUTRAL = {
    "min_p": (None, 0),
    "repetition_penalty": (1.0,),
    "generation_kwargs": (None, {}),
    "chat_template_kwargs": (None, {}),  # `encode_prompt` knows what the template has to be told
    "ds3_gather_for_generation": (True,),  # rows end apart on each rank, and sharded layers would wait for each other
}
# Settings under which the engine draws from the policy itself, as the correction supposes.
_WHOLE = {"top_p": 1.0, "top_k": 0}


class EngineRollouts:
    """A `rollout_func` for GRPOTrainer, which hands it every prompt `num_generations` times, and no other column.

    It returns log-probabilities where `config.vllm_importance_sampling_correction` wants them (`rollout_correction`).
    No completion is empty: an engine draws a token before it looks at any limit, and ids keep the end token. Prompts
    may be ids already.

    Args:
        thinking: delimiters, tokenizer and end tokens of the model that is trained.
        config: of the trainer; its sampling settings are those of the rollouts.
        compile_step: of `GraphEngine`.
        empty_share: of the responses to a prompt that are made to open with an empty block; the others are made not
            to, unless it is 0. What is forced in front of that choice is masked (`env_mask`), and `closes` is the
            token that was forced, or forbidden, as the choice.

    Raises:
        BadInput: a setting that the engine does not have, or one that the correction does not go with.
    """

    def __init__(
        self, thinking: ThinkingFormat, config: GRPOConfig, compile_step: bool = False, empty_share: float = 0.0
    ):
        for name, neutral in _NEUTRAL.items():
            if getattr(config, name) not in neutral:
                raise BadInput(f"{name} is {getattr(config, name)!r}, which rollouts do not know; leave it out.")
        self.with_logprobs = getattr(config, "vllm_importance_sampling_correction", False)  # RLOO corrects nothing
        if self.with_logprobs:
            _check_correction(config)
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # it says of `rollout_func` that it may change
        self.thinking, self.config = thinking, config
        self.compile_step, self.empty_share = compile_step, empty_share
        self._engine: Engine | None = None  # made for the first batch

    def __call__(self, prompts: list, trainer: GRPOTrainer) -> dict[str, list]:
        import torch

        from efficient_reasoning.inference.engine import Request, Sampling

        config = self.config
        sampling = Sampling(config.temperature, config.top_p, config.top_k)
        encoded = []  # once for all copies of a prompt, or tokenising would show beside decoding on a GPU
        for prompt, repeats in itertools.groupby(prompts):
            is_encoded = isinstance(prompt, list) and isinstance(prompt[0], int)
            ids = prompt if is_encoded else encode_prompt(self.thinking.tokenizer, prompt)
            encoded += [ids] * len(list(repeats))
        seeds = torch.randint(2**31, (len(prompts),)).tolist()  # from the generator that checkpoints restore
        openings = [
            _opening(self.thinking, ids, self.empty_share, index % config.num_generations, config.num_generations)
            for index, ids in enumerate(encoded)
        ]
        longest = max(len(opening.ids) for opening in openings)
        if longest >= config.max_completion_length:
            raise BadInput(
                f"max_completion_length is {config.max_completion_length}, and an empty block takes {longest} tokens; "
                "raise it."
            )
        requests = [
            Request(
                [*ids, *opening.ids],
                config.max_completion_length - len(opening.ids),
                sampling,
                seed,
                logprobs=self.with_logprobs,
                forbidden_first_ids=opening.forbidden,
            )
            for ids, seed, opening in zip(encoded, seeds, openings, strict=True)
        ]
        drawn = list(zip(openings, self.generate(requests, trainer), strict=True))
        rolled_out = {
            "prompt_ids": encoded,
            "completion_ids": [[*opening.ids, *one.ids] for opening, one in drawn],
            "logprobs": None,
        }
        if self.with_logprobs:
            # TRL takes none for a token that is not to be weighted: nobody drew those that were forced.
            rolled_out["logprobs"] = [[*[None] * len(opening.ids), *one.logprobs] for opening, one in drawn]
        if self.empty_share:
            rolled_out["closes"] = [opening.closes for opening in openings]
            rolled_out["env_mask"] = [[*opening.mask, *[1] * len(one.ids)] for opening, one in drawn]
        return rolled_out

    def generate(self, requests: Sequence[Request], trainer: GRPOTrainer) -> list[Completion]:
        """Completions of the policy as it is; all processes have to call."""
        from trl.models import unwrap_model_for_generation

        with unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gradient_checkpointing_kwargs=self.config.gradient_checkpointing_kwargs,
        ) as model:
            return self._engine_of(model, len(requests)).generate(requests)

    def _engine_of(self, model: PreTrainedModel, rows: int) -> Engine:
        from efficient_reasoning.inference.reasoner import torch_engine

        on_gpu = model.device.type == "cuda"
        if self._engine is None:
            own = _copy(model, self.config.bf16) if on_gpu else model
            ends = (self.thinking.eos_ids, self.thinking.tokenizer.pad_token_id)
            self._engine = torch_engine(own, *ends, rows=rows, compile_step=self.compile_step)[1]
        if on_gpu:
            self._engine.refresh(model)
        return self._engine


class _Opening(NamedTuple):
    """How a response is made to begin: the ids, which of them the policy answers for, and what must not follow."""

    ids: Sequence[int] = ()
    mask: Sequence[int] = ()
    closes: int | None = None
    forbidden: frozenset[int] = frozenset()


def _opening(thinking: ThinkingFormat, prompt: list[int], empty_share: float, number: int, group: int) -> _Opening:
    """Of the response of this number in a group of so many."""
    if not empty_share:
        return _Opening()
    empty, opened = thinking.close([], prompt), thinking.open(prompt)
    choice = next(i for i, token in enumerate(empty) if opened[i : i + 1] != [token])
    if number < round(empty_share * group):
        return _Opening(empty, [int(i == choice) for i in range(len(empty))], empty[choice])
    return _Opening(opened[:choice], [0] * choice, empty[choice], frozenset({empty[choice]}))


def _check_correction(config: GRPOConfig) -> None:
    for name, whole in _WHOLE.items():
        if getattr(config, name) != whole:
            raise BadInput(
                f"{name} is {getattr(config, name)}, and tokens of a distribution that is cut cannot be weighted by "
                f"the policy's; set {name} to {whole}, or vllm_importance_sampling_correction to false."
            )
    if config.loss_type == "vespo" and config.vllm_importance_sampling_mode.startswith("sequence"):
        raise BadInput(
            f"vllm_importance_sampling_mode is {config.vllm_importance_sampling_mode}, and the vespo loss weighs "
            "tokens; set it to token_truncate or token_mask."
        )


def _copy(model: PreTrainedModel, bf16: bool) -> PreTrainedModel:
    """A model of the same architecture on the same device, for inference."""
    import torch

    with torch.device(model.device):
        own = type(model)(copy.deepcopy(model.config))
    for weight in own.parameters():  # and no buffer: in bf16, rotary angles are radians off after a thousand tokens
        weight.data = weight.data.to(torch.bfloat16 if bf16 else model.dtype)
    return own.requires_grad_(False).eval()
