"""The simulation in real time: its events on the running broker, at a rate, with the times at which they are sent.

Enters: a plan, a producer, a rate. Leaves: titles, events and rankings on Kafka, lines that say how fast. Called by
`nowrank simulate --publish`.

Order and contents are the simulation's; the time between two records is not, since a rate of events says nothing about
how many members it comes from.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from features.catalogue import Item
from infra.clock import monotonic_s, now_ms
from model.simulation.files import SimulationFolder
from model.simulation.records import Record, Shown
from model.simulation.requests import World
from model.simulation.simulator import Plan, simulate
from model.simulation.truth import SessionTruth
from streams.events import Event, Ranking

REPORT_S = 5.0
# Events are sent in bursts this far apart, so that a high rate does not need a sleep for each.
TICK_S = 0.01
MOST_SLEEP_S = 0.5


class Sink(Protocol):
    """What the live simulation needs of `streams.producer.Producer`."""

    def send(self, event: Event | Ranking) -> None:
        """Queue one event."""

    def send_item(self, item: Item) -> None:
        """Queue one title."""

    def flush(self) -> None:
        """Wait until everything queued is acknowledged."""


@dataclass(slots=True)
class Tally:
    """What has been published: plays, clicks and thumbs are the events that the rate is about."""

    events: int = 0
    rankings: int = 0
    titles: int = 0
    took_s: float = 0.0
    is_interrupted: bool = False

    @property
    def events_per_s(self) -> float:
        """The rate so far; 0 before any time has passed."""
        return self.events / self.took_s if self.took_s else 0.0


@dataclass(slots=True)
class Clocks:
    """Where time comes from; tests bring their own."""

    now_ms: Callable[[], int] = now_ms
    monotonic_s: Callable[[], float] = monotonic_s
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class Live:
    """How to publish: `rate` in events per second, for `seconds` or until interrupted."""

    rate: float
    seconds: float | None = None
    out: SimulationFolder | None = None
    say: Callable[[str], None] = print
    clocks: Clocks = field(default_factory=Clocks)


def publish_live(plan: Plan, world: World, sink: Sink, live: Live) -> Tally:
    """Publish until the time is over, the simulation ends, or Ctrl-C; what was queued is acknowledged on return; raises
    `DeliveryFailed`.
    """
    tally, clocks = Tally(), live.clocks
    coming = deque(sorted(world.titles.items, key=lambda item: item.available_from_ms or 0))
    _publish_titles(coming, plan.begin_ms, sink, tally)
    begin_s = clocks.monotonic_s()
    report_s = REPORT_S
    try:
        for simulated_ms, record in simulate(plan, world):
            tally.took_s = clocks.monotonic_s() - begin_s
            while (ahead_s := tally.events / live.rate - tally.took_s) > 0 and not _is_over(live, tally):
                clocks.sleep(min(max(ahead_s, TICK_S), MOST_SLEEP_S))
                tally.took_s = clocks.monotonic_s() - begin_s
            if _is_over(live, tally):
                break
            _publish_titles(coming, simulated_ms, sink, tally, clocks.now_ms())
            _publish(restamped(record, clocks.now_ms()), sink, live.out, tally)
            if tally.took_s >= report_s:
                live.say(_line(tally, live.rate))
                report_s = tally.took_s + REPORT_S
    except KeyboardInterrupt:
        tally.is_interrupted = True
    sink.flush()
    return tally


def restamped(record: Record, at_ms: int) -> Record:
    """The record as if it happened at `at_ms`; the truth of a session keeps the simulated time, that of its latents."""
    if isinstance(record, Shown):
        ranking = msgspec.structs.replace(record.ranking, event_ts_ms=at_ms)
        return Shown(ranking, msgspec.structs.replace(record.truth, event_ts_ms=at_ms))
    if isinstance(record, SessionTruth):
        return record
    return msgspec.structs.replace(record, event_ts_ms=at_ms)


def _is_over(live: Live, tally: Tally) -> bool:
    return live.seconds is not None and tally.took_s >= live.seconds


def _publish(record: Record, sink: Sink, out: SimulationFolder | None, tally: Tally) -> None:
    if isinstance(record, Shown):
        sink.send(record.ranking)
        tally.rankings += 1
    elif not isinstance(record, SessionTruth):
        sink.send(record)
        tally.events += 1
    if out is not None:
        out.write(record)


def _publish_titles(coming: deque[Item], until_ms: int, sink: Sink, tally: Tally, at_ms: int | None = None) -> None:
    """Publish the titles that are available by now; one that came during the run is available from `at_ms`."""
    while coming and (coming[0].available_from_ms or 0) <= until_ms:
        item = coming.popleft()
        sink.send_item(item if at_ms is None else msgspec.structs.replace(item, available_from_ms=at_ms))
        tally.titles += 1


def _line(tally: Tally, rate: float) -> str:
    return (
        f"synthetic: {tally.took_s:6.1f} s  {tally.events:,} events, {tally.events_per_s:,.0f}/s of {rate:,.0f}/s; "
        f"{tally.rankings:,} rankings, {tally.titles:,} titles"
    )
