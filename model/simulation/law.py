"""The law of the simulated world: every parameter with its default, and the formulas that turn utilities into clicks.

Enters: parameters. Leaves: `Law`, and probabilities from utilities. Called by every file of this folder and by readers
of the truth; `docs/decisions/0013-a-simulator-with-a-known-truth.md` says what each formula is for.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

DAY_MS = 24 * 3600 * 1000
# What drifts (tastes, appeals) is evaluated at the last multiple of this, so that it is constant within a session.
SLICE_MS = 30 * 60 * 1000
PRE_QUERY, SEARCH, MORE_LIKE_THIS = 0, 1, 2
TASK_NAMES = ("pre_query", "search", "more_like_this")
GENRES = (
    "Action", "Animation", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Horror", "Music", "Romance", "Science", "Travel",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Law:
    """The parameters. What ends in `_share` is a probability; what ends in `_weight` multiplies a similarity."""

    # The latent space: unit vectors; a title, a taste or a mood is a mixture of genres plus this much noise.
    dimensions: int = 16
    title_noise: float = 0.5
    taste_noise: float = 0.5
    mood_noise: float = 0.3
    # Members and their visits.
    late_member_share: float = 0.2
    sessions_per_day: float = 0.7
    activity_spread: float = 0.8
    gap_shape: float = 0.7
    daily_swing: float = 0.8
    peak_hour: float = 20.0
    requests_per_session: float = 4.0
    drift_rad_per_day: float = 0.01
    # Moods and the gate: its share in what a member wants, where a session has one.
    mood_share: float = 0.7
    gate_bias: float = -0.2
    gate_spread: float = 1.0
    gate_growth: float = 0.3
    # Titles and their appeal.
    late_title_share: float = 0.3
    quality_spread: float = 0.6
    swing_spread: float = 0.4
    launch_boost: float = 1.0
    launch_days: float = 5.0
    # Utility.
    match_weight: float = 5.0
    source_weight: float = 3.0
    target_weight: float = 4.0
    closeness_weight: float = 1.0
    pre_query_threshold: float = 3.0
    search_threshold: float = 4.0
    more_like_this_threshold: float = 4.5
    # What is asked.
    search_share: float = 0.25
    source_share: float = 0.5
    typo_share: float = 0.15
    whole_title_share: float = 0.1
    # The lists that are shown.
    list_length: int = 12
    explored: int = 3
    shuffled_share: float = 0.15
    policy_match_weight: float = 2.0
    policy_taste_noise: float = 0.7
    policy_noise: float = 0.7
    promotion_spread: float = 0.5
    # What members do with them.
    pre_query_eta: float = 0.8
    search_eta: float = 1.2
    more_like_this_eta: float = 0.7
    play_share: float = 0.75
    watch_noise: float = 0.8
    thumb_share: float = 0.25

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least, most = _bounds(field.name)
            if not least <= value <= most:
                raise _outside(field.name, value, least, most)
        if self.explored >= self.list_length:
            raise BadInput(
                "invalid_field",
                f"explored = {self.explored}: it must be less than list_length = {self.list_length}",
                "explored",
            )

    @property
    def thresholds(self) -> Floats:
        """The utility at which half of the examined titles are clicked, by task."""
        return np.array([self.pre_query_threshold, self.search_threshold, self.more_like_this_threshold])

    @property
    def etas(self) -> Floats:
        """How steeply examination falls with the position, by task."""
        return np.array([self.pre_query_eta, self.search_eta, self.more_like_this_eta])


def law_with(pairs: Iterable[str]) -> Law:
    """The law with some parameters set, each pair written as NAME=VALUE; raises `BadInput`."""
    types: dict[str, type[int] | type[float]] = {
        field.name: int if isinstance(field.default, int) else float for field in dataclasses.fields(Law)
    }
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or name not in types:
            raise BadInput("invalid_field", f"{pair}: write it as NAME=VALUE; the names are {', '.join(types)}", name)
        try:
            values[name] = types[name](text)
        except ValueError:
            kind = "whole number" if types[name] is int else "number"
            raise BadInput("invalid_field", f"{name} = {text!r}: it must be a {kind}", name) from None
    return Law(**values)


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + e^-x), without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def gates(law: Law, bias_N: Floats, position: int | Ints, has_mood_N: Bools) -> Floats:
    """The true gate: sigmoid(the member's bias + growth x earlier requests of the session); 0 without a mood."""
    return np.where(has_mood_N, sigmoid(bias_N + law.gate_growth * position), 0.0)


def examine_probabilities(law: Law, task_N: Ints, length: int) -> Floats:
    """P(a position is examined) = position^-eta of the task, (N, length); positions count from 1."""
    return np.asarray(np.arange(1, length + 1) ** -law.etas[task_N][:, None])


def relevances(law: Law, utility_NK: Floats, task_N: Ints) -> Floats:
    """P(click | examined) = P(utility + standard logistic noise > threshold of the task)."""
    return sigmoid(utility_NK - law.thresholds[task_N][:, None])


def unit(vectors: Floats) -> Floats:
    """The vectors, each of length 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def _bounds(name: str) -> tuple[float, float]:
    if name in ("gate_bias", "gate_growth") or name.endswith("threshold"):
        return -100.0, 100.0
    if name.endswith("_share"):
        return 0.0, 1.0
    least = {"dimensions": len(GENRES), "list_length": 2, "requests_per_session": 1.0, "gap_shape": 0.1}
    most = {"dimensions": 256, "list_length": 50, "daily_swing": 0.99, "peak_hour": 24.0, "sessions_per_day": 8.0}
    least |= {"sessions_per_day": 0.001, "launch_days": 0.01}
    return least.get(name, 0.0), most.get(name, 100.0)


def _outside(name: str, value: float, least: float, most: float) -> BadInput:
    return BadInput("invalid_field", f"{name} = {value}: it must be from {least:g} to {most:g}", name)
