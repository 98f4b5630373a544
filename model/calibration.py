"""Calibration: logits become probabilities by Platt scaling, one slope and offset per task.

Enters: logits with labels and weights. Leaves: (a, b) with probability = sigmoid(a * logit + b), and how far
probabilities are from what happens. Called by training on the middle part of the log, the evaluation and the offline
gate.
"""

import numpy as np
from numpy.typing import NDArray

STEPS = 50
RIDGE = 1e-3
BINS = 15

Floats = NDArray[np.float64]


def fit_platt(logits: Floats, labels: Floats, weights: Floats) -> tuple[float, float]:
    """The weighted maximum-likelihood slope and offset, by Newton's method. Where that slope would turn the order
    round, the offset for a slope of 1; (1, 0) when there is only one class.
    """
    if len(labels) == 0 or labels.min() == labels.max():
        return 1.0, 0.0
    one = np.ones_like(logits)
    slope, offset = _newton(np.stack([logits, one], axis=1), np.zeros_like(logits), labels, weights)
    return (slope, offset) if slope > 0 else (1.0, _newton(one[:, None], logits, labels, weights)[-1])


def _newton(x: Floats, known: Floats, labels: Floats, weights: Floats) -> list[float]:
    """What x is multiplied by in the log-odds `x @ parameters + known`: a slope, if x has two columns, and the offset,
    which is last; a ridge holds them near those that change nothing.
    """
    rate = np.average(labels, weights=weights)
    unchanged = np.array([1.0, 0.0])[-x.shape[1] :]
    parameters = unchanged.copy()
    parameters[-1] = np.log(rate / (1 - rate)) - np.average(x @ unchanged + known, weights=weights)
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ parameters + known, -30, 30)))
        gradient = x.T @ (weights * (labels - p)) - RIDGE * (parameters - unchanged)
        curvature = (x * (weights * p * (1 - p))[:, None]).T @ x + RIDGE * np.eye(len(parameters))
        step = np.linalg.solve(curvature, gradient)
        parameters = parameters + step * min(1.0, 2.0 / max(1e-12, float(np.abs(step).max())))
        if np.abs(step).max() < 1e-8:
            break
    found: list[float] = parameters.tolist()
    return found


def expected_calibration_error(probabilities: Floats, labels: Floats, weights: Floats, bins: int = BINS) -> float:
    """The mean distance between the mean probability and the share of positives, over bins of equal weight by
    probability; 0 when nothing has weight.

    Naeini, Cooper, Hauskrecht: Obtaining Well Calibrated Probabilities Using Bayesian Binning (AAAI 2015), with bins of
    equal mass instead of equal width, because nearly all of a catalogue's probabilities are tiny. What is equally
    probable stays in one bin.
    """
    total = float(weights.sum())
    if total <= 0:
        return 0.0
    _, groups = np.unique(probabilities, return_inverse=True)
    mass = np.bincount(groups, weights)
    middles = (np.cumsum(mass) - mass / 2) / total
    bin_of = np.minimum((bins * middles).astype(np.int64), bins - 1)[groups]
    said = np.bincount(bin_of, weights * probabilities, bins)
    happened = np.bincount(bin_of, weights * labels, bins)
    return float(np.abs(said - happened).sum() / total)
