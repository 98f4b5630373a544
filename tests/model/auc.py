"""The area under the ROC curve, by which tests see whether a network learned anything.

Enters: scores and labels. Leaves: a number from 0 to 1. Called by this folder's tests.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def auc(scores: Floats, labels: Floats) -> float:
    """The share of (positive, negative) pairs in the right order, ties counted half; 0.5 when one class is missing."""
    positive, negative = scores[labels > 0.5], scores[labels <= 0.5]
    if len(positive) == 0 or len(negative) == 0:
        return 0.5
    ordered = np.sort(negative)
    below, not_above = np.searchsorted(ordered, positive, "left"), np.searchsorted(ordered, positive, "right")
    return float((below + not_above).mean() / 2 / len(negative))
