"""Wire events: the JSON that producers publish, and how it becomes an engagement.

Enters: bytes from a topic or an HTTP body. Leaves: `Play`, `Click`, `Thumb`, `Ranking`, or `InvalidEvent` with a reason
code; from those, `Engagement`. Called by the producer client, the scorer's `POST /events`, stage 1 and every source.
"""

import math
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec
from msgspec import Meta

from features.bounds import MAX_TIMESTAMP_MS, Country, Id, TimestampMs
from features.engagement import Engagement, Kind
from features.engagement import Thumb as ThumbValue
from features.text import MAX_QUERY_CHARS, normalise_query
from infra.errors import InvalidEvent
from streams import topics

MAX_EVENT_BYTES = 64 * 1024
FUTURE_LIMIT_MS = 300_000

EventId = Annotated[str, Meta(min_length=16, max_length=64, pattern=r"^[0-9A-Za-z-]+$(?!\n)")]
DurationMs = Annotated[int, Meta(ge=0, le=30 * 24 * 3600 * 1000)]
Query = Annotated[str, Meta(max_length=MAX_QUERY_CHARS)]
TaskName = Literal["search", "more_like_this", "pre_query"]

Reason = Literal[
    "malformed_json",
    "unknown_type",
    "invalid_field",
    "missing_field",
    "oversized",
    "empty",
    "future_timestamp",
    "poison",
    "poison_label",
]
REASONS: tuple[str, ...] = Reason.__args__  # type: ignore[attr-defined]


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """What every engagement event carries. Fields that are not known here are ignored, so that producers may be newer
    than readers.
    """

    topic: ClassVar[str]

    event_id: EventId
    user_id: Id
    item_id: Id
    event_ts_ms: TimestampMs
    session_id: Id | None = None
    ranking_id: Id | None = None
    position: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    task: TaskName | None = None
    query: Query | None = None
    source_item_id: Id | None = None
    country: Country | None = None


class Play(Event, frozen=True, kw_only=True, tag="play"):
    """A title was played for `watched_ms` of its `duration_ms`."""

    topic: ClassVar[str] = topics.PLAYS

    watched_ms: DurationMs
    duration_ms: DurationMs


class Click(Event, frozen=True, kw_only=True, tag="click"):
    """A title was opened."""

    topic: ClassVar[str] = topics.CLICKS


class Thumb(Event, frozen=True, kw_only=True, tag="thumb"):
    """A statement about a title; it replaces this user's earlier one, `none` takes it back."""

    topic: ClassVar[str] = topics.THUMBS

    value: Literal["up", "double_up", "down", "none"]


class ServedItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One returned position of a ranking, counted from 1 by its place in the list."""

    item_id: Id
    score: float
    propensity: float = 1.0
    features: bytes = b""
    team: str = ""  # of an interleaved answer: the variant whose pick it is


class Ranking(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="ranking"):
    """An answer of the scorer: its context, its items in order with the packed float32 features that were used, and
    what was read.
    """

    topic: ClassVar[str] = topics.RANKINGS

    ranking_id: Id
    user_id: Id
    event_ts_ms: TimestampMs
    task: TaskName
    items: list[ServedItem]
    session_id: Id | None = None
    query: Query | None = None
    source_item_id: Id | None = None
    country: Country | None = None
    model: str = ""
    variant: str = "default"
    contained: dict[str, dict[str, int]] = {}
    inputs: bytes = b""
    priors: list[float] = []
    schema_hash: str = ""  # of the features: the registry's and the columns'
    shared: bool = False  # the features are those of a member without a past, perhaps of a moment ago


# What stands before a title in the names of `Ranking.contained`: in the answer, and among the newest of the session.
OF_ITEM, OF_SESSION = "item:", "source_item:"

T = TypeVar("T")
Engaged = Play | Click | Thumb
_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    struct.topic: msgspec.json.Decoder(struct) for struct in (Play, Click, Thumb, Ranking)
}
_ENGAGED_DECODER: msgspec.json.Decoder[Engaged] = msgspec.json.Decoder(Engaged)
_ENCODER = msgspec.json.Encoder()
_THUMBS = {"up": ThumbValue.UP, "double_up": ThumbValue.DOUBLE_UP, "down": ThumbValue.DOWN, "none": ThumbValue.NONE}


def encode_event(event: Event | Ranking) -> bytes:
    """The JSON form of an event."""
    return _ENCODER.encode(event)


def events_schema() -> dict[str, Any]:
    """The JSON Schema of everything on the event topics: what `docs/events.schema.json` holds."""
    events, definitions = msgspec.json.schema_components((Play, Click, Thumb, Ranking), ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Nowrank events",
        "anyOf": list(events),
        "$defs": definitions,
    }


def decode_record(topic: str, value: bytes | None) -> Engaged | Ranking:
    """The event that a topic's record holds; raises `InvalidEvent` with a reason code."""
    event: Engaged | Ranking = decode_value(_DECODERS[topic], value, "an event")
    if isinstance(event, Ranking) and not all(math.isfinite(item.score) for item in event.items):
        raise InvalidEvent("invalid_field", "scores must be finite", "items[].score")
    return event


def decode_engaged(value: bytes | None) -> Engaged:
    """The play, click or thumb in a body whose `type` says which; raises `InvalidEvent`."""
    return decode_value(_ENGAGED_DECODER, value, "an event")


def convert_engaged(value: Any) -> Engaged:
    """The play, click or thumb in already decoded JSON; raises `InvalidEvent`."""
    try:
        return msgspec.convert(value, Engaged)  # type: ignore[no-any-return]
    except msgspec.ValidationError as error:
        raise invalid_event(error) from error


def to_engagement(event: Engaged | Ranking, broker_ts_ms: int, future_limit_ms: int = FUTURE_LIMIT_MS) -> Engagement:
    """The engagement in an event whose record the broker stamped `broker_ts_ms`.

    Event time is min(`event_ts_ms`, `broker_ts_ms`); further ahead than `future_limit_ms` raises `InvalidEvent`
    (`future_timestamp`), and so does a broker's time that no row may hold (`invalid_field`).
    """
    if not 0 <= broker_ts_ms <= MAX_TIMESTAMP_MS:
        raise InvalidEvent(
            "invalid_field", f"the record's time is {broker_ts_ms} ms; a time is from 0 to {MAX_TIMESTAMP_MS} ms"
        )
    ahead_ms = event.event_ts_ms - broker_ts_ms
    if ahead_ms > future_limit_ms:
        raise InvalidEvent(
            "future_timestamp",
            f"event_ts_ms is {ahead_ms} ms after the broker's time; at most {future_limit_ms} ms are clamped",
            "event_ts_ms",
        )
    common: dict[str, Any] = {
        "user_id": event.user_id,
        "event_ts_ms": min(event.event_ts_ms, broker_ts_ms),
        "ingested_ts_ms": broker_ts_ms,
        "query": (normalise_query(event.query) or None) if event.query else None,
        "source_item_id": event.source_item_id,
        "country": event.country,
    }
    match event:
        case Ranking():
            shown = tuple(item.item_id for item in event.items)
            return Engagement(kind=Kind.IMPRESSION, event_id=event.ranking_id, item_id="", impressions=shown, **common)
        case Play():
            watched: dict[str, Any] = {"watched_ms": event.watched_ms, "duration_ms": event.duration_ms}
            return Engagement(kind=Kind.PLAY, event_id=event.event_id, item_id=event.item_id, **watched, **common)
        case Thumb():
            thumb = _THUMBS[event.value]
            return Engagement(kind=Kind.THUMB, event_id=event.event_id, item_id=event.item_id, thumb=thumb, **common)
        case _:
            return Engagement(kind=Kind.CLICK, event_id=event.event_id, item_id=event.item_id, **common)


def decode_value(decoder: msgspec.json.Decoder[T], value: bytes | None, noun: str) -> T:
    """What a record's value holds; raises `InvalidEvent` with a reason code and a message about `noun`."""
    if not value:
        raise InvalidEvent("empty", f"the record has no value; {noun} is one JSON object")
    if len(value) > MAX_EVENT_BYTES:
        raise InvalidEvent("oversized", f"the record has {len(value)} bytes; {noun} has at most {MAX_EVENT_BYTES}")
    try:
        return decoder.decode(value)
    except msgspec.ValidationError as error:
        raise invalid_event(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidEvent("malformed_json", f"the record is not JSON: {error}") from error


def invalid_event(error: msgspec.ValidationError) -> InvalidEvent:
    """What a failed validation says, as a reason code, a message and the field."""
    text = str(error)
    rule, _, place = text.partition(" - at `$")
    field = place.rstrip("`").lstrip(".") or None
    if rule.startswith("Object missing required field"):
        return InvalidEvent("missing_field", text, rule.split("`")[1])
    if rule.startswith("Object contains unknown field"):
        return InvalidEvent("invalid_field", text, rule.split("`")[1])
    if rule.startswith("Invalid value") and field == "type":
        return InvalidEvent("unknown_type", text, "type")
    return InvalidEvent("invalid_field", text, field)
