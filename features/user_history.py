"""The `user_history` view: what the user has always liked.

Enters: a user's state. Leaves: the view's values. Called by stage 1 and `vector.py`.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from features.spec import DType, FeatureSpec, ViewSpec, packed_spec
from features.user import RECENT_CAPACITY, RETENTION_MS, UserState

SHOWN = 500


def top_titles(state: UserState, now_ms: int, count: int) -> list[tuple[str, float]]:
    """The `count` titles of greatest weight at `now_ms`, ties by id."""
    return heaviest_titles(state.title_weights(now_ms), count)


def heaviest_titles(weights: dict[str, float], count: int) -> list[tuple[str, float]]:
    """The `count` titles of greatest weight, ties by id."""
    pairs: Iterable[tuple[str, float]] = weights.items()
    if len(weights) > 2 * count:
        least = sorted(weights.values())[-count]
        pairs = [pair for pair in pairs if pair[1] >= least]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:count]


def _values(state: UserState) -> tuple[Any, ...]:
    return state.as_of_ms, msgspec.msgpack.encode(state.logs)


def shown_history(state: UserState, now_ms: int) -> tuple[list[Any], ...]:
    """HISTORY's values at `now_ms`, in order."""
    top = top_titles(state, now_ms, SHOWN)
    thumbs = sorted(state.active_thumbs().items())
    return (
        [item_id for item_id, _ in top],
        [weight for _, weight in top],
        [item_id for item_id, _ in thumbs],
        [int(thumb) for _, thumb in thumbs],
        [moment.item_id for moment in state.recent],
        [moment.kind for moment in state.recent],
        [moment.event_ts_ms for moment in state.recent],
    )


VIEW = ViewSpec(
    name="user_history",
    entity="user",
    join_key="user_id",
    ttl_s=RETENTION_MS // 1000,
    features=(
        FeatureSpec("user_history_as_of_ms", DType.INT64, 0, "event time of the newest engagement"),
        packed_spec("user_history"),
    ),
    values=_values,
    doc="decayed weight by title, and the thumbs in force",
)
HISTORY = (
    FeatureSpec("user_history_items", DType.STRINGS, [], f"the {SHOWN} titles of greatest weight, the heaviest first"),
    FeatureSpec("user_history_weights_14d", DType.FLOAT64S, [], "their decayed weights now"),
    FeatureSpec("user_history_thumb_items", DType.STRINGS, [], "titles with a thumb in force"),
    FeatureSpec("user_history_thumbs", DType.INT64S, [], "their thumbs: 1 up, 2 double up, -1 down"),
    FeatureSpec(
        "user_history_engaged_items",
        DType.STRINGS,
        [],
        f"titles of the last {RECENT_CAPACITY} engagements, oldest first",
    ),
    FeatureSpec("user_history_engaged_kinds", DType.INT64S, [], "their kinds: 1 click, 2 play, 3 thumb"),
    FeatureSpec("user_history_engaged_ts_ms", DType.INT64S, [], "their event times"),
)
