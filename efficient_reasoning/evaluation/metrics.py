"""Numbers that join accuracy and tokens: plain functions of plain numbers, each with its formula and its paper.

A *point* is a pair (tokens, accuracy): mean tokens of a problem, and a share in [0, 1]. Curves are read on a
logarithmic axis of tokens, on which halving a length is the same step everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

# Of the accuracy-efficiency score, as in O1-Pruner.
_AES_GAIN, _AES_LOSS = 3.0, 5.0

Point = tuple[float, float]


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Probability that k of the samples, drawn without replacement, hold a correct one.

    1 - C(n - c, k) / C(n, k), the unbiased estimate of Chen et al. 2021 (arXiv 2107.03374).

    Args:
        samples: n of a problem.
        correct: c of them.
        k: at most n.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {samples} samples.")
    return 1 - math.comb(samples - correct, k) / math.comb(samples, k)


def majority(answers: Sequence[Hashable | None], correct: Sequence[bool]) -> float:
    """Whether the commonest answer of a problem's samples is correct (self-consistency, arXiv 2203.11171).

    Samples without an answer (None) do not vote. Answers that are equally common share the vote, so that the order of
    the samples decides nothing: of two, one of them correct, comes 0.5.

    Args:
        answers: the final answer of each sample.
        correct: the verdict on each.
    """
    votes: dict[Hashable, list[bool]] = {}
    for answer, verdict in zip(answers, correct, strict=True):
        if answer is not None:
            votes.setdefault(answer, []).append(verdict)
    most = max(map(len, votes.values()), default=0)
    # A verifier that reads more than the answer may give one answer two verdicts: then its share of right ones counts.
    leaders = [sum(verdicts) / most for verdicts in votes.values() if len(verdicts) == most]
    return sum(leaders) / len(leaders) if leaders else 0.0


def accuracy_efficiency_score(baseline: Point, point: Point, *, as_published: bool = False) -> float:
    """AES of O1-Pruner (arXiv 2501.12570): fewer tokens and gained accuracy count for a model, a loss against it.

    With dL = (L_base - L) / L_base and dA = (A - A_base) / A_base:

        dL + 3 dA      where dA >= 0
        dL - 5 |dA|    where dA < 0

    The paper's table has the loss with the other sign, which rewards it; `as_published` computes that, to compare with
    published numbers and for nothing else. Not a number where the baseline is never right, or says nothing.
    """
    (base_tokens, base_accuracy), (tokens, accuracy) = baseline, point
    if not base_accuracy or not base_tokens:
        return math.nan
    shorter = (base_tokens - tokens) / base_tokens
    better = (accuracy - base_accuracy) / base_accuracy
    weight = _AES_GAIN if better >= 0 else _AES_LOSS
    return shorter + weight * (abs(better) if as_published else better)


def auroc(scores: Sequence[float], shares: Sequence[float]) -> float:
    """Probability that a positive has the higher score than a negative, equal scores counting half.

    Args:
        scores: of each case.
        shares: how far each is a positive, in [0, 1]: a problem solved in 3 of 4 samples is 0.75 of one.

    Returns:
        the area under the receiver operating characteristic; not a number without positives, or without negatives.
    """
    scores, shares = np.asarray(scores, float), np.asarray(shares, float)
    levels, places = np.unique(scores, return_inverse=True)
    positives = np.bincount(places, shares, len(levels))
    negatives = np.bincount(places, 1 - shares, len(levels))
    pairs = positives.sum() * negatives.sum()
    below = negatives.cumsum() - negatives / 2
    return float((positives * below).sum() / pairs) if pairs else math.nan


def dominates(one: Point, other: Point) -> bool:
    """Whether one point is no worse in both tokens and accuracy, and better in one of them."""
    return one[0] <= other[0] and one[1] >= other[1] and one != other


def pareto_front(points: Sequence[Point]) -> list[int]:
    """The points (their indices) that no other dominates, by rising tokens."""
    front = [i for i, point in enumerate(points) if not any(dominates(other, point) for other in points)]
    return sorted(front, key=lambda i: points[i])


def accuracy_at(points: Sequence[Point], tokens: np.ndarray | float) -> np.ndarray:
    """Accuracy that the points reach with so many tokens: the best of those that cost no more.

    Linear between points, in the logarithm of the tokens; constant behind the last one, because nobody has to spend
    what is left; not a number before the first. A point that brings nothing holds the line flat up to its tokens: a
    line that skipped it would rise where it was measured not to, and a worse point would give a larger area.
    """
    front = np.array(_best_so_far(points))  # (P, 2)
    return np.interp(np.log(tokens), np.log(front[:, 0]), front[:, 1], left=np.nan)


def _best_so_far(points: Sequence[Point]) -> list[Point]:
    """Tokens of all points, each once and rising, with the best accuracy that so many reach."""
    front: dict[float, float] = {}
    best = -math.inf
    for tokens, reached in sorted(points):
        front[tokens] = best = max(best, reached)
    return list(front.items())


def area_under_curve(points: Sequence[Point], low_tokens: float, high_tokens: float) -> float:
    """Mean of `accuracy_at` over an axis of log tokens, from low_tokens to high_tokens; a share in [0, 1].

        integral of A(t) d(log t) / (log high - log low)

    The integral is exact. Runs are to be compared over one range, in which each has its first point at or below
    `low_tokens`: not a number where it has not.
    """
    if high_tokens <= low_tokens:
        return float(accuracy_at(points, low_tokens))
    corners = [tokens for tokens, _ in points if low_tokens < tokens < high_tokens]
    tokens = np.array(sorted({low_tokens, *corners, high_tokens}))
    area = np.trapezoid(accuracy_at(points, tokens), np.log(tokens))
    return float(area / math.log(high_tokens / low_tokens))


def tokens_at(points: Sequence[Point], accuracy: float) -> float | None:
    """Fewest mean tokens at which `accuracy_at` reaches an accuracy; None where it never does."""
    before: Point | None = None
    for tokens, reached in _best_so_far(points):
        if reached >= accuracy:
            if before is None or reached == accuracy:
                return tokens
            part = (accuracy - before[1]) / (reached - before[1])
            return before[0] * (tokens / before[0]) ** part
        before = (tokens, reached)
    return None
