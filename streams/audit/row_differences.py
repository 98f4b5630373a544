"""Differences between a stored row and the one that the log gives.

Enters: a row's hash, an `ExpectedRow`. Leaves: `Difference`s, none when they are equal. Called by `verify`. Pure.

Rows are compared byte for byte. Where bytes differ, they are decoded: maps are equal in any order, floats when they
differ by at most TOLERANCE of the gross mass that was added (protocol rule 22: taking a thumb back leaves a residue of
rounding relative to what was added, not to what is left).
"""

import math
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from features.rows import CONTAINED_FIELD, LOG_FIELD, RowFamily, encode_row, feature_field, restore_log_state
from features.spec import DType
from infra.errors import RowInvalid
from streams.audit.recompute import ExpectedRow
from streams.audit.store_snapshot import StoredRow

TOLERANCE = 1e-9
SHOWN_CHARS = 120
READABLE = "a row that can be decoded"
_FLOAT64_TAG, _FLOAT64S_TAG = 0x29, 0x7A


class Difference(NamedTuple):
    """One value that is not what the log gives; `feature` is `(row)` when it is the row as a whole."""

    family: str
    key: str
    feature: str
    expected: str
    stored: str


def compare_row(stored: StoredRow, expected: ExpectedRow) -> list[Difference]:
    """Every difference of a row; leaves `expected.state.updated_ms` as that of the stored row (it counts writes, which
    the log does not tell).
    """
    family = stored.family
    try:
        state = _stored_state(stored)
    except (RowInvalid, ValueError) as error:
        return [_difference(stored, "(row)", READABLE, f"{type(error).__name__}: {error}")]
    expected.state.updated_ms = state.updated_ms - 1
    flat = encode_row(family, expected.state, expected.contained)
    wanted = dict(zip(flat[::2], flat[1::2], strict=True))
    differing = [field for field in {**wanted, **stored.fields} if wanted.get(field) != stored.fields.get(field)]
    state_fields = {*family.packed_fields, LOG_FIELD}
    names = _field_names(family)
    differences = [
        found
        for field in differing
        if field not in state_fields
        for found in _compare_field(stored, expected, names.get(field), field, wanted.get(field))
    ]
    if not state_fields.isdisjoint(differing):  # one state, however many fields hold it
        leaves = differing_leaves(expected.state, state, expected.retractable)
        differences += [_difference(stored, f"state{path}", one, other) for path, one, other in leaves]
    return differences


def differing_leaves(expected: Any, stored: Any, gross: float, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The path, expected and stored value of every leaf that differs; maps by key, lists by place."""
    if isinstance(expected, msgspec.Struct) and type(stored) is type(expected):
        for name in expected.__struct_fields__:
            yield from differing_leaves(getattr(expected, name), getattr(stored, name), gross, f"{path}.{name}")
    elif isinstance(expected, dict) and isinstance(stored, dict):
        for key in sorted({*expected, *stored}, key=str):
            yield from differing_leaves(expected.get(key), stored.get(key), gross, f"{path}[{key!r}]")
    elif isinstance(expected, list | tuple) and isinstance(stored, list | tuple) and len(expected) == len(stored):
        for index, (one, other) in enumerate(zip(expected, stored, strict=True)):
            yield from differing_leaves(one, other, gross, f"{path}[{index}]")
    elif isinstance(expected, float) and isinstance(stored, float):
        if not is_close(expected, stored, gross):
            yield path, expected, stored
    elif expected != stored:
        yield path, expected, stored


def is_close(expected: float, stored: float, gross: float) -> bool:
    """Equal within TOLERANCE of the gross mass; a sum of nothing is exactly 0."""
    if expected == 0.0 and gross == 0.0:
        return stored == 0.0
    return math.isclose(expected, stored, rel_tol=TOLERANCE, abs_tol=TOLERANCE * gross)


def _stored_state(stored: StoredRow) -> Any:
    family = stored.family
    packed = [stored.fields.get(field) for field in family.packed_fields]
    if any(part is None for part in packed):
        raise ValueError(f"the row has no field {family.views[packed.index(None)].packed.name}")
    state = family.decode(packed)
    if family.log_state is not None:
        restore_log_state(state, stored.fields.get(LOG_FIELD))
    return state


def _field_names(family: RowFamily) -> dict[bytes, tuple[str, DType | None]]:
    """The name and the type of every field of a row; ours and the timestamps have no type."""
    names: dict[bytes, tuple[str, DType | None]] = {
        CONTAINED_FIELD: ("contained offsets", None),
        LOG_FIELD: ("_log", None),
    }
    for view in family.views:
        names[b"_ts:" + view.name.encode()] = (f"_ts:{view.name}", None)
        for spec in view.features:
            names[feature_field(view.name, spec.name)] = (spec.name, spec.dtype)
    return names


def _compare_field(
    stored: StoredRow,
    expected: ExpectedRow,
    named: tuple[str, DType | None] | None,
    field: bytes,
    wanted: bytes | None,
) -> list[Difference]:
    """The differences in a field whose bytes differ."""
    found = stored.fields.get(field)
    if named is None or wanted is None or found is None:
        name = named[0] if named is not None else f"field {field!r}"
        return [_difference(stored, name, _shown(wanted), _shown(found))]
    name, dtype = named
    if field == CONTAINED_FIELD:
        return [_difference(stored, name, expected.contained, stored.contained)]
    if dtype in (DType.FLOAT64, DType.FLOAT64S):
        one, other = _floats(wanted), _floats(found)
        if one is not None and other is not None and len(one) == len(other):
            close = all(is_close(a, b, expected.retractable) for a, b in zip(one, other, strict=True))
            return [] if close else [_difference(stored, name, one, other)]
    return [_difference(stored, name, _shown(wanted), _shown(found))]


def _floats(value: bytes) -> list[float] | None:
    """The floats in a serialized `Value.double_val` or `double_list_val`."""
    if value[:1] == bytes((_FLOAT64_TAG,)) and len(value) == 9:
        return list(struct.unpack("<d", value[1:]))
    if value[:1] == bytes((_FLOAT64S_TAG,)):
        body = len(value) - len(value) % 8  # tag, length, tag, length: fewer than 8 bytes before up to 2^14 doubles
        return list(struct.unpack(f"<{body // 8}d", value[len(value) - body :])) if body else []
    return None


def _shown(value: bytes | None) -> str:
    return "(missing)" if value is None else repr(value)


def _difference(stored: StoredRow, feature: str, expected: Any, found: Any) -> Difference:
    shown = [
        text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 3] + "..." for text in map(str, (expected, found))
    ]
    return Difference(stored.family.name, stored.value, feature, *shown)
