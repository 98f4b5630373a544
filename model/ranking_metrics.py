"""Ranking metrics: how high the one right title stands.

Enters: scores, or the rank of each label. Leaves: NDCG@10, HR@10, MRR and AUC. Called by the evaluation and training.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

CUT = 10

Floats = NDArray[np.float64]


def rank_of(scores_N: NDArray[np.floating], index: int) -> float:
    """The rank, from 0, of one candidate among all; in the middle of those with the same score, so that ties are worth
    what chance would give. A score that is not finite stands below all others; the candidate's own gets the last rank.
    """
    return float(ranks_of(scores_N[None], index)[0])


def ranks_of(scores_CN: NDArray[np.floating], index: int) -> Floats:
    """`rank_of` for each of C rows of scores."""
    own_C1 = scores_CN[:, index : index + 1]
    higher_C = ((scores_CN > own_C1) & (scores_CN < np.inf)).sum(axis=1)
    same_C = (scores_CN == own_C1).sum(axis=1)
    ranks_C = np.where(np.isfinite(own_C1[:, 0]), higher_C + (same_C - 1) / 2, scores_CN.shape[1] - 1)
    return np.asarray(ranks_C, np.float64)


def ndcg(ranks: Floats) -> Floats:
    """NDCG@10 by label, one right title each: 1 / log2(rank + 2) within the cut, otherwise 0."""
    return np.where(ranks < CUT, 1.0 / np.log2(ranks + 2.0), 0.0)


def hit(ranks: Floats) -> Floats:
    """Whether the right title is within the cut, by label."""
    return (ranks < CUT).astype(np.float64)


def reciprocal_rank(ranks: Floats) -> Floats:
    """1 / (rank + 1) by label, without a cut."""
    return 1.0 / (ranks + 1.0)


# What the result table shows, by label.
METRICS: dict[str, Callable[[Floats], Floats]] = {"ndcg10": ndcg, "hr10": hit, "mrr": reciprocal_rank}


def summarise(ranks: Floats) -> dict[str, float]:
    """The mean of each of METRICS."""
    return {name: _mean(of(ranks)) for name, of in METRICS.items()}


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
