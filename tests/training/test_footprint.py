"""States shared among processes, and when gradients and activations meet."""

from __future__ import annotations

import pytest

from efficient_reasoning.config import find_config
from efficient_reasoning.training.activations import Activations
from efficient_reasoning.training.footprint import States, Zero, peak_bytes, sharded_states

P = 8 * 10**9


@pytest.mark.parametrize(
    ("name", "states"),
    [
        ("zero1", (2 * P, 0, 2 * P, 12 * P / 8)),
        ("zero2", (2 * P, 0, 2 * P / 8, 12 * P / 8)),
        ("zero3", (2 * P / 8 + 2 * 10**9, 0, 2 * P / 8, 12 * P / 8)),
        ("zero3_offload", (2 * 10**9, 0, 0, 0)),
    ],
)
def test_zero_shares_out_what_its_stage_says(name, states):
    assert sharded_states(P, P, True, False, Zero.of(str(find_config(name))), 8) == states


def test_gradients_meet_activations_only_where_steps_accumulate():
    states, step = States(weights=100, copies=40, gradients=100, moments=200), Activations(kept=80, loss=5, backward=2)
    # 80 + 40 + 5 at the loss; at the first of eight layers 10 + 5 + 2, and all gradients
    assert peak_bytes(states, step, num_layers=8, checkpointing=False, accumulating=False) == 300 + 125
    assert peak_bytes(states, step, num_layers=8, checkpointing=False, accumulating=True) == 300 + 225
    long = Activations(kept=8, loss=5, backward=60)
    assert peak_bytes(states, long, num_layers=8, checkpointing=True, accumulating=False) == 300 + 1 + 5 + 60 + 100
