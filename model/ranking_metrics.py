"""Ranking metrics: how high the one right title stands, and how sure we are of a difference.

Enters: scores, or the rank of each label. Leaves: NDCG@10, HR@10, MRR and bootstrap intervals. Called by the evaluation
and training.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CUT = 10
CONFIDENCE = 0.95

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """The ends of a CONFIDENCE interval."""

    low: float
    high: float


def rank_of(scores_N: NDArray[np.floating], index: int) -> float:
    """The rank, from 0, of one candidate among all; in the middle of those with the same score, so that ties are worth
    what chance would give.
    """
    score = scores_N[index]
    return float(np.count_nonzero(scores_N > score)) + (np.count_nonzero(scores_N == score) - 1) / 2


def ndcg(ranks: Floats) -> Floats:
    """NDCG@10 by label, one right title each: 1 / log2(rank + 2) within the cut, otherwise 0."""
    return np.where(ranks < CUT, 1.0 / np.log2(ranks + 2.0), 0.0)


def hit(ranks: Floats) -> Floats:
    """Whether the right title is within the cut, by label."""
    return (ranks < CUT).astype(np.float64)


def reciprocal_rank(ranks: Floats) -> Floats:
    """1 / (rank + 1) by label, without a cut."""
    return 1.0 / (ranks + 1.0)


def summarise(ranks: Floats) -> dict[str, float]:
    """The means that the result table shows."""
    return {"ndcg10": _mean(ndcg(ranks)), "hr10": _mean(hit(ranks)), "mrr": _mean(reciprocal_rank(ranks))}


def paired_interval(difference: Floats, users: NDArray[np.int64], resamples: int, rng: np.random.Generator) -> Interval:
    """The interval of the mean difference, by a bootstrap that draws users with all their labels (labels of one user
    are not independent).
    """
    _, inverse = np.unique(users, return_inverse=True)
    sums = np.bincount(inverse, weights=difference)
    counts = np.bincount(inverse).astype(np.float64)
    drawn = rng.integers(0, len(sums), (resamples, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))


def auc(scores: Floats, labels: Floats) -> float:
    """The share of (positive, negative) pairs in the right order, ties counted half; 0.5 when one class is missing."""
    positive, negative = scores[labels > 0.5], scores[labels <= 0.5]
    if len(positive) == 0 or len(negative) == 0:
        return 0.5
    ordered = np.sort(negative)
    below, not_above = np.searchsorted(ordered, positive, "left"), np.searchsorted(ordered, positive, "right")
    return float((below + not_above).mean() / 2 / len(negative))


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else 0.0
