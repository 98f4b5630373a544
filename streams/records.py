"""Records: what an event or a title is on its topic, checked as every reader will check it.

Enters: wire events, catalogue items. Leaves: `NewRecord`s, or `InvalidEvent`. Called by the producer client.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from features.catalogue import Item
from infra.errors import InvalidEvent
from streams import topics
from streams.catalogue import decode_item, encode_item
from streams.events import Event, Ranking, decode_record, encode_event


class NewRecord(NamedTuple):
    """What goes on a topic."""

    topic: str
    key: bytes | None
    value: bytes | None
    timestamp_ms: int | None = None


def event_record(event: Event | Ranking) -> NewRecord:
    """The record of an event, keyed by its user; raises `InvalidEvent`, since building a struct checks nothing."""
    value = _encoded(event, encode_event)
    decode_record(event.topic, value)
    return NewRecord(event.topic, event.user_id.encode(), value)


def item_record(item: Item) -> NewRecord:
    """The record of a title, keyed by its id; raises `InvalidEvent`."""
    value = _encoded(item, encode_item)
    decode_item(value)
    return NewRecord(topics.ITEMS, item.item_id.encode(), value)


def _encoded(thing: Any, encode: Callable[[Any], bytes]) -> bytes:
    try:
        return encode(thing)
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise InvalidEvent("invalid_field", f"it cannot be written as JSON: {error}") from error


def checked_records(make_record: Callable[[Any], NewRecord], things: Iterable[Any]) -> list[NewRecord]:
    """The record of each thing; an invalid one raises `InvalidEvent` with its position."""
    records = []
    for position, thing in enumerate(things):
        try:
            records.append(make_record(thing))
        except InvalidEvent as error:
            raise InvalidEvent(error.reason, f"number {position} of the batch: {error.message}", error.field) from error
    return records
