"""The `item` view: how much each title is engaged with, at three time scales.

Enters: deltas of one item. Leaves: its state and the view's values. Called by stage 2, the replay and the scorer's near
cache.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from features.bounds import Sum, TimestampMs, Total
from features.decay import DAY_MS, HALF_LIVES_MS, decay_factor
from features.delta import Delta, Signal
from features.spec import DType, FeatureSpec, ViewSpec, packed_spec

SIGNALS = ("impressions", "clicks", "plays", "completed_plays", "watched_ms", "thumbs_up", "thumbs_down")
HALF_LIVES = tuple(HALF_LIVES_MS.values())
SUMS = tuple(f"{signal}_{half_life}" for signal in SIGNALS for half_life in HALF_LIVES_MS)
RETENTION_MS = 90 * DAY_MS
_WIDTH = len(HALF_LIVES)
_OF_EACH_SIGNAL = Meta(min_length=len(SIGNALS), max_length=len(SIGNALS))
_OF_EACH_SUM = Meta(min_length=len(SUMS), max_length=len(SUMS))
_SLOT = {Signal.IMPRESSION: 0, Signal.CLICK: 1, Signal.PLAY: 2, Signal.THUMB_UP: 5, Signal.THUMB_DOWN: 6}
_COMPLETED, _WATCHED = 3, 4
_THUMBS = (Signal.THUMB_UP, Signal.THUMB_DOWN)


class ItemState(msgspec.Struct, array_like=True):
    """Totals by signal; for each signal and half-life, the decayed sum at `as_of_ms`, the newest event time folded;
    `began_ms` and `touched_ms` are the oldest and the newest broker time folded.
    """

    as_of_ms: TimestampMs = 0
    first_seen_ms: TimestampMs = 0
    totals: Annotated[list[Total], _OF_EACH_SIGNAL] = msgspec.field(default_factory=lambda: [0] * len(SIGNALS))
    sums: Annotated[list[Sum], _OF_EACH_SUM] = msgspec.field(default_factory=lambda: [0.0] * len(SUMS))
    began_ms: TimestampMs = 0
    touched_ms: TimestampMs = 0
    updated_ms: TimestampMs = 0


def fold_item(state: ItemState, delta: Delta) -> None:
    """Add one delta, in place; any order gives the same state up to rounding (see `decay.py`).

    A row that was idle for longer than RETENTION_MS begins anew, and then knows nothing of a thumb that came before:
    taking that back changes nothing.
    """
    at_ms = delta.event_ts_ms
    if state.touched_ms and delta.ingested_ts_ms - state.touched_ms > RETENTION_MS:
        _forget(state)
    state.began_ms = min(state.began_ms or delta.ingested_ts_ms, delta.ingested_ts_ms)
    state.touched_ms = max(state.touched_ms, delta.ingested_ts_ms)
    if delta.amount < 0 and delta.retracted_ts_ms < state.began_ms:
        return
    if at_ms > state.as_of_ms:
        if state.as_of_ms:
            factors = [decay_factor(at_ms - state.as_of_ms, half_life) for half_life in HALF_LIVES] * len(SIGNALS)
            state.sums = [total * factor for total, factor in zip(state.sums, factors, strict=True)]
        state.as_of_ms = at_ms
        weights = [1.0] * _WIDTH
    else:
        weights = [decay_factor(state.as_of_ms - at_ms, half_life) for half_life in HALF_LIVES]
    if delta.signal not in _THUMBS:  # a thumb may be taken back, and with it what it said of the first time
        state.first_seen_ms = min(state.first_seen_ms or at_ms, at_ms)
    _add(state, _SLOT[delta.signal], delta.amount, weights)
    if delta.watched_ms:
        _add(state, _WATCHED, delta.amount * delta.watched_ms, weights)
    if delta.completed:
        _add(state, _COMPLETED, delta.amount, weights)


def _forget(state: ItemState) -> None:
    state.as_of_ms = state.first_seen_ms = state.began_ms = 0
    state.totals = [0] * len(SIGNALS)
    state.sums = [0.0] * len(SUMS)


def _add(state: ItemState, slot: int, amount: int, weights: list[float]) -> None:
    state.totals[slot] += amount
    begin = slot * _WIDTH
    if state.totals[slot] == 0:
        state.sums[begin : begin + _WIDTH] = [0.0] * _WIDTH
        return
    for index, weight in enumerate(weights, begin):
        state.sums[index] += amount * weight


def _values(state: ItemState) -> tuple[Any, ...]:
    return (*state.sums, state.as_of_ms, state.first_seen_ms, msgspec.msgpack.encode(state))


VIEW = ViewSpec(
    name="item",
    entity="item",
    join_key="item_id",
    ttl_s=RETENTION_MS // 1000,
    features=(
        *(
            FeatureSpec(
                f"item_{name}",
                DType.FLOAT64,
                0.0,
                f"{name.rsplit('_', 1)[0].replace('_', ' ')}, decayed sum as of item_as_of_ms",
            )
            for name in SUMS
        ),
        FeatureSpec("item_as_of_ms", DType.INT64, 0, "event time at which the sums stand"),
        FeatureSpec("item_first_seen_ms", DType.INT64, 0, "event time of the first engagement that is no thumb"),
        packed_spec("item"),
    ),
    values=_values,
    doc="engagement with a title by anybody",
)
