"""The part of the advice that a CPU does not get; the rest is followed in tests/reliability."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from efficient_reasoning.training.memory import advice


@pytest.mark.parametrize(
    ("deepspeed", "knobs"),
    [
        (
            None,
            [
                "deepspeed to zero2 with --num-gpus 2 (6.0 of 18.0 GiB of model states less)",
                "deepspeed to zero3_offload (18.0 GiB of model states leave the GPU)",
            ],
        ),
        ("configs/deepspeed/zero2.json", ["deepspeed to zero3_offload (18.0 GiB of model states leave the GPU)"]),
        (
            "configs/deepspeed/zero3_offload.json",
            ["model to a smaller one (weights, gradients and Adam's moments alone take 18.0 GiB)"],
        ),
    ],
)
def test_states_of_the_model_leave_the_gpu(deepspeed, knobs):
    with torch.device("meta"):
        model = torch.nn.Linear(1 << 15, 1 << 15, bias=False)  # 2 ** 30 weights
    args = SimpleNamespace(
        per_device_train_batch_size=3,
        gradient_accumulation_steps=2,
        gradient_checkpointing=True,
        bf16=True,
        device=torch.device("cuda"),
        deepspeed=deepspeed,
    )
    trainer = SimpleNamespace(args=args, model=model, state=SimpleNamespace(global_step=0))
    said = advice(trainer, RuntimeError("CUDA out of memory.\nTried to allocate 2.00 GiB."))
    smaller = "per_device_train_batch_size to 1 and gradient_accumulation_steps to 6"
    wanted = [f"{smaller} (the same step, activations divided by 3)", *knobs]
    assert said == (
        f"Out of memory in step 1 (CUDA out of memory. Tried to allocate 2.00 GiB.); set {'; or '.join(wanted)}."
    )
