from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from efficient_reasoning.errors import BadInput
from efficient_reasoning.training.finite import check_finite, stop_where_not_finite

FINE, NAN = torch.tensor(3.0), torch.tensor(float("nan"))


@pytest.mark.parametrize("value", [float("nan"), torch.tensor(float("inf"))])
def test_a_gradient_that_is_no_number_stops(value):
    check_finite(torch.tensor(3.0), 5)
    check_finite(None, 5)
    with pytest.raises(BadInput, match=r"Stopped in step 5: the gradient is (nan|inf); the last checkpoint"):
        check_finite(value, 5)


def trainer(**due):
    """One that only counts what it was let to log and save."""
    names = ("should_log", "should_save", "should_training_stop")
    made = SimpleNamespace(
        args=SimpleNamespace(fp16=False, logging_nan_inf_filter=True),
        control=SimpleNamespace(**dict.fromkeys(names, False) | due),
        state=SimpleNamespace(global_step=0),
        passed=[],
    )
    made._maybe_log_save_evaluate = lambda *given, **named: made.passed.append(made.state.global_step)
    stop_where_not_finite(made)
    return made


def take(made, loss, norm):
    made.state.global_step += 1
    made._maybe_log_save_evaluate(loss, norm, "model", learning_rate=1.0)


def test_nobody_waits_for_a_norm_before_the_next_step():
    looked_at = []

    class Norm:
        def __init__(self, step):
            self.step = step

        def __float__(self):
            looked_at.append(self.step)
            return 1.0

    made = trainer()
    for step in (1, 2, 3):
        take(made, FINE, Norm(step))
        assert looked_at == list(range(1, step))
    assert made.passed == [1, 2, 3]
    assert not made.args.logging_nan_inf_filter


def test_the_step_is_named_that_was_not_finite():
    made = trainer()
    take(made, FINE, FINE)
    take(made, FINE, NAN)
    with pytest.raises(BadInput, match="Stopped in step 2: the gradient is nan"):
        take(made, FINE, FINE)


@pytest.mark.parametrize("due", ["should_log", "should_save", "should_training_stop"])
@pytest.mark.parametrize(("loss", "norm", "name"), [(FINE, NAN, "gradient"), (NAN, None, "loss")])
def test_nothing_is_logged_or_saved_that_is_not_finite(due, loss, norm, name):
    made = trainer(**{due: True})
    take(made, FINE, FINE)
    with pytest.raises(BadInput, match=f"Stopped in step 2: the {name} is nan"):
        take(made, loss, norm)
    assert made.passed == [1]
