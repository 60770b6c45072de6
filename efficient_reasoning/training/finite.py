"""A gradient that is no number ends training before weights are saved that are none either.

The trainer itself would go on: it leaves such losses out of what it logs, and writes checkpoints of weights that
nothing can be learnt from any more.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from efficient_reasoning.errors import BadInput

if TYPE_CHECKING:
    import torch
    from transformers import Trainer


def stop_where_not_finite(trainer: Trainer) -> None:
    """Check the gradient of every step that this trainer takes, before it logs or saves it."""
    if trainer.args.fp16:  # which leaves out such a step by itself
        return
    log_and_save = trainer._maybe_log_save_evaluate

    def checked(tr_loss, grad_norm, *rest, **named):
        check_gradient(grad_norm, trainer.state.global_step)
        log_and_save(tr_loss, grad_norm, *rest, **named)

    trainer._maybe_log_save_evaluate = checked


def check_gradient(norm: torch.Tensor | float | None, step: int) -> None:
    """Stop where a gradient is no number.

    Args:
        norm: of the gradient, the same on all processes; None where it was not taken.
        step: that it was taken in.

    Raises:
        BadInput: it is infinite or not a number.
    """
    if norm is not None and not math.isfinite(norm):
        raise BadInput(
            f"Stopped in step {step}: the gradient is {float(norm)}; the last checkpoint is from before. Lower the "
            "learning rate or max_grad_norm, in another output_dir."
        )
