"""From arrays to the wire: a round of simulated requests as rankings, clicks, plays and thumbs, each with its time.

Enters: the world, the sessions' state, a round and its outcome. Leaves: `Timed` records; moves the sessions' time on.
Called by `sessions.py` for each round.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from model.simulation.law import TASK_NAMES
from model.simulation.members import COUNTRIES
from model.simulation.outcomes import THUMBS, Outcome
from model.simulation.requests import NONE, Round, Visits, World
from model.simulation.truth import DECIMALS, RequestTruth, SessionTruth
from streams.events import Click, Engaged, Play, Ranking, ServedItem, Thumb

MODEL = "synthetic"
SHUFFLED, ORDERED = "shuffled", "default"
THUMB_AFTER_MS = 1_500


class Shown(NamedTuple):
    """A list as the system logs it, and what is true about it."""

    ranking: Ranking
    truth: RequestTruth


Record = Shown | Engaged | SessionTruth
# Time, a number that breaks ties, the record.
Timed = tuple[int, int, Record]


@dataclass(slots=True)
class Numbers:
    """The one counter of records: it breaks ties of time and makes ids that only this run has."""

    run: str
    last: int = 0

    def timed(self, ts_ms: int, record: Record) -> Timed:
        """The record with its time and the next number."""
        self.last += 1
        return ts_ms, self.last, record

    def event_id(self) -> str:
        """The id of the event that is numbered next."""
        return f"sim-{self.run}-e{self.last + 1:09d}"


def round_records(
    world: World, visits: Visits, drawn: Round, outcome: Outcome, session_ids: list[str], numbers: Numbers
) -> list[Timed]:
    """The list of each request, then its engagements in the order of their positions. `session_ids` are those of all
    visits.
    """
    columns = _truth_columns(drawn, outcome)
    titles_NK = drawn.lists.titles_NK.tolist()
    records: list[Timed] = []
    for at, row in enumerate(drawn.rows_N.tolist()):
        context = _context(world, visits, drawn, at, f"sim-{world.run}-r{numbers.last}", session_ids[row])
        country = COUNTRIES[world.members.country_M[visits.members_B[row]]]
        now_ms = int(visits.now_ms_B[row])
        query, target = drawn.queries.get(at), int(drawn.target_N[at])
        truth = RequestTruth(
            event_ts_ms=now_ms,
            session_position=drawn.position,
            items=[world.titles.items[title].item_id for title in titles_NK[at]],
            meant_query=None if query is None else query.meant,
            target_item_id=None if target == NONE else world.titles.items[target].item_id,
            **context,
            **{name: column[at] for name, column in columns.items()},
        )
        ranking = _ranking(truth, context, country)
        records.append(numbers.timed(now_ms, Shown(ranking, truth)))
        for place in np.flatnonzero(drawn.clicked_NK[at]).tolist():
            title = titles_NK[at][place]
            now_ms += int(outcome.think_ms_NK[at, place])
            common = {**context, "country": country, "item_id": truth.items[place], "position": place + 1}
            duration_ms = int(world.titles.duration_ms_T[title])
            engaged = _engaged(outcome, (at, place), duration_ms, now_ms, common, numbers)
            records += engaged
            now_ms = engaged[-1][0]
            visits.close(row, title)
        visits.now_ms_B[row] = now_ms
    return records


def _truth_columns(drawn: Round, outcome: Outcome) -> dict[str, list[Any]]:
    """What the truth says of each request, by field: plain lists."""
    numbers = {
        "gate": drawn.gate_N,
        "propensities": drawn.lists.propensity_NK,
        "utilities": drawn.utility_NK,
        "relevances": drawn.relevance_NK,
        "examine_probabilities": drawn.examine_NK,
        "click_probabilities": drawn.examine_NK * drawn.relevance_NK,
    }
    flags = {
        "shuffled": drawn.lists.shuffled_N,
        "explored": drawn.lists.explored_NK,
        "examined": drawn.examined_NK,
        "clicked": drawn.clicked_NK,
        "played": outcome.played_NK,
    }
    rounded = {name: np.round(values, DECIMALS).tolist() for name, values in numbers.items()}
    return rounded | {name: values.tolist() for name, values in flags.items()}


def _context(world: World, visits: Visits, drawn: Round, at: int, ranking_id: str, session_id: str) -> dict[str, Any]:
    """What a ranking, its events and its truth have in common."""
    query, source = drawn.queries.get(at), int(drawn.source_N[at])
    return {
        "ranking_id": ranking_id,
        "user_id": world.members.user_id(int(visits.members_B[drawn.rows_N[at]])),
        "session_id": session_id,
        "task": TASK_NAMES[drawn.task_N[at]],
        "query": None if query is None else query.typed,
        "source_item_id": None if source == NONE else world.titles.items[source].item_id,
    }


def _ranking(truth: RequestTruth, context: dict[str, Any], country: str) -> Ranking:
    """The list as the system logs it; its scores say the order alone."""
    length = len(truth.items)
    return Ranking(
        event_ts_ms=truth.event_ts_ms,
        country=country,
        model=MODEL,
        variant=SHUFFLED if truth.shuffled else ORDERED,
        items=[
            ServedItem(item_id=item_id, score=float(length - rank), propensity=propensity)
            for rank, (item_id, propensity) in enumerate(zip(truth.items, truth.propensities, strict=True))
        ],
        **context,
    )


def _engaged(
    outcome: Outcome, at: tuple[int, int], duration_ms: int, now_ms: int, common: dict[str, Any], numbers: Numbers
) -> list[Timed]:
    """The click, and the play and the thumb that follow it, of the title at `at` (request, place) of the outcome; a
    play is reported when it ends.
    """
    click = Click(event_id=numbers.event_id(), event_ts_ms=now_ms, **common)
    records = [numbers.timed(now_ms, click)]
    if outcome.played_NK[at]:
        watched_ms = int(outcome.watched_ms_NK[at])
        now_ms += watched_ms + 1
        play = Play(
            event_id=numbers.event_id(),
            event_ts_ms=now_ms,
            watched_ms=watched_ms,
            duration_ms=duration_ms,
            **common,
        )
        records.append(numbers.timed(now_ms, play))
    value = THUMBS[outcome.thumb_NK[at]]
    if value != "none":
        now_ms += THUMB_AFTER_MS
        thumb = Thumb(event_id=numbers.event_id(), event_ts_ms=now_ms, value=value, **common)
        records.append(numbers.timed(now_ms, thumb))
    return records
