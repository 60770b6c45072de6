"""What a run would cost: the table of a dry run, from a model without memory."""

from __future__ import annotations

import math
import os
from statistics import mean
from typing import TYPE_CHECKING

from efficient_reasoning.training.rows import response_tokens

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PretrainedConfig, TrainingArguments

    from efficient_reasoning.training.base import Base


def dry_run(
    base: Base,
    rows: Dataset,
    config: TrainingArguments,
    limit_tokens: int | None,
    limit_has_prompt: bool = False,
    lora: LoraConfig | None = None,
    with_reference: bool = False,
) -> None:
    """Print what a fine-tuning run would cost, from the model on the meta device and one tokenised batch.

    Args:
        base: where the run starts.
        rows: training rows (`response_tokens`).
        config: the trainer's arguments.
        limit_tokens: length at which training cuts a completion; None for no limit.
        limit_has_prompt: the limit holds for prompt and completion together.
        lora: adapters that are trained instead of the weights.
        with_reference: a frozen copy of the model stands beside it.
    """
    from transformers import AutoConfig

    from efficient_reasoning.prompts import encode_prompt

    samples_per_row = getattr(config, "num_generations", 1) * getattr(config, "num_iterations", 1)
    batch = range(min(max(1, _samples_per_step(config) // samples_per_row), len(rows)))
    prompt_tokens = mean(len(encode_prompt(base.tokenizer, prompt)) for prompt in rows.select(batch)["prompt"])
    responses = response_tokens(rows, base.tokenizer)
    clipped = "unknown (the rows have no length column)"
    tokens_per_row = prompt_tokens + (limit_tokens or 0)
    if responses:
        room_tokens = math.inf if limit_tokens is None else limit_tokens - limit_has_prompt * prompt_tokens
        share = sum(max(lengths) > room_tokens for lengths in zip(*responses, strict=True)) / len(rows)
        clipped = f"{share:.1%} of the rows, longer than {limit_tokens} tokens"
        tokens_per_row = sum(prompt_tokens + mean(lengths[: len(batch)]) for lengths in responses)
    model_config = AutoConfig.from_pretrained(base.path)
    print_costs(model_config, config, len(rows), tokens_per_row, clipped, samples_per_row, lora, with_reference)


def print_costs(
    model_config: PretrainedConfig,
    config: TrainingArguments,
    num_rows: int | None,
    tokens_per_sample: float,
    clipped: str,
    samples_per_row: int = 1,
    lora: LoraConfig | None = None,
    with_reference: bool = False,
    auto_class: str = "AutoModelForCausalLM",
) -> None:
    """The table of a dry run; the model, one of transformers' `auto_class`, is on the meta device, without memory.

    Of rows without number, which are streamed, `config.max_steps` is taken.
    """
    import torch
    import transformers

    with torch.device("meta"):
        model = getattr(transformers, auto_class).from_config(model_config)
        parameters = trained = sum(parameter.numel() for parameter in model.parameters())
        if lora is not None:
            from peft import get_peft_model

            from efficient_reasoning.training.adapters import leave_fused_out

            leave_fused_out(lora, model)
            trained, parameters = get_peft_model(model, lora).get_nb_trainable_parameters()
    samples_per_step = _samples_per_step(config)
    steps = config.max_steps
    if steps <= 0:
        batches = num_rows * samples_per_row / samples_per_step
        steps_per_epoch = math.ceil(batches) if samples_per_row == 1 else int(batches)  # groups are never cut
        steps = math.ceil(config.num_train_epochs * steps_per_epoch)
    tokens_per_step = tokens_per_sample * samples_per_step
    states = state_bytes(parameters, trained, config.bf16, with_reference)
    table = {
        "model": f"{model_config.model_type}, {parameters:,} parameters" + (f", {trained:,} trained" if lora else ""),
        "rows": "streamed" if num_rows is None else f"{num_rows:,}",
        "steps": f"{steps:,} of {samples_per_step:,} samples, about {tokens_per_step:,.0f} tokens each",
        "memory": f"{states / 2**20:,.0f} MiB of model states a process without ZeRO; activations come on top",
        "clipped": clipped,
    }
    print("\n".join(f"{name:<8} {value}" for name, value in table.items()))


def state_bytes(parameters: int, trained: int, bf16: bool, with_reference: bool = False) -> int:
    """Of weights in fp32, gradients and Adam's two moments of those that are trained, and a frozen copy.

    Under bf16 one more copy of the weights, in two bytes.
    """
    return parameters * (4 + 4 * with_reference + 2 * bool(bf16)) + trained * 12


def _samples_per_step(config: TrainingArguments) -> int:
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    return config.per_device_train_batch_size * config.gradient_accumulation_steps * world_size
