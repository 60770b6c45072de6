"""Intervals against closed forms, exact enumeration, scipy, and simulated coverage."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from efficient_reasoning.evaluation.statistics import (
    Interval,
    bootstrap,
    bootstrap_columns,
    paired_bootstrap,
    paired_ratio,
)


def half_width(interval: Interval) -> float:
    return (interval.high - interval.low) / 2


def test_the_interval_of_independent_values_is_the_normal_one():
    values = np.random.default_rng(0).normal(5, 2, size=1000)
    interval = bootstrap(values, range(1000))
    assert interval.mean == pytest.approx(values.mean())
    assert half_width(interval) == pytest.approx(1.96 * values.std() / np.sqrt(1000), rel=0.03)


def test_three_problems_give_the_percentiles_of_all_27_resamples():
    values = [0.0, 1.0, 5.0]
    means = [np.mean(draw) for draw in itertools.product(values, repeat=3)]
    interval = bootstrap(values, list("abc"), resamples=50_000, level=0.8)
    low, high = np.quantile(means, [0.1, 0.9], method="inverted_cdf")
    assert (interval.low, interval.high) == pytest.approx((low, high))


def test_repeating_each_sample_adds_no_evidence():
    values = np.random.default_rng(1).random(200)
    once = bootstrap(values, range(200))
    eight_times = bootstrap(np.repeat(values, 8), np.repeat(range(200), 8))
    assert (eight_times.low, eight_times.high) == pytest.approx((once.low, once.high))
    naive = bootstrap(np.repeat(values, 8), range(1600))
    assert half_width(naive) < 0.5 * half_width(once)


def test_clusters_of_unequal_size_weigh_by_their_samples():
    interval = bootstrap([1, 1, 1, 0], ["many", "many", "many", "one"])
    assert interval.mean == 0.75
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(2).exponential(size=300)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=0).confidence_interval
    ours = bootstrap(values, range(300), resamples=20_000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.05 * half_width(ours))


def test_coverage_of_clustered_samples_is_what_it_says():
    """4 samples of each of 150 problems whose difficulty they share: 95 % of the intervals hold the true mean."""
    rng = np.random.default_rng(3)
    clusters = np.repeat(range(150), 4)
    hits, naive_hits, trials, truth = 0, 0, 600, 0.7
    for _ in range(trials):
        difficulty = rng.beta(7 / 4, 3 / 4, size=150)  # mean 0.7
        correct = rng.random((150, 4)) < difficulty[:, None]
        interval = bootstrap(correct.ravel(), clusters, share=True, resamples=1000)
        naive = bootstrap(correct.ravel(), range(600), share=True, resamples=1000)
        hits += interval.low <= truth <= interval.high
        naive_hits += naive.low <= truth <= naive.high
    assert hits / trials == pytest.approx(0.95, abs=0.025)
    assert naive_hits / trials < 0.9


def test_pairing_removes_what_is_hard_for_both():
    rng = np.random.default_rng(4)
    difficulty = rng.normal(0, 10, size=500)
    a, b = difficulty + rng.normal(0, 1, 500), difficulty + rng.normal(0.5, 1, 500)
    paired = paired_bootstrap(a, b, range(500))
    assert paired.mean == pytest.approx(b.mean() - a.mean())
    assert half_width(paired) == pytest.approx(1.96 * (b - a).std() / np.sqrt(500), rel=0.05)
    assert paired.low > 0
    assert half_width(paired) < half_width(bootstrap(a, range(500))) / 5


def test_the_ratio_of_tokens_has_the_delta_methods_width():
    rng = np.random.default_rng(5)
    a = rng.gamma(4, 30, size=800)
    b = a * rng.uniform(0.4, 0.6, size=800)
    interval = paired_ratio(a, b, range(800))
    ratio = b.sum() / a.sum()
    error = np.std(b - ratio * a) / a.mean() / np.sqrt(800)
    assert interval.mean == pytest.approx(ratio - 1)
    assert half_width(interval) == pytest.approx(1.96 * error, rel=0.05)


def test_equal_arms_have_no_difference_whatever_the_draws():
    tokens = np.random.default_rng(6).random(50)
    assert paired_bootstrap(tokens, tokens, range(50)) == Interval(0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("value", "low", "high"), [(1.0, 0.025 ** (1 / 500), 1.0), (0.0, 0.0, 1 - 0.025 ** (1 / 500))]
)
def test_a_unanimous_share_is_not_certain(value, low, high):
    interval = bootstrap([value] * 500, range(500), share=True)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((value, low, high))
    assert bootstrap([value] * 500, range(500)) == Interval(value, value, value)


def test_no_discordant_problem_is_not_proof_of_no_change():
    correct = [1, 0] * 50
    interval = paired_bootstrap(correct, correct, range(100), share=True)
    assert -interval.low == interval.high == pytest.approx(1 - 0.025 ** (1 / 100))


def test_a_side_on_which_nothing_changed_is_not_proof_of_no_change():
    """One of 20 won and none lost does not say that none is ever lost; six won say that more are won than lost."""
    miss = 1 - 0.025 ** (1 / 20)
    one, six = ([1] * won + [0] * (20 - won) for won in (1, 6))
    assert paired_bootstrap([0] * 20, one, range(20), share=True).low == pytest.approx(-miss)
    assert paired_bootstrap(one, [0] * 20, range(20), share=True).high == pytest.approx(miss)
    assert paired_bootstrap([0] * 20, six, range(20), share=True).low > 0


@pytest.mark.parametrize(("problems", "is_proof"), [(1, False), (5, False), (6, True), (100, True)])
def test_a_change_that_all_problems_share_is_not_certain(problems, is_proof):
    """As in the exact sign test: five of five are no proof (p = 0.0625), six of six are (p = 0.03125)."""
    wrong, right = [0] * problems, [1] * problems
    better = paired_bootstrap(wrong, right, range(problems), share=True)
    worse = paired_bootstrap(right, wrong, range(problems), share=True)
    assert (better.low > 0) == (worse.high < 0) == is_proof
    assert better.low == pytest.approx(-worse.high) == pytest.approx(2 * 0.025 ** (1 / problems) - 1)
    assert (better.mean, better.high) == (-worse.mean, -worse.low) == (1, 1)


def test_training_seeds_are_a_second_source_of_chance():
    rng = np.random.default_rng(7)
    problems, seeds = (grid.ravel() for grid in np.meshgrid(range(300), range(6), indexing="ij"))
    luck = rng.normal(0, 1, size=6)
    values = rng.normal(0, 1, size=1800) + luck[seeds]
    by_problem = bootstrap(values, problems)
    by_both = bootstrap(values, problems, seeds=seeds)
    assert by_both.mean == by_problem.mean
    # What the six seeds differ by dwarfs what 300 problems do: the spread is that of a mean of six.
    assert half_width(by_both) == pytest.approx(1.96 * luck.std() / np.sqrt(6), rel=0.15)
    assert half_width(by_problem) < 0.2 * half_width(by_both)


def test_one_training_seed_changes_nothing():
    values = np.random.default_rng(8).random(40)
    assert bootstrap(values, range(40), seeds=[17] * 40) == bootstrap(values, range(40))


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(9).random(60)
    assert bootstrap(values, range(60), seed=3) == bootstrap(values, range(60), seed=3)
    assert bootstrap(values, range(60), seed=3) != bootstrap(values, range(60), seed=4)


def test_lengths_must_match():
    with pytest.raises(ValueError, match="3 values, 2 clusters"):
        bootstrap([1, 2, 3], ["a", "b"])


def test_eight_thousand_problems_take_less_than_three_seconds():
    values = np.random.default_rng(10).random(8000)
    began = time.process_time()
    bootstrap(values, range(8000))
    assert time.process_time() - began < 3


def test_columns_share_their_draws_and_gaps_leave_samples_out():
    rng = np.random.default_rng(5)
    problems = np.repeat(np.arange(200), 3)
    whole = rng.random(600)
    gaps = np.where(rng.random(600) < 0.3, np.nan, whole)
    together = bootstrap_columns({"whole": whole, "gaps": gaps, "none": np.full(600, np.nan)}, problems)
    expected = bootstrap(whole, problems)
    assert (together["whole"].low, together["whole"].high) == pytest.approx((expected.low, expected.high))
    kept = ~np.isnan(gaps)
    alone = bootstrap(gaps[kept], problems[kept])
    assert together["gaps"].mean == pytest.approx(alone.mean)
    assert half_width(together["gaps"]) == pytest.approx(half_width(alone), rel=0.05)
    assert np.isnan(together["none"].mean) and np.isnan(together["none"].low)


def test_a_draw_may_miss_the_only_sample_with_a_value():
    interval = bootstrap_columns({"values": [0.25, np.nan, np.nan]}, [0, 1, 2])["values"]
    assert (interval.mean, interval.low, interval.high) == (0.25, 0.25, 0.25)
