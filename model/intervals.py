"""Intervals: how sure we are of a difference between two models.

Enters: differences by label, with the user of each. Leaves: bootstrap intervals and p-values, and Holm's correction of
many of them. Called by the evaluation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
DRAWN_AT_ONCE = 4_000_000

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """The ends of a CONFIDENCE interval, and how probable so large a mean is when there is no difference."""

    low: float
    high: float
    p: float


def paired_interval(difference: Floats, users: NDArray[np.int64], resamples: int, rng: np.random.Generator) -> Interval:
    """The interval of the mean difference, by a bootstrap that draws users with all their labels (labels of one user
    are not independent); p is two-sided, twice the share of resamples on the other side of zero, each side counted with
    one more so that it is never 0.
    """
    means = bootstrap_means(difference, users, resamples, rng)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    least = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return Interval(float(low), float(high), min(1.0, 2 * (1 + least) / (1 + resamples)))


def bootstrap_means(
    difference: Floats, users: NDArray[np.int64], resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """The mean over labels of each resample of users."""
    _, inverse = np.unique(users, return_inverse=True)
    sums = np.bincount(inverse, weights=difference)
    counts = np.bincount(inverse).astype(np.float64)
    at_once = max(1, DRAWN_AT_ONCE // len(sums))
    means = []
    for begin in range(0, resamples, at_once):
        drawn = rng.integers(0, len(sums), (min(at_once, resamples - begin), len(sums)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return np.concatenate(means)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down: the smallest p times their number, the next times one less, and so on; never smaller than the
    one before, at most 1.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for step, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - step) * p_values[place]))
        adjusted[place] = largest
    return adjusted
