"""What is known beside the events: the truth of each request, session, title and member, as JSON lines.

Enters: latents. Leaves: structs for `files.py`, and for readers. Called by `sessions.py` and `records.py`.
Every one says that it is synthetic by its ids, which begin with `sim-`.
"""

import msgspec
import numpy as np

from model.simulation.law import Floats
from model.simulation.members import COUNTRIES, Members
from model.simulation.titles import Titles

DECIMALS = 6


class RequestTruth(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request and its list; the lists go by position. `utilities` are without noise; `click_probabilities` =
    `examine_probabilities` x `relevances`; `propensities` are the policy's, of each title at its position.
    """

    ranking_id: str
    user_id: str
    session_id: str
    event_ts_ms: int
    session_position: int
    task: str
    gate: float
    shuffled: bool
    items: list[str]
    explored: list[bool]
    propensities: list[float]
    utilities: list[float]
    relevances: list[float]
    examine_probabilities: list[float]
    click_probabilities: list[float]
    examined: list[bool]
    clicked: list[bool]
    played: list[bool]
    query: str | None = None
    meant_query: str | None = None
    target_item_id: str | None = None
    source_item_id: str | None = None


class SessionTruth(msgspec.Struct, frozen=True, kw_only=True):
    """One session: the taste as it was, the mood (None where there was none), and the time at which what drifts was
    evaluated.
    """

    session_id: str
    user_id: str
    begin_ms: int
    drift_ms: int
    taste: list[float]
    mood: list[float] | None
    mood_genre: str | None


class TitleTruth(msgspec.Struct, frozen=True, kw_only=True):
    """One title: its vector and everything that its appeal is made of."""

    item_id: str
    vector: list[float]
    quality: float
    promotion: float
    swing: float
    period_days: float
    phase_rad: float
    duration_ms: int
    available_from_ms: int


class MemberTruth(msgspec.Struct, frozen=True, kw_only=True):
    """One member: between which tastes theirs turns and how fast, the bias of their gate, and their habits."""

    user_id: str
    country: str
    joined_ms: int
    taste: list[float]
    other_taste: list[float]
    policy_taste: list[float]
    turn_rad_per_day: float
    gate_bias: float
    sessions_per_day: float
    peak_hour: float


def rounded(values: Floats) -> list[float]:
    """The values with as many decimals as the truth is written with."""
    return np.round(values, DECIMALS).tolist()  # type: ignore[no-any-return]


def title_truth(titles: Titles, title: int) -> TitleTruth:
    """The truth of one title, to the last bit: an appeal's phase needs it."""
    return TitleTruth(
        item_id=titles.items[title].item_id,
        vector=titles.vectors_TD[title].tolist(),
        quality=float(titles.quality_T[title]),
        promotion=float(titles.promotion_T[title]),
        swing=float(titles.swing_T[title]),
        period_days=float(titles.period_days_T[title]),
        phase_rad=float(titles.phase_rad_T[title]),
        duration_ms=int(titles.duration_ms_T[title]),
        available_from_ms=int(titles.available_ms_T[title]),
    )


def member_truth(members: Members, member: int) -> MemberTruth:
    """The truth of one member."""
    return MemberTruth(
        user_id=members.user_id(member),
        country=COUNTRIES[members.country_M[member]],
        joined_ms=int(members.joined_ms_M[member]),
        taste=members.taste_MD[member].tolist(),
        other_taste=members.other_taste_MD[member].tolist(),
        policy_taste=members.policy_taste_MD[member].tolist(),
        turn_rad_per_day=float(members.turn_rad_per_day_M[member]),
        gate_bias=float(members.gate_bias_M[member]),
        sessions_per_day=float(members.sessions_per_day_M[member]),
        peak_hour=float(members.peak_hour_M[member]),
    )
