"""The delta: what one engagement adds to one target's row.

Enters: engagements folded by stage 1. Leaves: `Delta`s, which travel on the delta log to the stage that owns their row.
Written by `user.py`, folded by `item.py` and `top_targets.py`.
"""

from enum import IntEnum

import msgspec


class Entity(IntEnum):
    """Whose row a delta changes. The numbers are on the delta log: never reuse one."""

    ITEM = 0
    QUERY = 1
    SOURCE_ITEM = 2
    COUNTRY = 3


class Signal(IntEnum):
    """What a delta adds. The numbers are on the delta log: never reuse one."""

    IMPRESSION = 0
    CLICK = 1
    PLAY = 2
    THUMB_UP = 3
    THUMB_DOWN = 4


class Delta(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`amount` (+1, or -1 for a retraction) of `signal` for `item_id` in the row of `key`, at the engagement's own
    time; `ingested_ts_ms` is the broker's time of the record that caused it, `retracted_ts_ms` that of the one that a
    retraction takes back.
    """

    entity: Entity
    key: str
    item_id: str
    signal: Signal
    amount: int
    event_ts_ms: int
    ingested_ts_ms: int
    watched_ms: int = 0
    completed: bool = False
    retracted_ts_ms: int = 0
