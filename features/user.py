"""The user row: one Redis hash for both user views, and the fold of stage 1.

Enters: a user's engagements, each with the log it stands in. Leaves: the user's state and the deltas for the targets'
rows. Called by stage 1 and the replay. `session.py` and `user_history.py` say what the two views show of it.

A user's events come from several logs (topic-partitions) that any worker may read in any interleaving, so every part of
the state belongs to one log and is a function of that log's own order; readers merge the parts.
"""

from bisect import insort
from collections.abc import Iterable
from hashlib import blake2b
from operator import attrgetter
from typing import NamedTuple

import msgspec

from features.bounds import TimestampMs, Weight
from features.decay import DAY_MS, add_decayed, decay_factor
from features.delta import Delta, Entity, Signal
from features.engagement import (
    Coordinate,
    EngagedKind,
    Engagement,
    Kind,
    ReactionValue,
    Thumb,
    ThumbNumber,
)

RECENT_CAPACITY = 200
TITLE_CAPACITY = 500
THUMB_CAPACITY = 500
SEEN_CAPACITY = 64
RETENTION_MS = 365 * DAY_MS
TITLE_HALF_LIFE_MS = 14 * DAY_MS
CLICK_WEIGHT, PLAY_BASE_WEIGHT = 0.2, 0.2
_THUMBS = {int(thumb): thumb for thumb in Thumb}
_THUMB_WEIGHTS = {Thumb.NONE: 0.0, Thumb.UP: 1.0, Thumb.DOUBLE_UP: 1.5, Thumb.DOWN: -2.0}


class Moment(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One remembered engagement; `value` is the watched share in percent, or the thumb."""

    event_ts_ms: TimestampMs
    id_hash: int
    kind: EngagedKind
    item_id: str
    value: ReactionValue = 0
    query: str | None = None


# Event time, then id. An id that comes back in the same log is of the same kind, and keeps the log's order.
_MOMENT_ORDER = attrgetter("event_ts_ms", "id_hash", "kind")


class Title(msgspec.Struct, array_like=True, gc=False):
    """A title's decayed weight for the user, as of `as_of_ms`, its newest engagement."""

    as_of_ms: TimestampMs
    weight: Weight


class ThumbMemory(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The newest thumb on a target; `NONE` stays as a tombstone."""

    event_ts_ms: TimestampMs
    event_id: str
    thumb: ThumbNumber
    ingested_ts_ms: TimestampMs


class LogMemory(msgspec.Struct, array_like=True):
    """What one log has told about the user, a function of that log alone."""

    titles: dict[str, Title] = msgspec.field(default_factory=dict)
    thumbs: dict[str, ThumbMemory] = msgspec.field(default_factory=dict)


class UserState(msgspec.Struct):
    """A user's row, all by log: newest engagements, memories, windows of seen event ids, the newest broker time folded.

    `recent` is derived: the newest RECENT_CAPACITY engagements of all logs, oldest first.
    """

    recents: dict[str, list[Moment]] = msgspec.field(default_factory=dict)
    logs: dict[str, LogMemory] = msgspec.field(default_factory=dict)
    seen: dict[str, list[int]] = msgspec.field(default_factory=dict)
    touched_ms: dict[str, int] = msgspec.field(default_factory=dict)
    recent: list[Moment] = msgspec.field(default_factory=list)
    updated_ms: int = 0

    def __post_init__(self) -> None:
        if self.recents:
            self.recent = newest(self.recents.values())

    @property
    def as_of_ms(self) -> int:
        """Event time of the newest engagement; 0 when there is none."""
        return self.recent[-1].event_ts_ms if self.recent else 0

    def title_weights(self, now_ms: int) -> dict[str, float]:
        """The decayed weight of every remembered title at `now_ms`, merged over the logs in order of their names."""
        weights: dict[str, float] = {}
        for log in sorted(self.logs):
            for item_id, title in self.logs[log].titles.items():
                weight = title.weight * decay_factor(now_ms - title.as_of_ms, TITLE_HALF_LIFE_MS)
                weights[item_id] = weights.get(item_id, 0.0) + weight
        return weights

    def active_thumbs(self) -> dict[str, Thumb]:
        """The thumbs in force; ones that were taken back are left out."""
        return {
            item_id: _THUMBS[memory.thumb]
            for log in sorted(self.logs)
            for item_id, memory in self.logs[log].thumbs.items()
            if memory.thumb
        }


class Folded(NamedTuple):
    """What one engagement brought: its deltas in order, and whether it was a repeat."""

    deltas: list[Delta]
    duplicate: bool


def event_id_hash(event_id: str) -> int:
    """64 bits of an event id, enough to tell the ids of one user's window apart."""
    return int.from_bytes(blake2b(event_id.encode(), digest_size=8).digest(), "big")


def fold_user(state: UserState, coordinate: Coordinate, engagement: Engagement) -> Folded:
    """Fold one engagement into its user's state, in place, and name the deltas for the targets.

    An event id that is among the last SEEN_CAPACITY of the same log changes nothing; one that repeats later than that
    counts again. A log that brought nothing for longer than RETENTION_MS (broker time) begins anew.
    """
    touched_ms = state.touched_ms.get(coordinate.log, engagement.ingested_ts_ms)
    if engagement.ingested_ts_ms - touched_ms > RETENTION_MS:
        _forget(state, coordinate.log)
    state.touched_ms[coordinate.log] = max(touched_ms, engagement.ingested_ts_ms)
    id_hash = event_id_hash(engagement.event_id)
    window = state.seen.setdefault(coordinate.log, [])
    if id_hash in window:
        return Folded([], duplicate=True)
    if engagement.kind is Kind.IMPRESSION:
        deltas = [
            delta
            for item_id in engagement.impressions
            for delta in _context_deltas(engagement, item_id, Signal.IMPRESSION)
        ]
    else:
        deltas = _fold_engaged(state, coordinate.log, engagement, id_hash)
    window.append(id_hash)
    del window[:-SEEN_CAPACITY]
    return Folded(deltas, duplicate=False)


def _fold_engaged(state: UserState, log: str, engagement: Engagement, id_hash: int) -> list[Delta]:
    memory = state.logs.setdefault(log, LogMemory())
    watched_share = engagement.watched_share
    value = int(engagement.thumb) if engagement.kind is Kind.THUMB else round(100 * watched_share)
    moment = Moment(engagement.event_ts_ms, id_hash, int(engagement.kind), engagement.item_id, value, engagement.query)
    for newest_moments in (state.recents.setdefault(log, []), state.recent):
        insort(newest_moments, moment, key=_MOMENT_ORDER)
        del newest_moments[:-RECENT_CAPACITY]
    if engagement.kind is Kind.THUMB:
        return _fold_thumb(memory, engagement)
    if engagement.kind is Kind.CLICK:
        _weigh(memory, engagement.item_id, CLICK_WEIGHT, engagement.event_ts_ms)
        return _context_deltas(engagement, engagement.item_id, Signal.CLICK)
    weight = PLAY_BASE_WEIGHT + (1 - PLAY_BASE_WEIGHT) * watched_share
    _weigh(memory, engagement.item_id, weight, engagement.event_ts_ms)
    return _context_deltas(engagement, engagement.item_id, Signal.PLAY)


def newest(recents: Iterable[list[Moment]]) -> list[Moment]:
    """The newest RECENT_CAPACITY engagements of all logs, oldest first."""
    merged = [moment for recent in recents for moment in recent]
    merged.sort(key=_MOMENT_ORDER)
    return merged[-RECENT_CAPACITY:]


def _forget(state: UserState, log: str) -> None:
    for part in (state.recents, state.logs, state.seen):
        part.pop(log, None)
    state.recent = newest(state.recents.values())


def _fold_thumb(memory: LogMemory, engagement: Engagement) -> list[Delta]:
    """A thumb replaces the earlier one: older or equal changes nothing; newer retracts what was remembered, at its own
    time, then adds.
    """
    previous = memory.thumbs.get(engagement.item_id)
    if previous is not None and (engagement.event_ts_ms, engagement.event_id) <= (
        previous.event_ts_ms,
        previous.event_id,
    ):
        return []
    deltas = []
    if previous is not None:
        _weigh(memory, engagement.item_id, -_THUMB_WEIGHTS[Thumb(previous.thumb)], previous.event_ts_ms)
        deltas += _retraction(engagement, previous)
    _weigh(memory, engagement.item_id, _THUMB_WEIGHTS[engagement.thumb], engagement.event_ts_ms)
    if engagement.thumb is not Thumb.NONE:
        item_id, signal = engagement.item_id, _signal(engagement.thumb)
        times_ms = engagement.event_ts_ms, engagement.ingested_ts_ms
        deltas.append(Delta(Entity.ITEM, item_id, item_id, signal, 1, *times_ms))
    memory.thumbs[engagement.item_id] = ThumbMemory(
        engagement.event_ts_ms, engagement.event_id, int(engagement.thumb), engagement.ingested_ts_ms
    )
    if len(memory.thumbs) > THUMB_CAPACITY:
        del memory.thumbs[min(memory.thumbs, key=lambda item_id: (memory.thumbs[item_id].event_ts_ms, item_id))]
    return deltas


def _retraction(engagement: Engagement, previous: ThumbMemory) -> list[Delta]:
    """What takes the previous thumb back: nothing when it was none."""
    if previous.thumb == Thumb.NONE:
        return []
    item_id, signal = engagement.item_id, _signal(Thumb(previous.thumb))
    times_ms = previous.event_ts_ms, engagement.ingested_ts_ms
    return [Delta(Entity.ITEM, item_id, item_id, signal, -1, *times_ms, retracted_ts_ms=previous.ingested_ts_ms)]


def _signal(thumb: Thumb) -> Signal:
    return Signal.THUMB_DOWN if thumb is Thumb.DOWN else Signal.THUMB_UP


def _weigh(memory: LogMemory, item_id: str, weight: float, at_ms: int) -> None:
    title = memory.titles.setdefault(item_id, Title(at_ms, 0.0))
    title.weight, title.as_of_ms = add_decayed(title.weight, title.as_of_ms, weight, at_ms, TITLE_HALF_LIFE_MS)
    if len(memory.titles) > TITLE_CAPACITY:
        del memory.titles[min(memory.titles, key=lambda key: (memory.titles[key].as_of_ms, key))]


def _context_deltas(engagement: Engagement, item_id: str, signal: Signal) -> list[Delta]:
    """One delta for the item's own row and one for each context that the engagement came with."""
    keys = (
        (Entity.ITEM, item_id),
        (Entity.QUERY, engagement.query),
        (Entity.SOURCE_ITEM, engagement.source_item_id),
        (Entity.COUNTRY, engagement.country),
    )
    added = engagement.event_ts_ms, engagement.ingested_ts_ms, engagement.watched_ms, engagement.completed
    return [Delta(entity, key, item_id, signal, 1, *added) for entity, key in keys if key is not None]
