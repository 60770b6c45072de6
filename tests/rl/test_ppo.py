"""PPO: advantages by hand, the loss of the critic, and what the recipe leaves behind."""

from __future__ import annotations

import pytest
import torch

from efficient_reasoning.rl.ppo import clipped_value_loss, gae

MASK = torch.tensor([[1.0, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
REWARDS = torch.tensor([2.0, -1.0, 0.5])
VALUES = torch.tensor([[0.1, 0.4, 0.3, 0], [0.2, 0, 0, 0], [0.5, -0.5, 1.0, 0.25]])


def test_with_lambda_one_a_token_is_worth_what_is_paid_beyond_its_value():
    advantages = gae(REWARDS, VALUES, MASK, gamma=1.0, gae_lambda=1.0)
    torch.testing.assert_close(advantages, (REWARDS[:, None] - VALUES) * MASK)


def test_with_lambda_zero_it_is_the_error_of_one_step():
    gamma = 0.5
    expected = [
        [0.5 * 0.4 - 0.1, 0.5 * 0.3 - 0.4, 2 - 0.3, 0],
        [-1 - 0.2, 0, 0, 0],
        [0.5 * -0.5 - 0.5, 0.5 * 1.0 + 0.5, 0.5 * 0.25 - 1.0, 0.5 - 0.25],
    ]
    torch.testing.assert_close(gae(REWARDS, VALUES, MASK, gamma, gae_lambda=0.0), torch.tensor(expected))


def test_between_them_errors_fade_by_gamma_lambda():
    one_step = gae(REWARDS, VALUES, MASK, 0.9, 0.0)
    advantages = gae(REWARDS, VALUES, MASK, 0.9, 0.8)
    for row in range(3):
        for t in range(4):
            sums = sum((0.9 * 0.8) ** (later - t) * one_step[row, later] for later in range(t, 4))
            assert advantages[row, t] == pytest.approx(float(sums * MASK[row, t]), abs=1e-6)


def test_the_value_loss_is_that_of_the_worse_of_two_values():
    values, old = torch.tensor([[1.0, 0.5, 9.0]]), torch.tensor([[0.0, 0.5, 0.0]])
    returns, mask = torch.tensor([[1.0, 0.7, 0.0]]), torch.tensor([[1.0, 1, 0]])
    # The first value moved to where it should be, which is too far: it counts as 0.2.
    loss = clipped_value_loss(values, old, returns, mask, clip=0.2)
    assert loss.item() == pytest.approx(0.5 * (0.8**2 + 0.2**2) / 2)
