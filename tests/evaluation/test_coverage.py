"""Coverage over samples: the law is found again where it holds, and absent where nothing can be fitted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from efficient_reasoning.evaluation.coverage import PowerLaw, coverage, fit_power_law
from efficient_reasoning.evaluation.metrics import pass_at_k

K = (1, 2, 4, 8, 16, 32, 64, 100)


@pytest.mark.parametrize(("a", "b"), [(-1.84, -0.21), (-4.0, -0.9), (-0.05, -0.4), (-2.0, 0.0), (-0.5, -3.0)])
def test_the_law_is_found_again(a, b):
    law = fit_power_law({k: math.exp(a * k**b) for k in K})
    assert (law.a, law.b) == pytest.approx((a, b), abs=1e-6)
    assert law.residual < 1e-6
    assert law(10) == pytest.approx(math.exp(a * 10**b))


def test_the_fit_is_least_squares_of_log_coverage():
    rng = np.random.default_rng(0)
    shares = {k: math.exp(-2 * k**-0.3 + 0.05 * rng.normal()) for k in K}

    def error(a: float, b: float) -> float:
        return np.mean([(math.log(share) - a * k**b) ** 2 for k, share in shares.items()])

    law = fit_power_law(shares)
    assert law.residual == pytest.approx(error(law.a, law.b) ** 0.5)
    steps = (-1e-3, 0, 1e-3)
    assert error(law.a, law.b) == min(error(law.a + da, law.b + db) for da in steps for db in steps)


def test_problems_of_uneven_difficulty_follow_the_law():
    """Where the chances of problems have a heavy tail at zero, pass@k is a power law; of equal chances it is not."""
    rng = np.random.default_rng(0)

    def residual(chances: np.ndarray) -> float:
        correct = rng.binomial(128, chances)
        return fit_power_law({k: np.mean([pass_at_k(128, c, k) for c in correct]) for k in K[:-1]}).residual

    assert residual(rng.beta(0.2, 2, 2000)) < 0.1 < residual(np.full(2000, 0.03))


@pytest.mark.parametrize(
    "shares",
    [
        {1: 0.2},
        {1: 0.2, 2: 0.3},
        {1: 0.0, 2: 0.0, 4: 0.0},
        {1: 1.0, 2: 1.0, 4: 1.0},
        {1: 0.5, 2: 0.9, 4: 1.0, 8: 1.0},
    ],
)
def test_too_little_to_fit_is_no_law(shares):
    assert fit_power_law(shares) is None


def test_a_solved_end_is_fitted_too():
    law = fit_power_law({1: 0.5, 2: 0.8, 4: 0.95, 8: 1.0})
    assert law.a == pytest.approx(math.log(0.5), abs=0.05) and law.b < -1


def test_coverage_is_read_from_a_point_of_any_summary():
    point = {"accuracy": {"mean": 0.2}, "pass_at_10": {"mean": 0.6}, "pass_at_2": {"mean": 0.3}, "n": 10}
    assert coverage(point) == {1: {"mean": 0.2}, 2: {"mean": 0.3}, 10: {"mean": 0.6}}
    assert [*coverage(point)] == [1, 2, 10]
    assert coverage({"accuracy": {"mean": 0.2}}) == {1: {"mean": 0.2}}


def test_one_sample_reaches_the_exponential_of_a():
    assert PowerLaw(a=-2.0, b=-0.5, residual=0.0)(1) == pytest.approx(math.exp(-2))
