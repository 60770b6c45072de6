"""The formulas against values worked by hand, enumeration and numerical integration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from efficient_reasoning.evaluation.metrics import (
    accuracy_at,
    accuracy_efficiency_score,
    area_under_curve,
    dominates,
    majority,
    pareto_front,
    pass_at_k,
    tokens_at,
)

CURVE = [(64.0, 0.5), (32.0, 0.2), (256.0, 0.9), (128.0, 0.4), (300.0, 0.9)]  # two of them dominated


@pytest.mark.parametrize("samples, correct", [(5, 0), (5, 2), (6, 5), (4, 4)])
def test_pass_at_k_is_the_share_of_all_draws_that_hold_a_correct_one(samples, correct):
    verdicts = [True] * correct + [False] * (samples - correct)
    for k in range(1, samples + 1):
        draws = list(itertools.combinations(verdicts, k))
        assert pass_at_k(samples, correct, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_one_is_the_accuracy_and_more_samples_than_there_are_is_an_error():
    assert pass_at_k(16, 3, 1) == pytest.approx(3 / 16)
    with pytest.raises(ValueError, match="pass@5 of 4"):
        pass_at_k(4, 1, 5)


@pytest.mark.parametrize(
    "answers, correct, expected",
    [
        (["7", "8", "8"], [True, False, False], 0),
        (["7", "8", "7"], [True, False, True], 1),
        (["7", "8"], [True, False], 0.5),  # a tie is a coin
        (["7", "8", "9"], [True, False, False], 1 / 3),
        ([None, None, "7"], [False, False, True], 1),  # silence does not vote
        ([None], [False], 0),
    ],
)
def test_the_majority(answers, correct, expected):
    assert majority(answers, correct) == pytest.approx(expected)


def test_aes_by_hand():
    base = (200.0, 0.8)
    # Half the tokens; two points more of 80 are 2.5 %.
    assert accuracy_efficiency_score(base, (100.0, 0.82)) == pytest.approx(0.5 + 3 * 0.025)
    # Two points less cost five times as much, and are a gain in the published form.
    assert accuracy_efficiency_score(base, (100.0, 0.78)) == pytest.approx(0.5 - 5 * 0.025)
    assert accuracy_efficiency_score(base, (100.0, 0.78), as_published=True) == pytest.approx(0.5 + 5 * 0.025)
    assert accuracy_efficiency_score(base, (100.0, 0.82), as_published=True) == pytest.approx(0.5 + 3 * 0.025)
    assert accuracy_efficiency_score(base, base) == 0
    assert accuracy_efficiency_score(base, (300.0, 0.8)) == pytest.approx(-0.5)
    assert math.isnan(accuracy_efficiency_score((200.0, 0.0), base))


def test_who_dominates_whom():
    assert dominates((1, 0.5), (2, 0.5)) and dominates((1, 0.6), (1, 0.5)) and dominates((1, 0.6), (2, 0.5))
    assert not dominates((1, 0.5), (1, 0.5)) and not dominates((1, 0.4), (2, 0.5))
    assert pareto_front(CURVE) == [1, 0, 2]
    assert pareto_front([(1, 0.5), (1, 0.5)]) == [0, 1]  # equals do not dominate each other
    assert pareto_front([]) == []


def test_the_curve_between_its_points_and_outside_them():
    # Half-way between 32 and 64 in octaves; flat to 128, where it was measured to bring nothing; half-way to 256.
    assert accuracy_at(CURVE, 2**5.5) == pytest.approx(0.35)
    assert accuracy_at(CURVE, 128.0) == pytest.approx(0.5)
    assert accuracy_at(CURVE, 2**7.5) == pytest.approx(0.7)
    assert accuracy_at(CURVE, 4096.0) == pytest.approx(0.9)
    assert np.isnan(accuracy_at(CURVE, 31.0))
    assert accuracy_at([(1.0, 0.5), (1.0, 0.5)], 1.0) == pytest.approx(0.5)


@pytest.mark.parametrize("low, high", [(32, 1024), (40, 100), (64, 256), (300, 301)])
def test_the_area_is_the_integral(low, high):
    octaves = np.linspace(math.log2(low), math.log2(high), 200_001)
    middles = (octaves[1:] + octaves[:-1]) / 2
    assert area_under_curve(CURVE, low, high) == pytest.approx(accuracy_at(CURVE, 2**middles).mean(), abs=1e-9)


@pytest.mark.parametrize("worse", [0.0, 0.1, 0.13])
def test_a_worse_point_never_gives_a_larger_area(worse):
    better, less = ([(30, 0.0), (59, accuracy), (134, 1.0)] for accuracy in (0.14, worse))
    assert area_under_curve(less, 30, 134) < area_under_curve(better, 30, 134)
    assert tokens_at(less, 0.9) >= tokens_at(better, 0.9)


def test_an_area_without_width_or_beginning():
    assert area_under_curve(CURVE, 64, 64) == pytest.approx(0.5)
    assert math.isnan(area_under_curve(CURVE, 16, 64))


def test_tokens_at_equal_accuracy():
    assert tokens_at(CURVE, 0.7) == pytest.approx(2**7.5)  # the inverse of the curve
    assert tokens_at(CURVE, 0.5) == 64.0
    assert tokens_at(CURVE, 0.1) == 32.0
    assert tokens_at(CURVE, 0.9) == 256.0
    assert tokens_at(CURVE, 0.95) is None
