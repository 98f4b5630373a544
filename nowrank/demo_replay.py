"""The demo's events: the whole log through Kafka, and events played live with their freshness.

Enters: a log and the running stack. Leaves: rows in the store, events/s, freshness. Called by `demo.py`.
"""

import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import redis
from prometheus_client.parser import text_string_to_metric_families

from features.engagement import Kind
from features.online_store import connect, read_states
from features.rows import ITEM, USER
from infra.clock import monotonic_s, now_ms
from infra.errors import NowrankError
from infra.settings import Settings
from model.progress import Progress
from streams.events import Click, Engaged, Play
from streams.labels import Log
from streams.producer import BULK_LINGER_MS, Producer, new_event_id

CHUNK = 2_000
LIVE_EVENTS = 2_000
LIVE_EVENTS_PER_S = 100
POLL_S = 0.002
STALL_S = 60.0


@dataclass(frozen=True, slots=True)
class Replayed:
    """What the replay did; `took_s` runs from the first event sent to the last row written."""

    events: int
    took_s: float

    @property
    def events_per_s(self) -> float:
        """Events folded by both stages, a second."""
        return self.events / self.took_s


@dataclass(frozen=True, slots=True)
class Freshness:
    """Event time to readable in the store, in ms, of every event played live."""

    session_ms: list[float]
    target_ms: list[float]


def replay(settings: Settings, worker_urls: Sequence[str], log: Log, progress: Progress) -> Replayed:
    """Publish the catalogue and every event, wait until both stages have folded them, and check the rows against the
    log.
    """
    events = log.events
    progress.step("events -> Kafka -> rows", len(events))
    began_s = monotonic_s()
    folded = 0
    with Producer(settings, linger_ms=BULK_LINGER_MS) as producer:
        producer.send_items(log.items)
        remaining = iter(events)
        while chunk := list(islice(remaining, CHUNK)):
            producer.send_many(chunk)
            folded = _advance(progress, _scrape(worker_urls), folded)
        producer.flush()
    client, expected = connect(settings.redis), count_engagements(events)
    _await_folded(worker_urls, progress, folded, lambda: first_difference(client, settings.feast_project, expected))
    return Replayed(len(events), monotonic_s() - began_s)


def count_engagements(events: Sequence[Engaged]) -> dict[str, tuple[int, int]]:
    """Clicks and plays of every item in the log."""
    clicks = Counter(event.item_id for event in events if isinstance(event, Click))
    plays = Counter(event.item_id for event in events if isinstance(event, Play))
    return {item_id: (clicks[item_id], plays[item_id]) for item_id in sorted(clicks | plays)}


def first_difference(client: redis.Redis, project: str, expected: Mapping[str, tuple[int, int]]) -> str | None:
    """Compare every item row's clicks and plays with the log's; None when all are equal, else the first that
    differs.
    """
    states = read_states(client, project, [(ITEM, item_id) for item_id in expected])
    for (item_id, wanted), state in zip(expected.items(), states, strict=True):
        seen = (state.totals[1], state.totals[2])
        if seen != wanted:
            return f"the row of item {item_id} holds {seen} clicks and plays, the log {wanted}"
    return None


def play_live(settings: Settings, log: Log, progress: Progress) -> Freshness:
    """Play LIVE_EVENTS fresh clicks of the data's own users at LIVE_EVENTS_PER_S; watch each one become readable."""
    progress.step(f"live: {LIVE_EVENTS_PER_S} events/s", LIVE_EVENTS)
    labels = log.labels[-LIVE_EVENTS:]
    client = connect(settings.redis)
    item_ids = list({label.item_id for label in labels})
    states = read_states(client, settings.feast_project, [(ITEM, item_id) for item_id in item_ids])
    clicks = Counter({item_id: state.totals[1] for item_id, state in zip(item_ids, states, strict=True)})
    waiting: dict[int, _Awaited] = {}
    freshness = Freshness([], [])
    with Producer(settings) as producer:
        begin_s = monotonic_s()
        sent = 0
        while sent < len(labels) or waiting:
            if sent < len(labels) and monotonic_s() >= begin_s + sent / LIVE_EVENTS_PER_S:
                label = labels[sent]
                clicks[label.item_id] += 1
                event = Click(
                    event_id=new_event_id(), user_id=label.user_id, item_id=label.item_id, event_ts_ms=now_ms()
                )
                producer.send(event)
                waiting[sent] = _Awaited(event.user_id, event.item_id, event.event_ts_ms, clicks[label.item_id])
                sent += 1
                progress.advance()
            _look(client, settings.feast_project, waiting, freshness)
            time.sleep(POLL_S)
            if monotonic_s() - begin_s > LIVE_EVENTS / LIVE_EVENTS_PER_S + STALL_S:
                raise NowrankError(
                    f"{len(waiting)} of {sent} live events did not become readable within {STALL_S:.0f} s"
                )
    return freshness


@dataclass(slots=True)
class _Awaited:
    user_id: str
    item_id: str
    event_ts_ms: int
    clicks: int
    session_ms: float | None = None
    target_ms: float | None = None


def _look(client: redis.Redis, project: str, waiting: dict[int, _Awaited], freshness: Freshness) -> None:
    """Note which awaited events are readable now: in the user's session, and in the item's count."""
    if not waiting:
        return
    wanted = [pair for awaited in waiting.values() for pair in ((USER, awaited.user_id), (ITEM, awaited.item_id))]
    states = iter(read_states(client, project, wanted))
    seen_ms = now_ms()
    for number, awaited in list(waiting.items()):
        user, item = next(states), next(states)
        if awaited.session_ms is None and any(
            moment.kind == Kind.CLICK
            and moment.event_ts_ms == awaited.event_ts_ms
            and moment.item_id == awaited.item_id
            for moment in user.recent
        ):
            awaited.session_ms = seen_ms - awaited.event_ts_ms
        if awaited.target_ms is None and item.totals[1] >= awaited.clicks:
            awaited.target_ms = seen_ms - awaited.event_ts_ms
        if awaited.session_ms is not None and awaited.target_ms is not None:
            freshness.session_ms.append(awaited.session_ms)
            freshness.target_ms.append(awaited.target_ms)
            del waiting[number]


def percentile(values: Sequence[float], percent: float) -> float:
    """The percentile of measured values, linear between neighbours."""
    return float(np.percentile(np.array(values), percent))


def _advance(progress: Progress, scraped: Counter[str], folded: int) -> int:
    now_folded = int(scraped["nowrank_worker_events_total"])
    progress.advance(now_folded - folded)
    return now_folded


def _await_folded(
    worker_urls: Sequence[str], progress: Progress, folded: int, difference: Callable[[], str | None]
) -> None:
    """Wait until the rows equal the log; raises `NowrankError` when they do not and no row was written for STALL_S."""
    last_moved_s, last_written = monotonic_s(), 0.0
    while (differs := difference()) is not None:
        scraped = _scrape(worker_urls)
        folded = _advance(progress, scraped, folded)
        if scraped["nowrank_worker_dead_letters_total"]:
            raise NowrankError("some events were dead-lettered; `nowrank dead-letters list` says why")
        if scraped["nowrank_worker_rows_written_total"] > last_written:
            last_moved_s, last_written = monotonic_s(), scraped["nowrank_worker_rows_written_total"]
        if monotonic_s() - last_moved_s > STALL_S:
            raise NowrankError(f"{differs}, and no row was written for {STALL_S:.0f} s; see the workers' logs")
        time.sleep(0.2)
    _advance(progress, _scrape(worker_urls), folded)


def _scrape(worker_urls: Sequence[str]) -> Counter[str]:
    """Every metric of the workers, summed over workers and labels."""
    sums: Counter[str] = Counter()
    for url in worker_urls:
        with urllib.request.urlopen(url, timeout=10) as answer:
            for family in text_string_to_metric_families(answer.read().decode()):
                for sample in family.samples:
                    sums[sample.name] += sample.value  # type: ignore[assignment]
    return sums
