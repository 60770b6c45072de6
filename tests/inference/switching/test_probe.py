"""Probes: what they learn, and the points of a switch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.switching.probe import Probe, fit, sweep


def test_a_probe_learns_pass_rates_that_are_in_the_states():
    torch.manual_seed(0)
    states = 5 * torch.randn(400, 6) + 3
    true = torch.stack([states[:, 0] - 3, 2 - 0 * states[:, 1]], 1).sigmoid()
    probe = fit(states[:300], torch.bernoulli(true[:300].expand(300, 2)))
    assert (probe.predict(states[300:]) - true[300:]).abs().mean() < 0.06


def test_states_that_say_nothing_leave_the_mean():
    torch.manual_seed(0)
    rates = torch.tensor([[0.25, 0.75]]).expand(60, 2)
    predicted = fit(torch.randn(60, 200), torch.bernoulli(rates)).predict(torch.randn(50, 200))
    assert predicted.std(0).max() < 0.2


def test_states_that_are_the_same_everywhere_are_not_read():
    torch.manual_seed(0)
    states = torch.randn(100, 4)
    states[:, 2], states[:, 3] = 123.456, 0.0
    probe = fit(states, torch.stack([states[:, 0] > 0, states[:, 1] > 0], 1).float())
    assert torch.equal(probe.weight[:, 2:], torch.zeros(2, 2))
    assert probe.weight[0, 0] > 0 and probe.weight[1, 1] > 0


def test_too_few_problems_are_refused():
    with pytest.raises(BadInput, match="9 problems have both modes' pass rates; sample at least 10"):
        fit(torch.randn(9, 2), torch.rand(9, 2))


def test_a_file_holds_a_probe_whole(tmp_path):
    probe = Probe(torch.randn(2, 3), torch.randn(2), "fingerprint", 0.125)
    probe.save(tmp_path / "probe.safetensors")
    again = Probe.load(tmp_path / "probe.safetensors")
    assert (again.weights, again.threshold) == ("fingerprint", 0.125)
    assert torch.equal(again.weight, probe.weight) and torch.equal(again.bias, probe.bias)


def test_points_of_a_switch_are_those_that_its_threshold_gives():
    rng = np.random.default_rng(0)
    gains = np.array([0.3, 0.1, 0.3, -0.2, 0.0])
    fast, slow = rng.random((5, 2)), 2 + rng.random((5, 2))
    points = sweep(gains, fast, slow)
    assert [point.slow_share for point in points] == [0, 0.4, 0.6, 0.8, 1]  # equal gains go together
    for point in points:
        is_slow = gains > point.threshold
        assert is_slow.mean() == point.slow_share
        expected = np.where(is_slow[:, None], slow, fast).mean(0)
        assert (point.accuracy, point.cost) == pytest.approx(tuple(expected))


def test_states_of_another_width_are_refused():
    with pytest.raises(BadInput, match="reads states 3 wide, and this model's are 4; fit one on this model"):
        Probe(torch.zeros(2, 3), torch.zeros(2), None, 0.0).predict(torch.zeros(5, 4))
