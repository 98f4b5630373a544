"""Beyond accuracy: what is shown at all, how evenly, and how much a ranking moves.

Enters: the tops of rankings. Leaves: coverage, Gini, rank-biased overlap. Called by the evaluation.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PERSISTENCE = 0.9

Ints = NDArray[np.int64]


def coverage(tops: Sequence[Ints], titles: int) -> float:
    """The share of all titles that stand in at least one of the tops."""
    return len(np.unique(np.concatenate(tops))) / titles if tops and titles else 0.0


def gini(tops: Sequence[Ints], titles: int) -> float:
    """How unevenly the places of the tops are shared among all titles: 0 when evenly, near 1 when a few get all.

    With counts c_1 <= ... <= c_n: sum_i (2 i - n - 1) c_i / (n sum c).
    """
    if not tops or not titles:
        return 0.0
    shown = np.unique(np.concatenate(tops), return_counts=True)[1]
    counts = np.concatenate([np.zeros(titles - len(shown)), np.sort(shown)])
    places = np.arange(1, titles + 1)
    return float(((2 * places - titles - 1) * counts).sum() / (titles * counts.sum()))


def overlap(one: Sequence[int], other: Sequence[int], persistence: float = PERSISTENCE) -> float:
    """Rank-biased overlap of two tops, cut at the shorter one and scaled so that equal tops have 1.

    Webber, Moffat, Zobel: A Similarity Measure for Indefinite Rankings, 2010: the mean of |A_d and B_d| / d over the
    depths d, weighted by persistence^(d - 1).
    """
    depth = min(len(one), len(other))
    if depth == 0:
        return 0.0
    seen_one: set[int] = set()
    seen_other: set[int] = set()
    total = weights = 0.0
    for place in range(depth):
        seen_one.add(one[place])
        seen_other.add(other[place])
        weight = persistence**place
        total += weight * len(seen_one & seen_other) / (place + 1)
        weights += weight
    return total / weights
