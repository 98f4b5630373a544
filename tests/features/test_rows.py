"""A row's bytes, without Redis and without Feast (`tests/contract` compares them with Feast's own)."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.bounds import MAX_SUM, MAX_TIMESTAMP_MS
from features.delta import Delta, Entity, Signal
from features.engagement import Coordinate, Engagement, Kind, Thumb
from features.item import SIGNALS, SUMS, ItemState
from features.rows import (
    CONTAINED_FIELD,
    COUNTRY,
    FAMILIES,
    FOLDS,
    ITEM,
    LOG_FIELD,
    QUERY,
    SHOWN,
    SOURCE_ITEM,
    TARGET_FAMILIES,
    USER,
    RowFamily,
    decode_bytes_value,
    decode_contained,
    encode_contained,
    encode_row,
    encode_timestamp,
    encode_value,
    entity_key,
    entity_prefix,
    feature_field,
    restore_log_state,
    value_in_key,
)
from features.shown import ShownState, fold_shown
from features.spec import DType
from features.user import UserState, fold_user
from infra.errors import RowInvalid

NOW_MS = 1_750_000_000_123
REMEMBERED = tuple(kind for kind in Kind if kind is not Kind.IMPRESSION)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def engagement(kind: Kind, event_id: str = "event-0", **fields: Any) -> Engagement:
    return Engagement(
        kind=kind,
        event_id=event_id,
        user_id="u",
        event_ts_ms=NOW_MS,
        ingested_ts_ms=NOW_MS,
        item_id="ü",
        query="star wars",
        thumb=Thumb.DOWN if kind is Kind.THUMB else Thumb.NONE,
        **fields,
    )


def filled_state(family: RowFamily) -> Any:
    """A state with something in every part."""
    if family is USER:
        state = UserState()
        for offset, kind in enumerate(REMEMBERED):
            fold_user(state, Coordinate(f"{kind.name}-0", offset), engagement(kind, event_id=f"event-{offset}"))
        return state
    state = family.new_state()
    entity = next(entity for entity, owner in TARGET_FAMILIES.items() if owner is family)
    for signal in (Signal.IMPRESSION, Signal.CLICK, Signal.PLAY):
        FOLDS[entity](state, Delta(entity, "key", "ü", signal, 1, NOW_MS, NOW_MS))
    return state


def decode(family: RowFamily, pairs: list[bytes]) -> Any:
    fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
    state = family.decode([fields.get(field) for field in family.packed_fields])
    if family is USER:
        restore_log_state(state, fields.get(LOG_FIELD))
    return state


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_row_read_back_is_the_state_that_was_written(family: RowFamily) -> None:
    state = filled_state(family)
    assert decode(family, encode_row(family, state, {"plays-0": 7})) == state


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_an_empty_row_read_back_is_a_new_state_apart_from_its_time_of_writing(family: RowFamily) -> None:
    state = family.new_state()
    read = decode(family, encode_row(family, state, {}))
    assert (read, read.updated_ms) == (state, 1)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_row_that_misses_a_view_is_no_row(family: RowFamily) -> None:
    assert family.decode([None] * len(family.views)) == family.new_state()
    fields = dict(zip(*[iter(encode_row(family, filled_state(family), {}))] * 2, strict=True))
    replies = [fields[field] for field in family.packed_fields[:-1]]
    assert family.decode([*replies, None]) == family.new_state()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("packed", [b"", b"\x0a\x90", b"\x0a\x01\x05", b"\x0a\x01\xc1", b"\x0a\x03\x81\xa1\xff"])
def test_a_row_that_cannot_be_decoded_is_one_error_of_ours(family: RowFamily, packed: bytes) -> None:
    with pytest.raises(RowInvalid, match=f"the row of {family.name} cannot be decoded"):
        family.decode([packed] * len(family.views))


NO_TIMES_MS = (-1, MAX_TIMESTAMP_MS + 1, 2**63, 2**64 - 1)
NO_SUMS = (math.nan, math.inf, -math.inf, 1e308, 2 * MAX_SUM, -2 * MAX_SUM)


def item(**values: Any) -> ItemState:
    return ItemState(**{"as_of_ms": NOW_MS, "first_seen_ms": NOW_MS, **values})


def targets(as_of_ms: int = NOW_MS, totals: Any = (1, 1, 1), sums: Any = (1.0, 1.0, 1.0), **values: int) -> list[Any]:
    row_ms, touched_ms = values.get("row_ms", NOW_MS), values.get("touched_ms", NOW_MS)
    return [row_ms, {"fine": [NOW_MS, [1, 1, 1], [1.0, 1.0, 1.0]], "t": [as_of_ms, totals, sums]}, touched_ms, 1]


def moments(ts_ms: int = NOW_MS, kind: int = 2, value: int = 50) -> tuple[Any, Any]:
    return {"plays-0": [[ts_ms, 1, kind, "t", value, None]]}, {}


def memories(title: Any = (NOW_MS, 1.0), thumb: Any = (NOW_MS, "e", 1, NOW_MS)) -> tuple[Any, Any]:
    return {}, {"thumbs-0": [{"t": title}, {"t": thumb}]}


def packed(parts: tuple[Any, ...]) -> list[bytes | None]:
    return [encode_value(DType.BYTES, msgspec.msgpack.encode(part)) for part in parts]


WRONG_ITEMS = [
    *(item(sums=[1.0] * count) for count in (0, 3, len(SUMS) - 1, len(SUMS) + 1)),
    *(item(totals=[1] * count) for count in (0, len(SIGNALS) + 1)),
    *(item(sums=[*[1.0] * (len(SUMS) - 1), total]) for total in NO_SUMS),
    item(totals=[*[1] * (len(SIGNALS) - 1), 2**64 - 1]),
    *(item(**{name: time_ms}) for name in ("as_of_ms", "first_seen_ms", "touched_ms") for time_ms in NO_TIMES_MS),
]
WRONG_TARGETS = [
    *(targets(sums=[1.0] * count) for count in (0, 2, 4)),
    *(targets(totals=[1] * count) for count in (0, 2, 4)),
    *(targets(sums=[1.0, total, 1.0]) for total in NO_SUMS),
    *(targets(time_ms) for time_ms in NO_TIMES_MS),
    *(targets(**{name: time_ms}) for name in ("row_ms", "touched_ms") for time_ms in NO_TIMES_MS),
]
WRONG_USERS = [
    *(moments(kind=kind) for kind in (-1, 0, max(Kind) + 1, 99, 2**63)),
    *(moments(value=value) for value in (-2, 101, 2**63)),
    *(moments(time_ms) for time_ms in NO_TIMES_MS),
    *(memories(title=[NOW_MS, weight]) for weight in NO_SUMS),
    *(memories(title=[time_ms, 1.0]) for time_ms in NO_TIMES_MS),
    *(memories(thumb=[NOW_MS, "e", thumb, NOW_MS]) for thumb in (-2, 3, 99, 2**63)),
    *(memories(thumb=times) for time_ms in NO_TIMES_MS for times in ([time_ms, "e", 1, 1], [1, "e", 1, time_ms])),
]
WRONG_SHOWN = [
    *({"lists": {"rankings-0": [[time_ms, "r", ["t"]]]}} for time_ms in NO_TIMES_MS),
    *({"reactions": {"plays-0": [[NOW_MS, 1, kind, "t", 50, NOW_MS, None]]}} for kind in (-1, 0, 99)),
]


@pytest.mark.parametrize(
    ("family", "parts"),
    [
        *((ITEM, (state,)) for state in WRONG_ITEMS),
        *((family, (state,)) for family in (QUERY, SOURCE_ITEM, COUNTRY) for state in WRONG_TARGETS),
        *((USER, parts) for parts in WRONG_USERS),
        *((SHOWN, (state,)) for state in WRONG_SHOWN),
    ],
)
def test_a_row_that_decodes_but_that_no_fold_can_have_made_is_the_same_error(
    family: RowFamily, parts: tuple[Any, ...]
) -> None:
    with pytest.raises(RowInvalid, match=f"the row of {family.name} cannot be decoded"):
        family.decode(packed(parts))


@pytest.mark.parametrize(
    "state",
    [
        item(sums=[MAX_SUM] * len(SUMS), as_of_ms=MAX_TIMESTAMP_MS),
        item(sums=[-1e-9] * len(SUMS), totals=[-1] * len(SIGNALS), as_of_ms=0),
    ],
)
def test_a_row_at_the_bounds_is_a_row(state: ItemState) -> None:
    assert ITEM.decode(packed((state,))) == state


@pytest.mark.parametrize("kind", REMEMBERED)
@pytest.mark.parametrize("thumb", list(Thumb))
def test_every_kind_and_every_thumb_that_is_remembered_can_be_read(kind: Kind, thumb: Thumb) -> None:
    recents, _ = moments(kind=kind, value=thumb)
    _, logs = memories(thumb=[NOW_MS, "e", int(thumb), NOW_MS])
    state = USER.decode(packed((recents, logs)))
    assert (state.recent[0].kind, state.recent[0].value) == (kind, thumb)
    assert state.active_thumbs().get("t", Thumb.NONE) is thumb


@pytest.mark.parametrize("kind", REMEMBERED)
def test_a_users_row_that_holds_an_engagement_of_any_kind_can_be_read_again(kind: Kind) -> None:
    state = UserState()
    fold_user(state, Coordinate("plays-0", 0), engagement(kind))
    assert decode(USER, encode_row(USER, state, {})).recent[0].kind == kind


@pytest.mark.parametrize("kind", REMEMBERED)
def test_a_row_of_what_was_shown_that_holds_a_reaction_of_any_kind_can_be_read_again(kind: Kind) -> None:
    state = ShownState()
    fold_shown(state, "plays-0", engagement(kind), None)
    assert decode(SHOWN, encode_row(SHOWN, state, {})).reactions == state.reactions


@pytest.mark.parametrize("kind", list(Kind))
def test_every_delta_of_an_engagement_is_folded_by_the_row_that_it_is_for(kind: Kind) -> None:
    event = engagement(kind, source_item_id="7", country="NZ", impressions=("ü",) if kind is Kind.IMPRESSION else ())
    for delta in fold_user(UserState(), Coordinate("plays-0", 0), event).deltas:
        row = TARGET_FAMILIES[delta.entity].new_state()
        FOLDS[delta.entity](row, delta)
        assert row.as_of_ms == NOW_MS


@pytest.mark.parametrize(
    "windows", [b"\xc1", [1], [-1, {}, {}], [1, {}, {"plays-0": 2**63}], [1, {"plays-0": [None]}, {}]]
)
def test_windows_of_the_fold_that_cannot_be_decoded_are_the_same_error(windows: Any) -> None:
    stored = windows if isinstance(windows, bytes) else msgspec.msgpack.encode(windows)
    with pytest.raises(RowInvalid, match="keeps for the fold cannot be decoded"):
        restore_log_state(UserState(), stored)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_feature_of_every_view_has_a_field_and_no_two_share_one(family: RowFamily) -> None:
    fields = encode_row(family, family.new_state(), {})[::2]
    expected = {feature_field(view.name, spec.name) for view in family.views for spec in view.features}
    expected |= {b"_ts:" + view.name.encode() for view in family.views} | {CONTAINED_FIELD}
    assert set(fields) == expected | ({LOG_FIELD} if family is USER else set())
    assert len(fields) == len(set(fields))


def test_every_write_moves_the_rows_timestamp_forward_even_when_event_time_stands_still() -> None:
    state = ItemState(as_of_ms=NOW_MS)
    stamps = []
    for _ in range(3):
        encode_row(ITEM, state, {})
        stamps.append(state.updated_ms)
    assert stamps == [NOW_MS, NOW_MS + 1, NOW_MS + 2]
    state.as_of_ms = NOW_MS + 60_000
    encode_row(ITEM, state, {})
    assert state.updated_ms == NOW_MS + 60_000


def test_equal_offsets_are_equal_bytes_in_whatever_order_they_were_learnt() -> None:
    assert encode_contained({"plays-0": 5, "clicks-1": 7}) == encode_contained({"clicks-1": 7, "plays-0": 5})


@given(st.dictionaries(TEXTS, st.integers(0, 2**63 - 1)))
def test_offsets_survive_the_trip(contained: dict[str, int]) -> None:
    assert decode_contained(encode_contained(contained)) == contained


@pytest.mark.parametrize("packed", [b"\xc1", b"\x05", b"\x91\xa8plays-0", b"\x91\x92\xa1\xff\x01"])
def test_offsets_that_cannot_be_decoded_are_the_same_error(packed: bytes) -> None:
    with pytest.raises(RowInvalid, match="offsets of a row cannot be decoded"):
        decode_contained(packed)


def test_a_row_that_does_not_exist_contains_nothing() -> None:
    assert decode_contained(None) == {}


@given(TEXTS, st.text("abcdefghijklmnopqrstuvwxyz_0", min_size=1))
def test_the_entity_is_read_back_from_its_key(value: str, project: str) -> None:
    key = entity_key("item_id", value, project)
    assert value_in_key(key, "item_id", project) == value.encode()
    assert key.startswith(entity_prefix("item_id"))


@given(TEXTS)
def test_a_key_of_another_entity_or_project_holds_no_value(value: str) -> None:
    key = entity_key("item_id", value, "nowrank")
    for join_key, project in (("user_id", "nowrank"), ("item_i", "nowrank"), ("item_id", "xnowrank"), ("item_id", "x")):
        assert value_in_key(key, join_key, project) is None
        assert value_in_key(entity_key(join_key, value, project), "item_id", "nowrank") is None
    assert all(value_in_key(key[:length], "item_id", "nowrank") is None for length in range(len(key)))


@given(st.binary(max_size=40_000))
def test_bytes_survive_the_trip(data: bytes) -> None:
    assert decode_bytes_value(encode_value(DType.BYTES, data)) == data


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        (DType.INT64, 0, "2000"),
        (DType.INT64, 300, "20ac02"),
        (DType.INT64, -1, "20" + "ff" * 9 + "01"),
        (DType.INT64, 16_384, "20808001"),
        (DType.FLOAT64, 1.0, "29000000000000f03f"),
        (DType.BYTES, b"", "0a00"),
        (DType.STRINGS, [], "6200"),
        (DType.STRINGS, ["a", ""], "62050a01610a00"),
        (DType.INT64S, [], "7200"),
        (DType.INT64S, [1, 300], "72050a0301ac02"),
        (DType.FLOAT64S, [], "7a00"),
        (DType.FLOAT64S, [1.0], "7a0a0a08000000000000f03f"),
    ],
)
def test_values_have_the_bytes_of_the_protobuf_encoding(dtype: DType, value: object, expected: str) -> None:
    assert encode_value(dtype, value).hex() == expected


def test_a_timestamp_leaves_out_what_is_zero() -> None:
    assert [encode_timestamp(at_ms).hex() for at_ms in (0, 1, 2000)] == ["", "10c0843d", "0802"]


def test_each_entity_of_a_delta_has_a_family_and_a_fold() -> None:
    assert set(TARGET_FAMILIES) == set(FOLDS) == set(Entity)
