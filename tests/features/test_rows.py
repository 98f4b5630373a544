"""A row's bytes, without Redis and without Feast (`tests/contract` compares them with Feast's own)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.delta import Delta, Entity, Signal
from features.engagement import Coordinate, Engagement, Kind, Thumb
from features.item import ItemState
from features.rows import (
    CONTAINED_FIELD,
    FAMILIES,
    FOLDS,
    ITEM,
    LOG_FIELD,
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
    entity_value,
    feature_field,
    restore_log_state,
)
from features.spec import DType
from features.user import UserState, fold_user
from infra.errors import RowInvalid

NOW_MS = 1_750_000_000_123
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def filled_state(family: RowFamily) -> Any:
    """A state with something in every part."""
    if family is USER:
        state = UserState()
        for offset, kind in enumerate((Kind.CLICK, Kind.PLAY, Kind.THUMB)):
            event = Engagement(
                kind=kind,
                event_id=f"event-{offset}",
                user_id="u",
                event_ts_ms=NOW_MS,
                ingested_ts_ms=NOW_MS,
                item_id="ü",
                query="star wars",
                thumb=Thumb.DOWN if kind is Kind.THUMB else Thumb.NONE,
            )
            fold_user(state, Coordinate(f"{kind.name}-0", offset), event)
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
    assert entity_value(key, "item_id", project) == value
    assert key.startswith(entity_prefix("item_id"))


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
