"""The figures of the benchmark of the truth.

Enters: gates, probabilities and orders with the truth of each. Leaves: correlations, calibration errors and paired
differences, with intervals that are drawn by member. Called by `truth.py`.

legend: B requests, K titles of a list, R resamples
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gate_ceiling import ranks
from benchmarks.known_world import KnownWorld
from features.engagement import TASK_NAMES
from model.calibration import expected_calibration_error
from model.fit import calibrate, logits_of
from model.intervals import CONFIDENCE, paired_interval
from model.served_fit import ServedFit
from model.simulation.law import Bools, Floats, sigmoid
from model.simulation.truth import RequestTruth

RESAMPLES = 1000
METRICS = ("tau", "ndcg")
# By task, of N shown titles: the probability that was said, whether it was engaged, the true click probability, (3, N).
Probabilities = dict[str, Floats]


@dataclass(frozen=True, slots=True)
class Compared:
    """What each side's network got for the same lists, by metric (B,), and whose lists they are."""

    gains: dict[str, dict[str, Floats]]
    users: NDArray[np.str_]

    def take(self, chosen: Bools) -> "Compared":
        """Some of the lists."""
        gains = {side: {metric: own[chosen] for metric, own in metrics.items()} for side, metrics in self.gains.items()}
        return Compared(gains, self.users[chosen])


def compared(parts: Sequence[Compared], rng: np.random.Generator) -> dict[str, Any]:
    """The means of each side over all parts together, and each side's gain over each later one with its interval;
    neither where there are no lists.
    """
    users = np.unique(np.concatenate([part.users for part in parts]), return_inverse=True)[1]
    figures: dict[str, Any] = {"lists": len(users), "sides": {}, "gains": {}}
    if not len(users):
        return figures
    sides = list(parts[0].gains)
    joined = {
        side: {metric: np.concatenate([part.gains[side][metric] for part in parts]) for metric in METRICS}
        for side in sides
    }
    figures["sides"] = {side: {metric: float(joined[side][metric].mean()) for metric in METRICS} for side in sides}
    for first, second in combinations(sides, 2):
        gain: dict[str, Any] = {}
        for metric in METRICS:
            difference = joined[first][metric] - joined[second][metric]
            low, high, _ = paired_interval(difference, users, RESAMPLES, rng)
            gain[metric] = {"mean": float(difference.mean()), "low": low, "high": high}
        figures["gains"][f"{first} - {second}"] = gain
    return figures


def correlations(one: Floats, other: Floats, users: NDArray[np.str_], rng: np.random.Generator) -> Floats:
    """(1 + R,) the rank correlation, then that of each resample of members; ranks are taken once. 0 where one of the
    two is the same for all.
    """
    x, y = (ranks(values) - (len(values) + 1) / 2 for values in (one, other))
    member = np.unique(users, return_inverse=True)[1]
    sums = np.stack([np.bincount(member, weights=w) for w in (np.ones_like(x), x, y, x * x, y * y, x * y)])
    members = sums.shape[1]
    weights_RM = rng.multinomial(members, np.full(members, 1 / members), RESAMPLES).astype(np.float64)
    count, sx, sy, sxx, syy, sxy = sums @ np.concatenate([np.ones((1, members)), weights_RM]).T
    spread = (sxx - sx * sx / count) * (syy - sy * sy / count)
    return np.where(spread > 0, (sxy - sx * sy / count) / np.sqrt(np.maximum(spread, 1e-12)), 0.0)


def with_interval(values: Floats) -> dict[str, float]:
    """A figure and its interval, from what `correlations` gives or from a mean of such."""
    low, high = np.quantile(values[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {"rho": float(values[0]), "low": float(low), "high": float(high)}


def probabilities(fit: ServedFit, world: KnownWorld, requests: Sequence[RequestTruth]) -> Probabilities:
    """Of every tested title, calibrated on the middle part as an artifact is."""
    middle, test = world.middle.examples, world.test.examples
    scales = calibrate(logits_of(fit.model, world.catalogue, middle), middle)
    logits_BK = logits_of(fit.model, world.catalogue, test)
    true_BK = np.zeros(logits_BK.shape)
    for row, request in enumerate(requests):
        true_BK[row, : len(request.items)] = request.click_probabilities
    found = {}
    for task, (name, (slope, offset)) in enumerate(zip(TASK_NAMES, scales, strict=True)):
        shown = (test.requests["task"] == task)[:, None] & (test.slots_BK > 0)
        said = sigmoid(slope * logits_BK[shown] + offset)
        found[name] = np.stack([said, test.labels_BK[shown].astype(np.float64), true_BK[shown]])
    return found


def calibration(parts: Sequence[Probabilities]) -> dict[str, Any]:
    """By task, over all parts together: the expected calibration error against what happened, where a part of it is
    chance, and against the true click probabilities, where none is.
    """
    figures = {}
    for task in parts[0]:
        said, happened, true = np.concatenate([part[task] for part in parts], axis=1)
        one = np.ones(len(said))
        figures[task] = {
            "titles": len(said),
            "engaged": float(happened.mean()) if len(said) else 0.0,
            "ece": expected_calibration_error(said, happened, one),
            "ece_true": expected_calibration_error(said, true, one),
        }
    return figures
