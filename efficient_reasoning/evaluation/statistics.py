"""Intervals for what we measure: a bootstrap that draws problems, not samples.

1. Several samples of one problem share its difficulty, so they are drawn together: a *cluster* is a problem. Samples
   of several training seeds share the luck of their seed: pass `seeds`, and problems and seeds are drawn independently
   of each other, the weight of a cell being the product of both (the pigeonhole bootstrap, Owen 2007,
   doi 10.1214/07-AOAS122). With S seeds the variance between seeds comes out too small by the factor (S-1)/S, so three
   seeds prove less than their interval says.
2. Every mean is a ratio of two sums, sum(w * values) / sum(w * counts), so a resample is a row of integer weights and
   all of them are one matrix product: weights (R, C) @ sums (C, K).
3. Two arms are compared on the same problems with the same weights. What is hard for both cancels in the difference,
   which makes the interval several times narrower than two separate ones.
4. The bootstrap cannot see what never happened: 500 of 500 correct would give [1, 1]. A *share* that is unanimous
   takes the exact binomial bound p with p^C = (1 - level) / 2 instead: for 500 problems [0.9926, 1].

Legend: N values, C clusters (problems), S seeds, K columns, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
NO_LOSS = 0.01  # of accuracy: a lower bound that is no further below zero means no loss
_CHUNK_WEIGHTS = 2_000_000


@dataclass(frozen=True)
class Interval:
    """A measured mean and the ends of its interval, all in the unit of the values."""

    mean: float
    low: float
    high: float


def bootstrap(
    values: Sequence[float],
    clusters: Sequence,
    *,
    seeds: Sequence | None = None,
    share: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Percentile interval of a mean, clustered (Efron 1979; clusters: Field & Welsh 2007).

    Args:
        values: (N,) one number a sample.
        clusters: (N,) the problem of each sample.
        seeds: (N,) the training seed of each sample, when there are several.
        share: the values are shares in [0, 1], such as correct or not (point 4 above).
        resamples: number R of draws.
        seed: of the draws; the same seed gives the same draws for the same number of clusters.
        level: coverage of the interval.
    """
    shares = ("values",) if share else ()
    return bootstrap_columns(
        {"values": values}, clusters, seeds=seeds, shares=shares, resamples=resamples, seed=seed, level=level
    )["values"]


def bootstrap_columns(
    columns: Mapping[str, Sequence[float]],
    clusters: Sequence,
    *,
    seeds: Sequence | None = None,
    shares: Collection[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Interval]:
    """`bootstrap` of several columns of the same samples at once, which takes little longer than of one.

    Args:
        columns: (N,) each; not a number where a sample has no such value, which leaves it out of that mean.
        shares: those of the columns that are shares.

    Returns:
        An interval a column, all three of it not a number where the whole column is.
    """
    means, draws, num_clusters = _resample(list(columns.values()), clusters, seeds, resamples, seed)
    intervals = {}
    for place, name in enumerate(columns):
        intervals[name] = _percentiles(means[place], draws[:, place], level)
        if name in shares and means[place] in (0.0, 1.0):
            miss = _unseen_share(num_clusters, level)
            intervals[name] = Interval(means[place], max(0.0, means[place] - miss), min(1.0, means[place] + miss))
    return intervals


def paired_bootstrap(
    a: Sequence[float],
    b: Sequence[float],
    clusters: Sequence,
    *,
    seeds: Sequence | None = None,
    share: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Percentile interval of mean(b) - mean(a), where a[i] and b[i] belong to the same problem `clusters[i]`.

    The arguments are those of `bootstrap`.
    """
    means, draws, num_clusters = _resample([a, b], clusters, seeds, resamples, seed)
    interval = _percentiles(means[1] - means[0], draws[:, 1] - draws[:, 0], level)
    if not share:
        return interval
    # A bound of 0 on a side where nothing was seen to change proves no more than a unanimous share does.
    change, miss = np.subtract(b, a, dtype=float), _unseen_share(num_clusters, level)
    low = -miss if interval.low == 0 and not (change < 0).any() else interval.low
    high = miss if interval.high == 0 and not (change > 0).any() else interval.high
    # Nor does a change that every problem shares: those that were missed may have changed the other way. Where each
    # changed from wrong to right, the bound is above zero from 6 problems on, as in the exact sign test.
    if (change > 0).all():
        low -= miss * (1 + low)
    if (change < 0).all():
        high += miss * (1 - high)
    return Interval(interval.mean, low, high)


def paired_ratio(
    a: Sequence[float],
    b: Sequence[float],
    clusters: Sequence,
    *,
    seeds: Sequence | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Percentile interval of sum(b) / sum(a) - 1, the relative change: -0.4 is 40 % fewer tokens.

    The arguments are those of `paired_bootstrap`, whose draws it shares; the sum of `a` must be above zero.
    """
    means, draws, _ = _resample([a, b], clusters, seeds, resamples, seed)
    return _percentiles(means[1] / means[0] - 1, draws[:, 1] / draws[:, 0] - 1, level)


def mark_of(change: Interval) -> str:
    """A paired change of accuracy in a sign: `+` better, `-` worse, `=` no loss, `?` too few problems to say."""
    # Bounds are multiples of one problem and often lie on a limit: rounded, so that 1e-17 decides nothing.
    low, high = round(100 * change.low, 9), round(100 * change.high, 9)
    if low > 0:
        return "+"
    if high < 0:
        return "-"
    return "=" if low >= -100 * NO_LOSS else "?"


def resampled_means(
    columns: Sequence[Sequence[float]], resamples: int = RESAMPLES, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Means (K,) of K columns, one number a problem, and those of their resamples (R, K)."""
    means, draws, _ = _resample(columns, range(len(columns[0])), None, resamples, seed)
    return np.array(means), draws


def _resample(
    columns: Sequence[Sequence[float]], clusters: Sequence, seeds: Sequence | None, resamples: int, seed: int
) -> tuple[list[float], np.ndarray, int]:
    """Means of K columns, their (R, K) resampled means, and the number of clusters."""
    values = np.column_stack([np.asarray(column, dtype=np.float64) for column in columns])  # (N, K)
    cluster_names, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    seed_names, column_of = np.unique(
        np.zeros(len(values)) if seeds is None else np.asarray(seeds), return_inverse=True
    )
    if not len(values) == len(cluster) == len(column_of) > 0:
        raise ValueError(f"{len(values)} values, {len(cluster)} clusters and {len(column_of)} seeds do not pair up.")
    is_there = ~np.isnan(values)
    # Columns without gaps share one count.
    counted = is_there if not is_there.all() else np.ones((len(values), 1))
    shape = (len(cluster_names), len(seed_names), values.shape[1] + counted.shape[1])
    sums = np.zeros(shape)  # (C, S, K + counts)
    np.add.at(sums, (cluster, column_of), np.column_stack([np.where(is_there, values, 0.0), counted]))

    weights = _draw_weights(shape[0], resamples, seed)  # (R, C)
    seed_weights = _draw_weights(shape[1], resamples, seed + 1)  # (R, S), all ones when there is one seed
    totals = np.empty((resamples, shape[2]))
    rows = max(1, _CHUNK_WEIGHTS // shape[0])
    for start in range(0, resamples, rows):
        part = slice(start, start + rows)
        per_seed = weights[part].astype(np.float64) @ sums.reshape(shape[0], -1)  # (rows, S * (K + 1))
        totals[part] = np.einsum("rs,rsk->rk", seed_weights[part], per_seed.reshape(-1, *shape[1:]))
    num_columns = values.shape[1]
    with np.errstate(invalid="ignore"):  # a draw may miss all samples that have a value
        draws = totals[:, :num_columns] / totals[:, num_columns:]
        means = np.where(is_there, values, 0.0).sum(axis=0) / counted.sum(axis=0)
    return means.tolist(), draws, shape[0]


@lru_cache(maxsize=12)
def _draw_weights(num_clusters: int, resamples: int, seed: int) -> np.ndarray:
    """How often each of C clusters is drawn in each of R draws of C with replacement: (R, C) of uint8.

    Weights know nothing of the values, so every interval of a table reuses them (8,000 problems: 80 MB, 1.4 s).
    A cluster that is drawn more than 255 times does not occur: the count is Poisson(1).
    """
    rng = np.random.default_rng(seed)
    weights = np.empty((resamples, num_clusters), dtype=np.uint8)
    rows = max(1, _CHUNK_WEIGHTS // num_clusters)
    for start in range(0, resamples, rows):
        part = weights[start : start + rows]
        drawn = rng.integers(num_clusters, size=part.shape)
        drawn += np.arange(len(part))[:, None] * num_clusters
        part[:] = np.bincount(drawn.ravel(), minlength=part.size).reshape(part.shape)
    weights.flags.writeable = False
    return weights


def _percentiles(mean: float, draws: np.ndarray, level: float) -> Interval:
    ends = [(1 - level) / 2, (1 + level) / 2]
    if math.isnan(mean):
        return Interval(mean, mean, mean)
    low, high = np.nanquantile(draws, ends) if np.isnan(draws).any() else np.quantile(draws, ends)
    return Interval(float(mean), float(low), float(high))


def _unseen_share(num_clusters: int, level: float) -> float:
    """The largest share of problems that C of them may all miss with probability (1 - level) / 2."""
    return 1 - ((1 - level) / 2) ** (1 / num_clusters)
