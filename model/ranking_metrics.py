"""Ranking metrics: how high the one right title stands.

Enters: scores, or the rank of each label. Leaves: NDCG@10, HR@10 and MRR. Called by the evaluation and training.

Titles with the same score are in no order, so a rank is a pair: the first and the last that the title may have. A
metric is its mean over the ranks from the one to the other, which is what chance would give.

legend: X labels, C rows, N candidates, P ranks
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

CUT = 10

Floats = NDArray[np.float64]
Rank = tuple[float, float]


def ranks_of(scores_CN: NDArray[np.floating], index: int) -> Floats:
    """The first and the last rank, from 0, that one candidate may have by each row of scores, (C, 2): they differ among
    equal scores. A score that is not finite stands below all others; the candidate's own gets the last rank.
    """
    own_C1 = scores_CN[:, index : index + 1]
    higher_C = ((scores_CN > own_C1) & (scores_CN < np.inf)).sum(axis=1)
    same_C = (scores_CN == own_C1).sum(axis=1)
    ranks_C2 = np.stack([higher_C, higher_C + same_C - 1], axis=1)
    return np.where(np.isfinite(own_C1), ranks_C2, scores_CN.shape[1] - 1).astype(np.float64)


def rank_of(scores_N: NDArray[np.floating], index: int) -> Rank:
    """`ranks_of` for one row."""
    first, last = ranks_of(scores_N[None], index)[0]
    return float(first), float(last)


def middle(rank: Rank) -> float:
    """The rank that chance gives on average."""
    return sum(rank) / 2


def ndcg(ranks_X2: Floats) -> Floats:
    """NDCG@10 by label, one right title each: 1 / log2(rank + 2) within the cut, otherwise 0."""
    return _mean_worth(ranks_X2, 1.0 / np.log2(np.arange(CUT) + 2.0))


def hit(ranks_X2: Floats) -> Floats:
    """Whether the right title is within the cut, by label; with equal scores, how probable that is."""
    return _mean_worth(ranks_X2, np.ones(CUT))


def reciprocal_rank(ranks_X2: Floats) -> Floats:
    """1 / (rank + 1) by label, without a cut."""
    return _mean_worth(ranks_X2, 1.0 / np.arange(1.0, ranks_X2.max(initial=0.0) + 2.0))


def _mean_worth(ranks_X2: Floats, worth_P: Floats) -> Floats:
    """The mean worth of the ranks from the first to the last, by label; a rank beyond `worth_P` is worth nothing."""
    first_X, last_X = np.moveaxis(ranks_X2.astype(np.int64), -1, 0)
    sums = np.concatenate([[0.0], np.cumsum(worth_P)])
    ends_X, begins_X = np.minimum(last_X + 1, len(worth_P)), np.minimum(first_X, len(worth_P))
    return np.asarray((sums[ends_X] - sums[begins_X]) / (last_X + 1 - first_X), np.float64)


# What the result table shows, by label.
METRICS: dict[str, Callable[[Floats], Floats]] = {"ndcg10": ndcg, "hr10": hit, "mrr": reciprocal_rank}


def summarise(ranks_X2: Floats) -> dict[str, float]:
    """The mean of each of METRICS."""
    return {name: _mean(of(ranks_X2)) for name, of in METRICS.items()}


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else 0.0
