"""The simulated members: two tastes each to turn between, a bias of the gate, and when they come back.

Enters: the law, a count, the time span, a random generator. Leaves: `Members`, tastes at a time, starts of sessions.
Called by `simulator.py` for each slice of sessions.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from model.simulation.law import DAY_MS, Floats, Ints, Law, unit
from model.simulation.titles import draw_mixtures

COUNTRIES = ("US", "BR", "IN", "DE", "JP")
COUNTRY_SHARES = (0.35, 0.2, 0.2, 0.15, 0.1)
# A session ends with 30 quiet minutes.
SHORTEST_GAP_MS = 45 * 60 * 1000
MOST_SESSIONS_PER_DAY = 12.0
PEAK_SPREAD_HOURS = 1.5
BISECTIONS = 32


@dataclass(frozen=True, slots=True)
class Members:
    """All members. M members, D dimensions; `policy_taste_MD` is what the logging policy believes their taste to be."""

    taste_MD: Floats
    other_taste_MD: Floats
    policy_taste_MD: Floats
    turn_rad_per_day_M: Floats
    gate_bias_M: Floats
    sessions_per_day_M: Floats
    peak_hour_M: Floats
    country_M: Ints
    joined_ms_M: Ints

    def __len__(self) -> int:
        return len(self.joined_ms_M)

    def user_id(self, member: int) -> str:
        """The member's id on the wire."""
        return f"sim-m{member:07d}"


def make_members(law: Law, genres_GD: Floats, count: int, span_ms: tuple[int, int], rng: Generator) -> Members:
    """`count` members; a share of them joins within the span, the others are there from its begin."""

    def noise() -> Floats:
        return np.asarray(rng.normal(size=(count, law.dimensions)) / np.sqrt(law.dimensions))

    begin_ms, end_ms = span_ms
    taste_MD = unit(unit(draw_mixtures(count, rng) @ genres_GD) + law.taste_noise * noise())
    other_MD = unit(unit(draw_mixtures(count, rng) @ genres_GD) + law.taste_noise * noise())
    is_late = rng.random(count) < law.late_member_share
    active = law.sessions_per_day * np.exp(law.activity_spread * rng.normal(size=count))
    return Members(
        taste_MD=taste_MD,
        other_taste_MD=other_MD,
        policy_taste_MD=unit(taste_MD + law.policy_taste_noise * noise()),
        turn_rad_per_day_M=law.drift_rad_per_day * np.abs(rng.normal(size=count)),
        gate_bias_M=law.gate_bias + law.gate_spread * rng.normal(size=count),
        sessions_per_day_M=np.minimum(active, MOST_SESSIONS_PER_DAY),
        peak_hour_M=law.peak_hour + PEAK_SPREAD_HOURS * rng.normal(size=count),
        country_M=rng.choice(len(COUNTRIES), size=count, p=COUNTRY_SHARES),
        joined_ms_M=np.where(is_late, rng.integers(begin_ms, end_ms, count), begin_ms),
    )


def tastes(members: Members, who_B: Ints, days: float) -> Floats:
    """Tastes `days` after the begin, (B, D): unit(cos(a) taste + sin(a) other taste), a = days x the member's turn."""
    angle_B1 = (members.turn_rad_per_day_M[who_B] * days)[:, None]
    return unit(np.cos(angle_B1) * members.taste_MD[who_B] + np.sin(angle_B1) * members.other_taste_MD[who_B])


def next_starts(law: Law, members: Members, who_B: Ints, ended_ms_B: Ints, rng: Generator) -> Ints:
    """When these members come again: the shortest gap after `ended_ms`, then a gamma gap with the mean 1 / sessions per
    day, in a time that runs with the daily cycle 1 + swing cos(2 pi (hour - peak) / 24).
    """
    gap_days_B = rng.gamma(law.gap_shape, 1.0, len(who_B)) / law.gap_shape / members.sessions_per_day_M[who_B]
    from_days_B = (ended_ms_B + SHORTEST_GAP_MS) / DAY_MS
    peak_days_B = members.peak_hour_M[who_B] / 24
    goal_B = _operational(law, from_days_B, peak_days_B) + gap_days_B
    low_B, high_B = goal_B - 1.0, goal_B + 1.0
    for _ in range(BISECTIONS):
        middle_B = 0.5 * (low_B + high_B)
        is_early_B = _operational(law, middle_B, peak_days_B) < goal_B
        low_B, high_B = np.where(is_early_B, middle_B, low_B), np.where(is_early_B, high_B, middle_B)
    return np.asarray(np.maximum(high_B * DAY_MS, from_days_B * DAY_MS), np.int64)


def _operational(law: Law, days_B: Floats, peak_days_B: Floats) -> Floats:
    """The integral of the daily cycle: never more than swing / 2 pi from `days`, up to a constant."""
    return days_B + law.daily_swing / (2 * np.pi) * np.sin(2 * np.pi * (days_B - peak_days_B))
