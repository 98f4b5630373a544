"""Simulated sessions, many side by side: from their starts to records on the wire with their truth.

Enters: the world, who visits when, a random generator. Leaves: records with their times, and when each session ended.
Called by `simulator.py` for each block of visits.
"""

import numpy as np
from numpy.random import Generator

from model.simulation.law import DAY_MS, GENRES, Ints, unit
from model.simulation.members import tastes
from model.simulation.outcomes import draw_outcome, draw_think_ms
from model.simulation.records import Numbers, Timed, round_records
from model.simulation.requests import NONE, Visits, World, draw_round
from model.simulation.titles import appeals
from model.simulation.truth import SessionTruth, rounded

MOST_REQUESTS = 12
# No request begins later than this in a session.
LONGEST_SESSION_MS = 2 * 3600 * 1000


def begin_visits(world: World, members_B: Ints, begin_ms_B: Ints, drift_ms: int, rng: Generator) -> Visits:
    """The sessions of these members at their begin. A mood is drawn for each and used for a share, so that a run
    without moods has the same members, titles and first visits.
    """
    law, count, titles = world.law, len(members_B), world.titles
    appeal_T = appeals(law, titles, drift_ms)
    genre_B = rng.integers(0, len(GENRES), count)
    noise_BD = rng.normal(size=(count, law.dimensions)) / np.sqrt(law.dimensions)
    guess_BD = world.members.policy_taste_MD[members_B].astype(np.float32)
    policy_BT = np.float32(law.policy_match_weight) * (guess_BD @ titles.small_vectors_DT)
    policy_BT += (appeal_T + titles.promotion_T).astype(np.float32)
    available_B = np.searchsorted(titles.available_ms_T, begin_ms_B, side="right")
    policy_BT[np.arange(len(titles.items)) >= available_B[:, None]] = -np.inf
    return Visits(
        members_B=members_B,
        begin_ms_B=begin_ms_B,
        now_ms_B=begin_ms_B.copy(),
        requests_B=np.minimum(rng.geometric(1 / law.requests_per_session, count), MOST_REQUESTS),
        taste_BD=tastes(world.members, members_B, (drift_ms - world.span_ms[0]) / DAY_MS),
        mood_BD=unit(world.genres_GD[genre_B] + law.mood_noise * noise_BD),
        mood_genre_B=genre_B,
        has_mood_B=rng.random(count) < law.mood_share,
        source_B=np.full(count, NONE, np.int64),
        appeal_T=appeal_T,
        policy_BT=policy_BT,
        open_titles_B=available_B,
    )


def play_visits(world: World, visits: Visits, drift_ms: int, numbers: Numbers, rng: Generator) -> list[Timed]:
    """Every record of these sessions, in no order; afterwards `visits.now_ms_B` says when each ended."""
    session_ids = [f"sim-{world.run}-s{numbers.last + row}" for row in range(len(visits.members_B))]
    records = []
    for row, session_id in enumerate(session_ids):
        truth = _session_truth(world, visits, row, session_id, drift_ms)
        records.append(numbers.timed(truth.begin_ms, truth))
    for position in range(int(visits.requests_B.max(initial=0))):
        goes_on_B = (visits.requests_B > position) & (visits.now_ms_B - visits.begin_ms_B < LONGEST_SESSION_MS)
        goes_on_B &= visits.open_titles_B > world.law.list_length
        rows_N = np.flatnonzero(goes_on_B)
        if not len(rows_N):
            break
        if position:
            visits.now_ms_B[rows_N] += draw_think_ms(len(rows_N), rng)
        drawn = draw_round(world, visits, rows_N, position, rng)
        outcome = draw_outcome(world.law, world.titles, drawn, rng)
        records += round_records(world, visits, drawn, outcome, session_ids, numbers)
    return records


def _session_truth(world: World, visits: Visits, row: int, session_id: str, drift_ms: int) -> SessionTruth:
    has_mood = bool(visits.has_mood_B[row])
    return SessionTruth(
        session_id=session_id,
        user_id=world.members.user_id(int(visits.members_B[row])),
        begin_ms=int(visits.begin_ms_B[row]),
        drift_ms=drift_ms,
        taste=rounded(visits.taste_BD[row]),
        mood=rounded(visits.mood_BD[row]) if has_mood else None,
        mood_genre=GENRES[visits.mood_genre_B[row]] if has_mood else None,
    )
