"""How deep a model goes, in training and in inference."""

from __future__ import annotations

from statistics import mean

import pytest

from efficient_reasoning.errors import BadInput
from efficient_reasoning.recurrent import RecurrentConfig
from efficient_reasoning.recurrent.depth import sample_depth, set_depth


def test_depths_are_log_normal_poisson_with_the_mean_that_they_name():
    drawn = [sample_depth(8, 0.5, seed=0, step=step) for step in range(20_000)]
    assert mean(drawn) == pytest.approx(8, abs=0.1) and min(drawn) == 1
    # Of a Poisson mixture: mean rate + its variance, 7 + 49 (e^(1/4) - 1).
    assert mean((depth - 8) ** 2 for depth in drawn) == pytest.approx(20.9, rel=0.05)
    assert sorted(drawn)[-20] > 30  # the long tail


def test_a_depth_is_that_of_its_seed_and_step():
    first = [sample_depth(8, 0.5, 1, step) for step in range(50)]
    assert first == [sample_depth(8, 0.5, 1, step) for step in range(50)]
    assert first != [sample_depth(8, 0.5, 2, step) for step in range(50)]
    assert {sample_depth(1, 0.5, 1, step) for step in range(50)} == {1}
    assert {sample_depth(6, None, 1, step) for step in range(50)} == {6}


@pytest.mark.parametrize(("mean_depth", "sigma"), [(0.5, 0.5), (4, -1)])
def test_what_cannot_be_drawn_is_refused(mean_depth, sigma):
    with pytest.raises(BadInput, match=f"Depths of mean {mean_depth} and sigma {sigma} cannot be drawn"):
        sample_depth(mean_depth, sigma, 0, 0)


def test_what_cannot_be_decoded_is_refused():
    config = RecurrentConfig(mean_depth=4)
    with pytest.raises(BadInput, match="depth is 0; give at least 1 iteration"):
        set_depth(config, depth=0)
    with pytest.raises(BadInput, match=r"exit_kl is -1\.0; give a divergence in nats of 0 or more"):
        set_depth(config, exit_kl=-1.0)
    assert (config.depth, config.exit_kl) == (4, None)
    set_depth(config, depth=9, exit_kl=5e-4)
    assert (config.depth, config.exit_kl, config.mean_depth) == (9, 5e-4, 4)
