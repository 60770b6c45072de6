"""What to change where memory runs out, and by how much."""

from __future__ import annotations

from typing import TYPE_CHECKING

from efficient_reasoning.training.costs import state_bytes

if TYPE_CHECKING:
    from transformers import Trainer

_LENGTHS = ("max_completion_length", "max_length")
_GIB = 2**30


def advice(trainer: Trainer, error: BaseException) -> str:
    """The settings that would need less, most harmless first, each with its new value and what that spares."""
    knobs = [*_activation_knobs(trainer), *_state_knobs(trainer)]
    where = " in another output_dir" if trainer.state.global_step else ""
    said = " ".join(str(error).split())[:200]
    return f"Out of memory in step {trainer.state.global_step + 1} ({said}); set{where} {'; or '.join(knobs)}."


def _activation_knobs(trainer: Trainer) -> list[str]:
    from efficient_reasoning.latent.trainer import LatentTrainer

    args, knobs = trainer.args, []
    if (rows := args.per_device_train_batch_size) > 1:
        parts = next(part for part in range(2, rows + 1) if rows % part == 0)
        smaller = {"per_device_train_batch_size": rows // parts}
        smaller["gradient_accumulation_steps"] = args.gradient_accumulation_steps * parts
        if hasattr(args, "steps_per_generation"):  # batches that are drawn together
            smaller["steps_per_generation"] = args.steps_per_generation * parts
        settings = " and ".join(f"{name} to {value}" for name, value in smaller.items())
        knobs.append(f"{settings} (the same step, activations divided by {parts})")
    if not args.gradient_checkpointing and not isinstance(trainer, LatentTrainer):
        knobs.append("gradient_checkpointing to true (activations of one layer at a time, for a third more time)")
    for name in _LENGTHS:
        if (tokens := getattr(args, name, None)) is not None:
            knobs.append(f"{name} to {tokens // 2} (half of its tokens, activations and caches halved)")
    return knobs


def _state_knobs(trainer: Trainer) -> list[str]:
    numbers = [(getattr(each, "ds_numel", each.numel()), each.requires_grad) for each in trainer.model.parameters()]
    trained = sum(count for count, is_trained in numbers if is_trained)
    states = state_bytes(sum(count for count, _ in numbers), trained, trainer.args.bf16) / _GIB
    if trainer.args.device.type != "cuda" or "offload" in str(trainer.args.deepspeed):
        return [f"model to a smaller one (weights, gradients and Adam's moments alone take {states:.1f} GiB)"]
    offload = f"deepspeed to zero3_offload ({states:.1f} GiB of model states leave the GPU)"
    if trainer.args.deepspeed is not None:
        return [offload]
    shared = state_bytes(0, trained, False) / 2 / _GIB
    return [f"deepspeed to zero2 with --num-gpus 2 ({shared:.1f} of {states:.1f} GiB of model states less)", offload]
