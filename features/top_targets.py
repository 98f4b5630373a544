"""Top targets of a key: the titles engaged most for a query, from a source title or in a country.

Enters: deltas of one key. Leaves: its bounded state and the view's values. Called through `query.py`, `source_item.py`
and `country.py`.

Bound: a row holds at most 2 * CAPACITY targets. When one more comes, the CAPACITY with the greatest decayed engagement
(at the row's newest event time, ties by id) stay. A target that is evicted and comes back starts from nothing, so its
sum is too low by at most the smallest engagement that was kept when it left.
"""

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from features.bounds import Sum, TimestampMs, Total
from features.decay import DAY_MS, add_decayed, decay_factor
from features.delta import Delta, Signal
from features.spec import DType, FeatureSpec, ViewSpec, packed_spec

CAPACITY = 100
RETENTION_MS = 90 * DAY_MS
SIGNALS = ("impressions", "clicks", "plays")
_OF_EACH_SIGNAL = Meta(min_length=len(SIGNALS), max_length=len(SIGNALS))
_FOLDED = (Signal.IMPRESSION, Signal.CLICK, Signal.PLAY)


class Target(msgspec.Struct, array_like=True):
    """One target's totals and decayed sums by signal, each sum at `as_of_ms`."""

    as_of_ms: TimestampMs
    totals: Annotated[list[Total], _OF_EACH_SIGNAL]
    sums: Annotated[list[Sum], _OF_EACH_SIGNAL]


class TopTargetsState(msgspec.Struct, array_like=True):
    """The targets of one key; the newest event time and the newest broker time folded."""

    as_of_ms: TimestampMs = 0
    targets: dict[str, Target] = msgspec.field(default_factory=dict)
    touched_ms: TimestampMs = 0
    updated_ms: TimestampMs = 0


def engagement_at(target: Target, at_ms: int, half_life_ms: int) -> float:
    """Clicks and plays of a target, decayed to `at_ms`; impressions are no engagement."""
    return (target.sums[1] + target.sums[2]) * decay_factor(at_ms - target.as_of_ms, half_life_ms)


def fold_top_targets(state: TopTargetsState, delta: Delta, half_life_ms: int) -> None:
    """Add one delta, in place. A row that was idle for longer than RETENTION_MS begins anew."""
    slot = _FOLDED.index(delta.signal)
    if state.touched_ms and delta.ingested_ts_ms - state.touched_ms > RETENTION_MS:
        state.as_of_ms, state.targets = 0, {}
    state.touched_ms = max(state.touched_ms, delta.ingested_ts_ms)
    state.as_of_ms = max(state.as_of_ms, delta.event_ts_ms)
    target = state.targets.get(delta.item_id)
    if target is None:
        target = state.targets[delta.item_id] = Target(delta.event_ts_ms, [0] * len(SIGNALS), [0.0] * len(SIGNALS))
    if delta.event_ts_ms > target.as_of_ms:
        factor = decay_factor(delta.event_ts_ms - target.as_of_ms, half_life_ms)
        target.sums = [total * factor for total in target.sums]
        target.as_of_ms = delta.event_ts_ms
    target.totals[slot] += delta.amount
    target.sums[slot], _ = add_decayed(
        target.sums[slot], target.as_of_ms, delta.amount, delta.event_ts_ms, half_life_ms
    )
    if len(state.targets) > 2 * CAPACITY:
        kept = ranked_targets(state, half_life_ms)[:CAPACITY]
        state.targets = dict(sorted(kept))


def ranked_targets(state: TopTargetsState, half_life_ms: int) -> list[tuple[str, Target]]:
    """All targets, the most engaged first, ties by id."""
    return sorted(
        state.targets.items(), key=lambda pair: (-engagement_at(pair[1], state.as_of_ms, half_life_ms), pair[0])
    )


def shown_targets(state: TopTargetsState, half_life_ms: int, now_ms: int) -> tuple[list[Any], ...]:
    """The first CAPACITY targets, most engaged first, and their decayed impressions, clicks and plays at `now_ms`."""
    top = ranked_targets(state, half_life_ms)[:CAPACITY]
    factors = [decay_factor(now_ms - target.as_of_ms, half_life_ms) for _, target in top]
    sums = (
        [target.sums[slot] * factor for (_, target), factor in zip(top, factors, strict=True)]
        for slot in range(len(SIGNALS))
    )
    return [item_id for item_id, _ in top], *sums


def shown_specs(name: str, half_life_name: str) -> tuple[FeatureSpec, ...]:
    """What `shown_targets` gives."""
    return (
        FeatureSpec(f"{name}_items", DType.STRINGS, [], f"the top {CAPACITY} targets, most engaged first"),
        *(
            FeatureSpec(f"{name}_{signal}_{half_life_name}", DType.FLOAT64S, [], f"their decayed {signal} now")
            for signal in SIGNALS
        ),
    )


def top_targets_view(name: str, join_key: str, doc: str) -> ViewSpec:
    """The view of one family of top lists."""
    return ViewSpec(
        name=name,
        entity=name,
        join_key=join_key,
        ttl_s=RETENTION_MS // 1000,
        features=(
            FeatureSpec(f"{name}_as_of_ms", DType.INT64, 0, "event time of the newest engagement folded"),
            packed_spec(name),
        ),
        values=lambda state: (state.as_of_ms, msgspec.msgpack.encode(state)),
        doc=doc,
    )


def fold_with(half_life_ms: int) -> Callable[[TopTargetsState, Delta], None]:
    """The fold of a family with this half-life."""

    def fold(state: TopTargetsState, delta: Delta) -> None:
        fold_top_targets(state, delta, half_life_ms)

    return fold
