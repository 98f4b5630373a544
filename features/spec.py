"""What a feature and a feature view are.

Enters: declarations in the family files (`item.py`, `session.py`, ...). Leaves: values that the registry lists. Read by
everything that is generated: Feast definitions, row layout, documentation, schema hash.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any


class DType(Enum):
    """A feature's type; the value is the name of Feast's type."""

    INT64 = "Int64"
    FLOAT64 = "Float64"
    BYTES = "Bytes"
    STRINGS = "Array(String)"
    INT64S = "Array(Int64)"
    FLOAT64S = "Array(Float64)"


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """One named feature; `default` is what a reader assumes when the row is missing."""

    name: str
    dtype: DType
    default: Any
    doc: str


@dataclass(frozen=True, slots=True)
class ViewSpec:
    """One Feast feature view: whose it is, what it holds and how a state becomes its values.

    `values(state)` gives one value per feature, in order; the last feature is the packed state itself. A row not
    updated for `ttl_s` is treated as missing by readers.
    """

    name: str
    entity: str
    join_key: str
    ttl_s: int
    features: tuple[FeatureSpec, ...]
    values: Callable[[Any], tuple[Any, ...]]
    doc: str

    @property
    def packed(self) -> FeatureSpec:
        """The `Bytes` feature that holds the whole state."""
        return self.features[-1]


def packed_spec(view: str) -> FeatureSpec:
    """The spec of a view's packed state."""
    return FeatureSpec(f"{view}_packed", DType.BYTES, b"", "the whole state, msgpack, as the scorer reads it")
