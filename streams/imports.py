"""Imports: a public log or anyone's own file, checked as a whole and then published.

Enters: a `Log`, or a file's path, and a producer. Leaves: records on Kafka and an `ImportSummary` that accounts for
every row. Called by `nowrank import` and the demo.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from features.catalogue import Item
from infra.clock import monotonic_s
from infra.errors import BrokerUnavailable, DeliveryFailed
from streams.events import Engaged
from streams.labels import Log
from streams.producer import Producer
from streams.progress import Advance, ShowProgress
from streams.sources.shift import shift_ms
from streams.sources.table import Rejection, Seen, TableOptions, read_events, read_items

CHUNK = 2_000


class ImportSummary(msgspec.Struct, kw_only=True):
    """What became of every row. `rows` = the events and titles that are good + the rejected rows; `cause` says why some
    were not acknowledged.
    """

    source: str
    rows: int = 0
    events: dict[str, int] = {}
    items: int = 0
    published: int = 0
    rejected: dict[str, int] = {}
    rejections: list[Rejection] = []
    not_acknowledged: int = 0
    cause: str = ""
    ignored_columns: list[str] = []
    float_ids: list[str] = []
    made_event_ids: int = 0
    oldest_ts_ms: int | None = None
    newest_ts_ms: int | None = None
    shift_ms: int = 0
    took_s: float = 0.0
    derived: bool = False

    @property
    def complete(self) -> bool:
        """Whether every row was good and everything published was acknowledged."""
        return not self.rejections and not self.not_acknowledged


def publish_events(producer: Producer, events: Iterable[Engaged], advance: Advance = lambda _count: None) -> int:
    """Publish events in order, wait for their acknowledgement and return how many there were; raises
    `DeliveryFailed`.
    """
    return _publish(producer.send_many, producer, events, advance)


def publish_items(producer: Producer, items: Iterable[Item], advance: Advance = lambda _count: None) -> int:
    """Publish titles, wait for their acknowledgement and return how many there were; raises `DeliveryFailed`."""
    return _publish(producer.send_items, producer, items, advance)


def import_log(
    log: Log, source: str, producer: Producer | None, show: ShowProgress, only_items: bool = False
) -> ImportSummary:
    """Publish a derived log: its catalogue, then, unless `only_items`, its events; without a producer nothing is
    published.
    """
    events = [] if only_items else log.events
    summary = ImportSummary(source=source, items=len(log.items), derived=True, shift_ms=log.shift_ms)
    summary.rows = len(log.items) if only_items else len(log.labels) + len(log.items)
    summary.events = dict(Counter(event_type(event) for event in events))
    if events:
        summary.oldest_ts_ms, summary.newest_ts_ms = events[0].event_ts_ms, events[-1].event_ts_ms
    began_s = monotonic_s()
    if producer is not None:
        with show("titles", len(log.items)) as advance:
            _count(summary, publish_items, producer, log.items, advance, len(log.items))
    if producer is not None and events:
        with show("events", len(events)) as advance:
            _count(summary, publish_events, producer, events, advance, len(events))
    summary.took_s = round(monotonic_s() - began_s, 3)
    return summary


def import_events(
    path: Path,
    options: TableOptions,
    now_ms: int,
    producer: Producer | None,
    show: ShowProgress,
    keep_time: bool = False,
) -> ImportSummary:
    """Check every row of a file, then publish the good ones; without a producer it is only checked."""
    began_s = monotonic_s()
    summary, seen = ImportSummary(source=str(path)), Seen()
    kinds: Counter[str] = Counter()
    for result in read_events(path, options, now_ms, seen):
        if isinstance(result, Rejection):
            summary.rejections.append(result)
            continue
        kinds[event_type(result)] += 1
    summary.events = dict(kinds)
    if seen.oldest_ms is not None and seen.newest_ms is not None:
        summary.shift_ms = 0 if keep_time else shift_ms(seen.newest_ms, now_ms)
        summary.oldest_ts_ms = seen.oldest_ms + summary.shift_ms
        summary.newest_ts_ms = seen.newest_ms + summary.shift_ms
    _account(summary, seen)
    if producer is not None:
        good = (row for row in read_events(path, options, now_ms, Seen()) if not isinstance(row, Rejection))
        total = kinds.total()
        with show("events", total) as advance:
            _count(summary, publish_events, producer, moved(good, summary.shift_ms), advance, total)
    summary.took_s = round(monotonic_s() - began_s, 3)
    return summary


def import_items(path: Path, options: TableOptions, producer: Producer | None, show: ShowProgress) -> ImportSummary:
    """Check every row of a file of titles, then publish the good ones; without a producer it is only checked."""
    began_s = monotonic_s()
    summary, seen = ImportSummary(source=str(path)), Seen()
    items: list[Item] = []
    for result in read_items(path, options, seen):
        if isinstance(result, Rejection):
            summary.rejections.append(result)
        else:
            items.append(result)
    summary.items = len(items)
    _account(summary, seen)
    if producer is not None:
        with show("titles", len(items)) as advance:
            _count(summary, publish_items, producer, items, advance, len(items))
    summary.took_s = round(monotonic_s() - began_s, 3)
    return summary


def moved(events: Iterable[Engaged], by_ms: int) -> Iterator[Engaged]:
    """The events, each `by_ms` later."""
    for event in events:
        yield msgspec.structs.replace(event, event_ts_ms=event.event_ts_ms + by_ms) if by_ms else event


def event_type(event: Engaged) -> str:
    """The wire name of an event's type."""
    return str(event.__struct_config__.tag)


def _account(summary: ImportSummary, seen: Seen) -> None:
    summary.rows = seen.rows
    summary.made_event_ids = seen.made_ids
    summary.ignored_columns = sorted(seen.ignored_columns)
    summary.float_ids = sorted(seen.float_ids)
    summary.rejected = dict(Counter(rejection.reason for rejection in summary.rejections))


def _publish(send: Any, producer: Producer, things: Iterable[Any], advance: Advance) -> int:
    remaining, count = iter(things), 0
    while chunk := list(islice(remaining, CHUNK)):
        count += send(chunk)
        advance(len(chunk))
    producer.flush()
    return count


def _count(summary: ImportSummary, publish: Any, producer: Producer, things: Any, show: Advance, total: int) -> None:
    """Publish, and account for what is not acknowledged as well as for what could not be sent after that."""
    sent = 0

    def advance(count: int) -> None:
        nonlocal sent
        sent += count
        show(count)

    try:
        publish(producer, things, advance)
        acknowledged = sent
    except DeliveryFailed as error:
        acknowledged, summary.cause = max(0, sent - len(error.failures)), str(error)
    except BrokerUnavailable as error:
        acknowledged, summary.cause = sent - _count_lost(producer), str(error)
    summary.published += acknowledged
    summary.not_acknowledged += total - acknowledged


def _count_lost(producer: Producer) -> int:
    """How many of those sent are not acknowledged in the end."""
    try:
        producer.flush()
    except DeliveryFailed as error:
        return len(error.failures)
    return 0
