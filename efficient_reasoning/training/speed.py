"""What a training made of its time and memory, in one line behind the last step.

1. Tokens are those that the model reads with gradients, padding included: a hook counts them, whichever trainer runs.
2. MFU (model FLOPs utilization, arXiv 2204.02311) is what these tokens have to cost, over what the device could have
   done in bfloat16 meanwhile: forward, backward to the inputs, and backward to the weights that are trained. What
   checkpointing computes again earns nothing. It is left out on devices whose peak is not known here.
3. Attention transfer runs the layers one by one, as a teacher: its tokens are those that are embedded, without MFU.
4. Rollouts, with their rewards, are timed apart, and belong to neither.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import TrainerCallback

from efficient_reasoning.inference.flops import DecodingFlops, RecurrentFlops
from efficient_reasoning.inference.memory import peak_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer

# Dense bfloat16 operations a second, by what the name of a device contains.
_PEAK_FLOPS = {
    "B200": 2.25e15,
    "H200": 9.89e14,
    "H100": 9.89e14,
    "A100": 3.12e14,
    "L40S": 3.62e14,
    "RTX 4090": 1.65e14,
}
_ROLLOUTS = "_generate_and_score_completions"  # of TRL's online trainers


@dataclass(frozen=True)
class Speed:
    """Of all processes together, but for the memory, which is that of the one which took most.

    Attributes:
        steps: of the optimizer, those before a run was resumed left out.
        tokens: that the model read with gradients.
        seconds: from before the first step until behind the last.
        rollout_seconds: those of them that responses and rewards took.
        flops: that the tokens have to cost; None where nobody knows.
        peak_flops: a second, of all devices; None where nobody knows.
        peak_memory_bytes: allocated on the device, or resident on a CPU.
    """

    steps: int
    tokens: float
    seconds: float
    rollout_seconds: float
    flops: float | None
    peak_flops: float | None
    peak_memory_bytes: float

    @property
    def training_seconds(self) -> float:
        return max(self.seconds - self.rollout_seconds, 1e-9)

    @property
    def mfu(self) -> float | None:
        """Share of the devices' operations in the time without rollouts."""
        if self.flops is None or self.peak_flops is None:
            return None
        return self.flops / self.training_seconds / self.peak_flops

    def __str__(self) -> str:
        parts = [f"{self.tokens / self.training_seconds:,.0f} tokens/s in training"]
        if self.mfu is not None:
            parts.append(f"MFU {self.mfu:.1%}")
        if self.rollout_seconds:
            parts.append(f"rollouts {self.rollout_seconds / max(self.seconds, 1e-9):.0%} of the time")
        parts.append(f"peak memory {self.peak_memory_bytes / 2**30:.2f} GiB")
        return f"{self.steps:,} steps in {self.seconds:,.0f} s: {', '.join(parts)}"


class SpeedMeter(TrainerCallback):
    """Measures one call of `trainer.train`; `speed` is there behind it, on every process.

    Args:
        trainer: to which the callback is added.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.speed: Speed | None = None
        self.tokens, self.embedded_tokens, self.rollout_seconds = 0, 0, 0.0
        self.looks = self.looks_in_window = 0.0  # tensors of the device as soon as there are any: nobody waits

    def on_train_begin(self, args, state, control, **kwargs):
        base = _base_model(self.trainer)
        self.flops = _flops_of(base)
        count = torch.compiler.disable(self._count)
        self.hooks = [base.base_model.register_forward_pre_hook(count, with_kwargs=True)]
        if not args.torch_compile:  # of a body that is compiled, it would make two
            self.hooks.append(base.get_input_embeddings().register_forward_pre_hook(self._count_embedded))
        if hasattr(self.trainer, _ROLLOUTS):
            setattr(self.trainer, _ROLLOUTS, self._timed(getattr(self.trainer, _ROLLOUTS)))
        if args.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(args.device)
        self.first_step, self.began = state.global_step, time.perf_counter()

    def on_train_end(self, args, state, control, **kwargs):
        _wait_for(args.device)
        seconds = time.perf_counter() - self.began
        for hook in self.hooks:
            hook.remove()
        if hasattr(self.trainer, _ROLLOUTS):
            delattr(self.trainer, _ROLLOUTS)  # what shadowed the method of the class
        flops = 0.0
        if not self.tokens:  # no pass of the body was seen
            self.tokens, self.flops = self.embedded_tokens, None
        if self.flops is not None:
            parameters = list(_base_model(self.trainer).parameters())
            trained = sum(_size(each) for each in parameters if each.requires_grad) / sum(map(_size, parameters))
            forward = self.tokens * (self.flops.body + self.flops.head)
            forward += float(self.looks) * self.flops.attention
            forward += float(self.looks_in_window) * self.flops.window_attention
            flops = (2 + trained) * forward
        own = torch.tensor([self.tokens, flops], dtype=torch.float32, device=args.device)
        tokens, flops = self.trainer.accelerator.reduce(own, "sum").tolist()
        peaks = torch.tensor([float(peak_bytes(args.device))], device=args.device)
        peak = _peak_flops(args.device) if args.bf16 or args.fp16 else None
        self.speed = Speed(
            steps=state.global_step - self.first_step,
            tokens=tokens,
            seconds=seconds,
            rollout_seconds=self.rollout_seconds,
            flops=None if self.flops is None else flops,
            peak_flops=None if peak is None else peak * args.world_size,
            peak_memory_bytes=self.trainer.accelerator.gather(peaks).max().item(),
        )

    def _count(self, module: torch.nn.Module, positional: tuple, named: Mapping) -> None:
        if not torch.is_grad_enabled():
            return
        inputs = next((named[name] for name in ("inputs_embeds", "input_ids") if named.get(name) is not None), None)
        inputs = positional[0] if inputs is None else inputs
        rows, columns = inputs.shape[:2]
        self.tokens += rows * columns
        places = named.get("position_ids")  # of rows that are packed, each row's begin at zero
        if places is None:
            past = named.get("past_key_values")
            first = 0 if past is None else past.get_seq_length()
            places = torch.arange(first, first + columns, device=inputs.device)[None]
        looked = (places + 1).double()
        self.looks = self.looks + looked.mean() * rows * columns
        if self.flops is not None and self.flops.window_tokens:
            self.looks_in_window += looked.clamp(max=self.flops.window_tokens).mean() * rows * columns

    def _count_embedded(self, module: torch.nn.Module, inputs: tuple) -> None:
        self.embedded_tokens += inputs[0].numel()

    def _timed(self, generate: Callable) -> Callable:
        def timed(*inputs):
            _wait_for(self.trainer.args.device)  # for what was begun before
            began = time.perf_counter()
            try:
                return generate(*inputs)
            finally:
                self.rollout_seconds += time.perf_counter() - began

        return timed


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _base_model(trainer: Trainer) -> PreTrainedModel:
    """Without the wrappers of processes and adapters."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _size(parameter: torch.nn.Parameter) -> int:
    return getattr(parameter, "ds_numel", parameter.numel())  # ZeRO-3 leaves a process with a part


def _flops_of(model: PreTrainedModel) -> DecodingFlops | None:
    """Of a model like this one, whole; None of recurrent depth, which differs from step to step."""
    with torch.device("meta"):
        flops = DecodingFlops.of(type(model)(model.config))
    return None if isinstance(flops, RecurrentFlops) else flops


def _peak_flops(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAK_FLOPS.items() if part in name), None)
