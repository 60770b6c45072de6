"""A gradient or a loss that is no number ends training before weights are saved that are none either.

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
    """Check the gradient of every step that this trainer takes, before anything of it is logged or saved.

    A norm is looked at one step later, unless something is due at once: the device then works on a step while the
    next one is launched, where it would otherwise wait in between.
    """
    if trainer.args.fp16:  # which leaves out such a step by itself
        return
    # It looks at the loss of every step, and only to leave out of the log what ends the training here.
    trainer.args.logging_nan_inf_filter = False
    log_and_save = trainer._maybe_log_save_evaluate
    earlier: tuple[torch.Tensor | float | None, int] = None, 0

    def checked(tr_loss, grad_norm, *rest, **named):
        nonlocal earlier
        control, step = trainer.control, trainer.state.global_step
        check_finite(*earlier)
        earlier = grad_norm, step
        if control.should_log or control.should_save or control.should_training_stop:
            check_finite(grad_norm, step)
            check_finite(tr_loss, step, "loss")  # where max_grad_norm is 0, there is no norm
        log_and_save(tr_loss, grad_norm, *rest, **named)

    trainer._maybe_log_save_evaluate = checked


def check_finite(value: torch.Tensor | float | None, step: int, name: str = "gradient") -> None:
    """Stop where a gradient or a loss is no number.

    Args:
        value: of the norm of the gradient, the same on all processes, or of the loss; None where it was not taken.
        step: that it was taken in.
        name: what it is of.

    Raises:
        BadInput: it is infinite or not a number.
    """
    if value is not None and not math.isfinite(value):
        raise BadInput(
            f"Stopped in step {step}: the {name} is {float(value)}; the last checkpoint is from before. Lower the "
            "learning rate or max_grad_norm, in another output_dir."
        )
