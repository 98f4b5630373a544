"""The wire events: what is written is read back, and what breaks a rule gets its reason code."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.engagement import Kind
from features.engagement import Thumb as ThumbValue
from infra.errors import InvalidEvent
from streams.events import (
    FUTURE_LIMIT_MS,
    MAX_EVENT_BYTES,
    REASONS,
    Click,
    Play,
    Ranking,
    ServedItem,
    Thumb,
    convert_engaged,
    decode_engaged,
    decode_record,
    encode_event,
    events_schema,
    to_engagement,
)

ids = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=128)
event_ids = st.uuids().map(str)
times = st.integers(0, 253_402_300_799_999)
maybe = lambda strategy: st.none() | strategy  # noqa: E731
common = {
    "event_id": event_ids,
    "user_id": ids,
    "item_id": ids,
    "event_ts_ms": times,
    "session_id": maybe(ids),
    "ranking_id": maybe(ids),
    "position": maybe(st.integers(1, 10_000)),
    "task": maybe(st.sampled_from(["search", "more_like_this", "pre_query"])),
    "query": maybe(st.text(st.characters(codec="utf-8"), max_size=256)),
    "source_item_id": maybe(ids),
    "country": maybe(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=2, max_size=2)),
}
durations = st.integers(0, 30 * 24 * 3600 * 1000)
events = st.one_of(
    st.builds(Click, **common),
    st.builds(Play, **common, watched_ms=durations, duration_ms=durations),
    st.builds(Thumb, **common, value=st.sampled_from(["up", "double_up", "down", "none"])),
)
GOOD = {"type": "click", "event_id": "0123456789abcdef", "user_id": "u", "item_id": "i", "event_ts_ms": 1}


def body(**changes: object) -> bytes:
    """A good click with some fields changed; a field that is set to `...` is left out."""
    return json.dumps({name: value for name, value in {**GOOD, **changes}.items() if value is not ...}).encode()


@given(events)
def test_what_is_written_is_read_back(event: Click | Play | Thumb) -> None:
    value = encode_event(event)
    assert decode_record(event.topic, value) == event
    assert decode_engaged(value) == event
    assert convert_engaged(json.loads(value)) == event


@given(st.floats(allow_nan=False, allow_infinity=False), st.binary(max_size=64), ids)
def test_a_ranking_with_its_packed_features_is_read_back(score: float, features: bytes, item_id: str) -> None:
    ranking = Ranking(
        ranking_id="r",
        user_id="u",
        event_ts_ms=1,
        task="search",
        items=[ServedItem(item_id=item_id, score=score, features=features)],
        contained={"user:u": {"plays-0": 7}},
    )
    assert decode_record("rankings", encode_event(ranking)) == ranking


@given(st.binary(max_size=200))
def test_any_bytes_give_an_event_or_a_reason(value: bytes) -> None:
    reason = "empty"
    try:
        decode_engaged(value)
    except InvalidEvent as error:
        reason = error.reason
    assert reason in REASONS


BAD = [
    ("malformed_json", None, b'{"type": "click"'),
    ("malformed_json", None, b"\xff\xfe"),
    ("malformed_json", None, body().replace(b'"u"', b'"\xff"')),
    ("malformed_json", None, body(event_ts_ms=float("nan"))),
    ("malformed_json", None, body(event_ts_ms=float("inf"))),
    ("malformed_json", None, body(user_id="\ud800")),
    ("malformed_json", None, body(extra=0).replace(b": 0", b": " + b"[" * 9000 + b"]" * 9000)),
    ("unknown_type", "type", body(type="like")),
    ("missing_field", "type", body(type=...)),
    ("missing_field", "user_id", body(user_id=...)),
    ("missing_field", "watched_ms", body(type="play")),
    ("missing_field", "value", body(type="thumb")),
    ("invalid_field", None, b"[]"),
    ("invalid_field", None, b"null"),
    ("invalid_field", "user_id", body(user_id="")),
    ("invalid_field", "user_id", body(user_id="u" * 10_000)),
    ("invalid_field", "user_id", body(user_id=7)),
    ("invalid_field", "user_id", body(user_id="u\n")),
    ("invalid_field", "item_id", body(item_id="a\x00b")),
    ("invalid_field", "event_id", body(event_id="short")),
    ("invalid_field", "event_id", body(event_id="0123456789abcdef\n")),
    ("invalid_field", "event_ts_ms", body(event_ts_ms=-1)),
    ("invalid_field", "event_ts_ms", body(event_ts_ms="1")),
    ("invalid_field", "event_ts_ms", body(event_ts_ms=10**30)),
    ("invalid_field", "position", body(position=0)),
    ("invalid_field", "task", body(task="browse")),
    ("invalid_field", "country", body(country="usa")),
    ("invalid_field", "country", body(country="US\n")),
    ("invalid_field", "query", body(query="q" * 257)),
    ("invalid_field", "watched_ms", body(type="play", watched_ms=-1, duration_ms=1)),
    ("invalid_field", "value", body(type="thumb", value="sideways")),
    ("oversized", None, body(extra="x" * MAX_EVENT_BYTES)),
    ("empty", None, b""),
    ("empty", None, None),
]


@pytest.mark.parametrize(("reason", "field", "value"), BAD, ids=[f"{bad[0]}-{at}" for at, bad in enumerate(BAD)])
def test_a_bad_event_gets_its_reason_and_its_field(reason: str, field: str | None, value: bytes | None) -> None:
    with pytest.raises(InvalidEvent) as raised:
        decode_engaged(value)
    assert (raised.value.reason, raised.value.field) == (reason, field)


def test_every_reason_code_is_given_to_some_record() -> None:
    # `poison` and `poison_label` are given by workers, to a record whose fold fails.
    given_by_workers = {"poison", "poison_label"}
    assert {reason for reason, _field, _value in BAD} | {"future_timestamp"} | given_by_workers == set(REASONS)


def test_a_record_of_another_type_than_its_topic_is_of_unknown_type() -> None:
    with pytest.raises(InvalidEvent) as raised:
        decode_record("plays", body())
    assert raised.value.reason == "unknown_type"


def test_a_ranking_with_an_infinite_score_is_refused() -> None:
    value = b'{"ranking_id":"r","user_id":"u","event_ts_ms":1,"task":"search","items":[{"item_id":"i","score":1e999}]}'
    with pytest.raises(InvalidEvent) as raised:
        decode_record("rankings", value)
    assert raised.value.reason == "invalid_field"


def test_a_field_from_the_future_is_ignored() -> None:
    assert decode_engaged(body(mood="good")) == decode_engaged(body())


def test_a_time_a_little_ahead_of_the_broker_is_clamped_and_one_far_ahead_is_refused() -> None:
    event = decode_engaged(body(event_ts_ms=1_000_000 + FUTURE_LIMIT_MS))
    assert to_engagement(event, 1_000_000).event_ts_ms == 1_000_000
    with pytest.raises(InvalidEvent) as raised:
        to_engagement(event, 999_999)
    assert (raised.value.reason, raised.value.field) == ("future_timestamp", "event_ts_ms")


def test_engagements_carry_what_their_event_says() -> None:
    play = to_engagement(decode_engaged(body(type="play", watched_ms=5, duration_ms=10, query="  Star\tWARS ")), 9)
    thumb = to_engagement(decode_engaged(body(type="thumb", value="double_up")), 9)
    assert (play.kind, play.watched_share, play.query) == (Kind.PLAY, 0.5, "star wars")
    assert (thumb.kind, thumb.thumb) == (Kind.THUMB, ThumbValue.DOUBLE_UP)


def test_the_published_schema_is_the_one_that_the_code_checks() -> None:
    published = json.loads((Path(__file__).parents[2] / "docs" / "events.schema.json").read_text())
    assert published == events_schema(), "run `make docs`"
    assert set(published["$defs"]) >= {"Play", "Click", "Thumb", "Ranking"}
