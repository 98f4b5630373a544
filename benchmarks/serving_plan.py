"""The plan of the serving benchmark: what is asked, how often, under which load.

Enters: the arguments of the run. Leaves: a `Plan`. Called by `serving.py`. Pure.
"""

from dataclasses import dataclass

from streams.events import Engaged
from streams.labels import Label, Log

RATE_PER_S = 500.0
CANDIDATES = (100, 500, 1_000)
AT_ONCE = (1, 8)
ASKED = 500
TITLES = 10_000
QUESTIONS = 64
AGREEMENT_QUESTIONS = 6
LIBRARY = 100_000
# So many of the events before the load, and of its first, are those whose users are asked for.
ASKED_EVENTS = 2_500


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of each measurement."""

    labels: int
    events: int
    load_s: float
    requests: int
    sdk_requests: int
    seconds: float
    rounds: int
    changes: int
    sizes: tuple[int, int]

    def split(self, log: Log) -> tuple[list[Engaged], list[Engaged]]:
        """The events that are folded before anything is asked, and the newest, which are the load meanwhile."""
        events, live = log.events, round(RATE_PER_S * self.load_s)
        return events[:-live][-self.events :], events[-live:]


def labels_of(log: Log, events: list[Engaged]) -> list[Label]:
    """The labels in the time of the events; those of one user and moment may lie across its edges."""
    return [label for label in log.labels if events[0].event_ts_ms <= label.ts_ms <= events[-1].event_ts_ms]


def make_plan(events: int, seconds: float, library: int, quick: bool) -> Plan:
    """The whole run, or one that only shows that everything works."""
    if quick:
        return Plan(10_000, 4_000, 40.0, 20, 4, 0.5, 1, 5, (5_000, 10_000))
    return Plan(
        labels=40_000,
        events=events,
        load_s=70.0 + 50 * seconds,
        requests=round(60 * seconds),
        sdk_requests=round(8 * seconds),
        seconds=seconds,
        rounds=2,
        changes=round(40 * seconds),
        sizes=(library, 2 * library),
    )
