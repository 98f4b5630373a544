"""A row's bytes: Feast's Redis layout, encoded without Feast.

Enters: states of rows. Leaves: Redis keys, hash fields and values that `FeatureStore.get_online_features` reads as they
are. Called by `online_store.py`, and by the scorer's readers.

Layout (Feast 0.67, entity key serialization 3): key = entity key + project; field = murmur3_32(`view:feature`), little
endian; value = a serialized `feast.types.Value`; `_ts:<view>` = a serialized `google.protobuf.Timestamp`. Two fields of
our own stand beside: `_in`, the contained offsets by log, and `_log`, what only the fold needs.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import mmh3
import msgspec

from features import country, item, query, session, shown, source_item, user_history
from features.bounds import TimestampMs
from features.delta import Delta, Entity
from features.item import ItemState, fold_item
from features.spec import DType, ViewSpec
from features.top_targets import TopTargetsState
from features.user import LogMemory, Moment, UserState
from infra.errors import RowInvalid

CONTAINED_FIELD = b"_in"
LOG_FIELD = b"_log"
_FEAST_STRING = 2
_LENGTH_BYTES = 4
_double = struct.Struct("<Bd").pack
_length = struct.Struct("<I").pack


def entity_key(join_key: str, value: str, project: str) -> bytes:
    """The Redis key of a row: Feast's entity key v3 of one string entity, then the project."""
    text = value.encode()
    return b"".join((entity_prefix(join_key), _length(_FEAST_STRING), _length(len(text)), text, project.encode()))


@cache
def entity_prefix(join_key: str) -> bytes:
    """What every key of this entity begins with."""
    name = join_key.encode()
    return b"".join((_length(1), _length(_FEAST_STRING), _length(len(name)), name))


def value_in_key(key: bytes, join_key: str, project: str) -> bytes | None:
    """The entity's value in a key; None for a key of another entity or project."""
    prefix, suffix = entity_prefix(join_key), project.encode()
    begin, end = len(prefix) + 2 * _LENGTH_BYTES, len(key) - len(suffix)  # after the value's type and length
    length = int.from_bytes(key[begin - _LENGTH_BYTES : begin], "little")
    if begin + length != end or not key.startswith(prefix) or not key.endswith(suffix):
        return None
    return key[begin:end]


def feature_field(view: str, feature: str) -> bytes:
    """The hash field of a feature."""
    return struct.pack("<I", mmh3.hash(f"{view}:{feature}", signed=False))


def encode_value(dtype: DType, value: Any) -> bytes:
    """A serialized `feast.types.Value`; field numbers from Feast's `Value.proto`."""
    return _ENCODERS[dtype](value)


def decode_bytes_value(value: bytes) -> bytes:
    """The bytes in a serialized `Value.bytes_val`."""
    length, begin = _read_varint(value, 1)
    return value[begin : begin + length]


def decode_int64_value(value: bytes) -> int:
    """The number in a serialized `Value.int64_val`, of those that are not negative."""
    return _read_varint(value, 1)[0]


def encode_timestamp(at_ms: int) -> bytes:
    """A serialized `google.protobuf.Timestamp`; like every protobuf message it leaves out what is zero."""
    seconds, millis = divmod(at_ms, 1000)
    return (b"\x08" + _varint(seconds) if seconds else b"") + (b"\x10" + _varint(millis * 1_000_000) if millis else b"")


def _varint(number: int) -> bytes:
    """Protobuf's base-128 varint; negative numbers as their 64-bit two's complement."""
    if 0 <= number < _PAIR:
        return _VARINTS[number]
    if 0 <= number < _PAIR**2:
        return _CONTINUED[number & _LOW] + _VARINTS[number >> 14]
    if 0 <= number < _PAIR**3:
        return _CONTINUED[number & _LOW] + _CONTINUED[number >> 14 & _LOW] + _VARINTS[number >> 28]
    return _varint_by_loop(number)


def _varints(numbers: list[int]) -> bytes:
    """Varints in a row, by table for small numbers, and for milliseconds since the epoch from 1970 to 2109."""
    least, greatest = min(numbers), max(numbers)
    if least >= 0 and greatest < _PAIR:
        return b"".join([_VARINTS[number] for number in numbers])
    if least >= _PAIR**2 and greatest < _PAIR**3:
        return b"".join(
            [_CONTINUED[number & _LOW] + _CONTINUED[number >> 14 & _LOW] + _VARINTS[number >> 28] for number in numbers]
        )
    return b"".join(map(_varint, numbers))


def _varint_by_loop(number: int) -> bytes:
    number &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


_PAIR = 1 << 14
_LOW = _PAIR - 1
_VARINTS = [_varint_by_loop(number) for number in range(_PAIR)]
_CONTINUED = [bytes((number & 0x7F | 0x80, number >> 7 | 0x80)) for number in range(_PAIR)]


def _read_varint(data: bytes, begin: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[begin]
        begin += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, begin
        shift += 7


def _block(tag: bytes, payload: bytes) -> bytes:
    return tag + _varint(len(payload)) + payload


@lru_cache(maxsize=1 << 15)  # the same titles and queries come back in row after row; at most some 10 MB
def _string(value: str) -> bytes:
    return _block(b"\x0a", value.encode())


def _strings(values: list[str]) -> bytes:
    return _block(b"\x62", b"".join(map(_string, values)))


def _int64s(values: list[int]) -> bytes:
    return _block(b"\x72", _block(b"\x0a", _varints(values)) if values else b"")


def _float64s(values: list[float]) -> bytes:
    return _block(b"\x7a", _block(b"\x0a", struct.pack(f"<{len(values)}d", *values)) if values else b"")


_ENCODERS: dict[DType, Callable[[Any], bytes]] = {
    DType.INT64: lambda value: b"\x20" + _varint(value),
    DType.FLOAT64: lambda value: _double(0x29, value),
    DType.BYTES: lambda value: _block(b"\x0a", value),
    DType.STRINGS: _strings,
    DType.INT64S: _int64s,
    DType.FLOAT64S: _float64s,
}


@dataclass(frozen=True, slots=True, eq=False)
class RowFamily:
    """One kind of row: its views (all in one Redis hash), and how its state is made, packed and unpacked."""

    name: str
    join_key: str
    views: tuple[ViewSpec, ...]
    new_state: Callable[[], Any]
    unpack: Callable[[list[bytes]], Any]
    log_state: Callable[[Any], bytes] | None = None
    # False: an idle row may be dropped while its records are still in the log.
    outlives_log: bool = True

    @property
    def retention_ms(self) -> int:
        """How long a row may be idle (broker time) before it is empty by its fold's own rule."""
        return 1000 * max(view.ttl_s for view in self.views)

    def is_stale(self, as_of_ms: int, now_ms: int) -> bool:
        """Whether a reader counts a row as missing because its newest engagement is too old."""
        return now_ms - as_of_ms > self.retention_ms

    @property
    def packed_fields(self) -> list[bytes]:
        """The fields that hold the state, in the order that `unpack` takes them, without the `_log` field."""
        return [feature_field(view.name, view.packed.name) for view in self.views]

    def key(self, value: str, project: str) -> bytes:
        """The Redis key of the row of `value`."""
        return entity_key(self.join_key, value, project)

    def decode(self, reply: list[bytes | None]) -> Any:
        """The state in the replies for `packed_fields`; a new state when any of them is missing.

        Raises `RowInvalid`, also for what no fold can have made: another number of sums, what is out of `bounds.py`.
        """
        try:
            parts = [decode_bytes_value(value) for value in reply if value is not None]
            return self.unpack(parts) if len(parts) == len(self.views) else self.new_state()
        except _UNDECODABLE as error:
            raise _invalid(f"the row of {self.name}", error) from error

    def decode_row(self, reply: list[bytes | None], contained: bytes | None) -> tuple[Any, dict[str, int]]:
        """The state and the offsets by log in the replies for `packed_fields` and CONTAINED_FIELD; a new state and none
        where there is no row. Raises `RowInvalid`, also for offsets beside a state of which a part is missing: what
        they stand for would be lost.
        """
        if contained is not None and None in reply:
            raise lacks_part(self, self.views[reply.index(None)].packed.name)
        return self.decode(reply), decode_contained(contained)


def lacks_part(family: RowFamily, name: str) -> RowInvalid:
    """What to raise for a row that has offsets but not the field of this name, which stands for some of them."""
    return RowInvalid(f"the row of {family.name} has offsets but no {name}; `nowrank rebuild` computes all rows anew")


def _invalid(what: str, error: Exception) -> RowInvalid:
    return RowInvalid(
        f"{what} cannot be decoded ({type(error).__name__}: {error}); `nowrank rebuild` computes all rows anew"
    )


def _unpack_user(parts: list[bytes]) -> UserState:
    return UserState(recents=_RECENTS.decode(parts[0]), logs=_LOGS.decode(parts[1]))


_UNDECODABLE = (msgspec.MsgspecError, IndexError, ValueError)
_CONTAINED = msgspec.msgpack.Decoder(list[tuple[str, int]])
_RECENTS = msgspec.msgpack.Decoder(dict[str, list[Moment]])
_LOGS = msgspec.msgpack.Decoder(dict[str, LogMemory])
_LOG_STATE = msgspec.msgpack.Decoder(tuple[TimestampMs, dict[str, list[int]], dict[str, TimestampMs]])
_ITEM = msgspec.msgpack.Decoder(ItemState)
_TOP_TARGETS = msgspec.msgpack.Decoder(TopTargetsState)
_SHOWN = msgspec.msgpack.Decoder(shown.ShownState)

USER = RowFamily(
    "user",
    "user_id",
    (session.VIEW, user_history.VIEW),
    UserState,
    _unpack_user,
    log_state=lambda state: msgspec.msgpack.encode((state.updated_ms, state.seen, state.touched_ms)),
)
ITEM = RowFamily("item", "item_id", (item.VIEW,), ItemState, lambda parts: _ITEM.decode(parts[0]))
QUERY, SOURCE_ITEM, COUNTRY = (
    RowFamily(view.name, view.join_key, (view,), TopTargetsState, lambda parts: _TOP_TARGETS.decode(parts[0]))
    for view in (query.VIEW, source_item.VIEW, country.VIEW)
)
FAMILIES: tuple[RowFamily, ...] = (USER, ITEM, QUERY, SOURCE_ITEM, COUNTRY)
# The stage `labels` keeps it; it holds no feature.
SHOWN = RowFamily(
    shown.VIEW.name,
    shown.VIEW.join_key,
    (shown.VIEW,),
    shown.ShownState,
    lambda parts: _SHOWN.decode(parts[0]),
    outlives_log=False,
)

TARGET_FAMILIES: dict[Entity, RowFamily] = {
    Entity.ITEM: ITEM,
    Entity.QUERY: QUERY,
    Entity.SOURCE_ITEM: SOURCE_ITEM,
    Entity.COUNTRY: COUNTRY,
}
FOLDS: dict[Entity, Callable[[Any, Delta], None]] = {
    Entity.ITEM: fold_item,
    Entity.QUERY: query.fold_query,
    Entity.SOURCE_ITEM: source_item.fold_source_item,
    Entity.COUNTRY: country.fold_country,
}


def restore_log_state(state: Any, packed: bytes | None) -> None:
    """Put what only the fold needs back into a user's state. Raises `RowInvalid`."""
    try:
        if packed is not None:
            state.updated_ms, state.seen, state.touched_ms = _LOG_STATE.decode(packed)
    except _UNDECODABLE as error:
        raise _invalid("what a row keeps for the fold", error) from error


def encode_contained(contained: dict[str, int]) -> bytes:
    """The contained offsets in their one form, so that equal maps are equal bytes."""
    return msgspec.msgpack.encode(sorted(contained.items()))


def decode_contained(packed: bytes | None) -> dict[str, int]:
    """The contained offsets by log; empty for a row that does not exist. Raises `RowInvalid`."""
    try:
        return dict(_CONTAINED.decode(packed)) if packed else {}
    except _UNDECODABLE as error:
        raise _invalid("the offsets of a row", error) from error


def encode_row(family: RowFamily, state: Any, contained: dict[str, int]) -> list[bytes]:
    """Field, value, field, value ... of the whole row; moves `state.updated_ms` strictly forward (Feast skips equal and
    older timestamps).
    """
    state.updated_ms = max(state.updated_ms + 1, state.as_of_ms)
    timestamp = encode_timestamp(state.updated_ms)
    pairs = [CONTAINED_FIELD, encode_contained(contained)]
    if family.log_state is not None:
        pairs += (LOG_FIELD, family.log_state(state))
    for view in family.views:
        pairs += (b"_ts:" + view.name.encode(), timestamp)
        for (field, encode), value in zip(_COLUMNS[view.name], view.values(state), strict=True):
            pairs += (field, encode(value))
    return pairs


_COLUMNS = {
    view.name: [(feature_field(view.name, spec.name), _ENCODERS[spec.dtype]) for spec in view.features]
    for family in (*FAMILIES, SHOWN)
    for view in family.views
}
