"""What a run would cost: the table of a dry run, from a model without memory."""

from __future__ import annotations

import dataclasses
import math
import os
from statistics import mean
from typing import TYPE_CHECKING

from efficient_reasoning.training.activations import AUTOCAST, BF16, FAMILIES, FP32, MicroBatch, activations
from efficient_reasoning.training.footprint import States, Zero, model_states, peak_bytes, sharded_states
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
    whole_logits: bool = False,
    own_layers: bool = False,
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
        whole_logits: as `MicroBatch` has it.
        own_layers: layers are replaced, and nobody knows their activations.
    """
    from transformers import AutoConfig

    from efficient_reasoning.prompts import encode_prompt

    samples_per_row = getattr(config, "num_generations", 1) * getattr(config, "num_iterations", 1)
    batch = range(min(max(1, _samples_per_step(config) // samples_per_row), len(rows)))
    prompts = [len(encode_prompt(base.tokenizer, prompt)) for prompt in rows.select(batch)["prompt"]]
    prompt_tokens = mean(prompts)
    responses = response_tokens(rows, base.tokenizer)
    clipped = "unknown (the rows have no length column)"
    tokens_per_row = prompt_tokens + (limit_tokens or 0)
    if responses:
        room_tokens = math.inf if limit_tokens is None else limit_tokens - limit_has_prompt * prompt_tokens
        share = sum(max(lengths) > room_tokens for lengths in zip(*responses, strict=True)) / len(rows)
        clipped = f"{share:.1%} of the rows, longer than {limit_tokens} tokens"
        tokens_per_row = sum(prompt_tokens + mean(lengths[: len(batch)]) for lengths in responses)
    generates = hasattr(config, "num_generations") or not responses
    longest = max(prompts) + (limit_tokens if generates else math.ceil(max(map(max, responses))))
    if limit_has_prompt and limit_tokens is not None:
        longest = limit_tokens if getattr(config, "packing", False) else min(longest, limit_tokens)
    sequences = config.per_device_train_batch_size * max(1, 0 if generates else len(responses))
    masked = generates or sequences > 1 or getattr(config, "packing", False)
    print_costs(
        AutoConfig.from_pretrained(base.path),
        config,
        len(rows),
        tokens_per_row,
        clipped,
        samples_per_row,
        lora,
        with_reference,
        reads=None if own_layers else MicroBatch(sequences, longest, masked, whole_logits),
    )


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
    reads: MicroBatch | None = None,
) -> None:
    """The table of a dry run; the model, one of transformers' `auto_class`, is on the meta device, without memory.

    Of rows without number, which are streamed, `config.max_steps` is taken. Activations are those of what the model
    `reads` at a time, where that is given and `activations` knows its layers.
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
    table = {
        "model": f"{model_config.model_type}, {parameters:,} parameters" + (f", {trained:,} trained" if lora else ""),
        "rows": "streamed" if num_rows is None else f"{num_rows:,}",
        "steps": f"{steps:,} of {samples_per_step:,} samples, about {tokens_per_step:,.0f} tokens each",
        "memory": _memory(model.config, config, (parameters, trained, config.bf16, with_reference), reads),
        "clipped": clipped,
    }
    if os.environ.get("RANK", "0") == "0":
        print("\n".join(f"{name:<8} {value}" for name, value in table.items()))


def state_bytes(parameters: int, trained: int, bf16: bool, with_reference: bool = False) -> int:
    """Of all `model_states`, without DeepSpeed."""
    return sum(model_states(parameters, trained, bf16, with_reference))


def _memory(
    model_config: PretrainedConfig,
    config: TrainingArguments,
    counts: tuple[int, int, bool, bool],
    reads: MicroBatch | None,
) -> str:
    """States and peak of a process, with ZeRO also of one among more; `counts` are what `model_states` takes."""
    zero = Zero.of(config.deepspeed) if config.deepspeed else None
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    states = sharded_states(*counts, zero, processes) if zero else model_states(*counts)
    said = f"{sum(states) / 2**20:,.0f} MiB of model states a process {'with' if zero else 'without'} ZeRO"
    if reads is None or model_config.model_type not in FAMILIES:
        return f"{said}; activations come on top"
    options = getattr(config, "model_init_kwargs", None) or {}
    if "attn_implementation" in options:
        model_config._attn_implementation = options["attn_implementation"]
    if "flash" in model_config._attn_implementation:  # kernels that need no mask
        reads = dataclasses.replace(reads, masked=False)
    precision = (BF16 if zero else AUTOCAST) if config.bf16 else FP32
    step = activations(model_config, reads, precision, config.gradient_checkpointing)

    def peak(states: States) -> str:
        accumulating = config.gradient_accumulation_steps > 1
        layers, checkpointing = model_config.num_hidden_layers, config.gradient_checkpointing
        return f"{peak_bytes(states, step, layers, checkpointing, accumulating) / 2**20:,.0f} MiB"

    said += f", {peak(states)} at the peak of a step, which reads {reads.rows} x {reads.tokens:,} tokens at a time"
    if zero and processes == 1:
        more = (f"{peak(sharded_states(*counts, zero, number))} of {number}" for number in (2, 4, 8))
        said += f" ({', '.join(more)} processes)"
    return said + ("; what generates comes on top" if hasattr(config, "num_generations") else "")


def _samples_per_step(config: TrainingArguments) -> int:
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    return config.per_device_train_batch_size * config.gradient_accumulation_steps * world_size
