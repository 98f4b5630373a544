"""The replay: a log folded in memory by exactly the folds of the stream.

Enters: labels in time order. Leaves, at each label, the state as it stood before its time: contexts, item rows, counts.
Called by the data set builder and the evaluation.

An event goes the way that it goes in production: wire event -> engagement (`streams.events.to_engagement`) ->
`fold_user` -> deltas -> the folds of `features.rows.FOLDS`; only the broker and the store between them are left out.
"""

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from features.delta import Entity
from features.engagement import TASK_NAMES, Coordinate, Kind, Thumb
from features.item import ItemState
from features.item_table import ItemTable
from features.rows import FOLDS, TARGET_FAMILIES, RowFamily
from features.text import normalise_query
from features.user import UserState, fold_user
from features.vector import Context
from model.neighbours import LARGEST_DENSE, CoPlays, last_titles
from model.sparse_co_plays import SparseCoPlays
from streams.events import Engaged, to_engagement
from streams.labels import Label, Log

PARTITION = 0


class FreshRows(Mapping[str, Any]):
    """Rows by key as readers see them at `now_ms`: those that are stale are not there."""

    def __init__(self, rows: dict[str, Any], family: RowFamily, now_ms: int) -> None:
        self._rows, self._family, self._now_ms = rows, family, now_ms

    def __getitem__(self, key: str) -> Any:
        row = self._rows[key]
        if self._family.is_stale(row.as_of_ms, self._now_ms):
            raise KeyError(key)
        return row

    def __iter__(self) -> Iterator[str]:
        return (key for key, row in self._rows.items() if not self._family.is_stale(row.as_of_ms, self._now_ms))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Replay:
    """Everything that the online store would hold, and what the model counts besides. Slots of `table` number the
    catalogue first.
    """

    def __init__(self, log: Log) -> None:
        self._table = ItemTable(capacity=max(1024, 1 << len(log.items).bit_length()))
        for item in log.items:
            self._table.set_item(item)
        self._changed: dict[int, ItemState] = {}
        self.users: dict[str, UserState] = {}
        self.targets: dict[Entity, dict[str, Any]] = {entity: {} for entity in TARGET_FAMILIES}
        self.engaged: dict[str, set[int]] = {}
        large = len(log.items) > LARGEST_DENSE
        self.co_plays = SparseCoPlays(len(self._table.sums)) if large else CoPlays(len(self._table.sums))
        # Each user's first click, play or thumb up of each title, in the order of the log: what popularity counts.
        self._counted: dict[str, set[int]] = {}
        self.counted_ms, self.counted_slots = array("q"), array("q")
        self._offsets: Counter[str] = Counter()
        self._labels = log.labels
        self._events = log.events
        self._next_event = 0
        self._next_label = 0

    @property
    def table(self) -> ItemTable:
        """The item table as it stands: rows that changed since it was last asked for are put in first."""
        if self._changed:
            for slot, state in self._changed.items():
                self._table.set_state(slot, state)
            self._changed.clear()
        return self._table

    def labels_until(self, end_ms: int) -> Iterator[Label]:
        """Each label before `end_ms` that was not taken yet, when all events strictly before its time are folded and
        none at or after it.
        """
        while self._next_label < len(self._labels) and self._labels[self._next_label].ts_ms < end_ms:
            label = self._labels[self._next_label]
            self._next_label += 1
            self.fold_until(label.ts_ms)
            yield label

    def fold_until(self, end_ms: int) -> None:
        """Fold every event before `end_ms` that is not folded yet."""
        events, at = self._events, self._next_event
        while at < len(events) and events[at].event_ts_ms < end_ms:
            self._fold(events[at])
            at += 1
        self._next_event = at

    def context(self, label: Label) -> Context:
        """The context of a label's request, from the state as it stands; to be used before the next label is taken."""
        query = normalise_query(label.query) if label.query is not None else None
        return Context(
            task=TASK_NAMES[label.task],
            now_ms=label.ts_ms,
            user=self.users.get(label.user_id) or UserState(),
            query=query or None,
            source_item_id=label.source_item_id,
            country=label.country,
            query_targets=self._rows(Entity.QUERY, label.ts_ms).get(query or ""),
            source_rows=self._rows(Entity.SOURCE_ITEM, label.ts_ms),
            country_targets=self._rows(Entity.COUNTRY, label.ts_ms).get(label.country or ""),
        )

    def _rows(self, entity: Entity, now_ms: int) -> FreshRows:
        return FreshRows(self.targets[entity], TARGET_FAMILIES[entity], now_ms)

    def recent_titles(self, user_id: str, count: int) -> list[int]:
        """The last `count` different titles that a user engaged, the newest first."""
        user = self.users.get(user_id)
        return (
            last_titles((moment.item_id for moment in reversed(user.recent)), self.table, count)
            if user is not None
            else []
        )

    def _fold(self, event: Engaged) -> None:
        engagement = to_engagement(event, broker_ts_ms=event.event_ts_ms)
        log = f"{event.topic}-{PARTITION}"
        user = self.users.get(engagement.user_id)
        if user is None:
            user = self.users[engagement.user_id] = UserState()
        slot = self._table.slot(engagement.item_id)
        engaged = self.engaged.setdefault(engagement.user_id, set())
        counted = self._counted.setdefault(engagement.user_id, set())
        if slot not in counted and (engagement.kind is not Kind.THUMB or engagement.thumb > Thumb.NONE):
            # A thumb down before it has put the title itself among the last ones.
            others = (moment.item_id for moment in reversed(user.recent) if moment.item_id != engagement.item_id)
            self.co_plays.add(slot, last_titles(others, self._table))
            self.counted_ms.append(engagement.event_ts_ms)
            self.counted_slots.append(slot)
            counted.add(slot)
        engaged.add(slot)
        folded = fold_user(user, Coordinate(log, self._offsets[log]), engagement)
        self._offsets[log] += 1
        for delta in folded.deltas:
            states = self.targets[delta.entity]
            state = states.get(delta.key)
            if state is None:
                state = states[delta.key] = TARGET_FAMILIES[delta.entity].new_state()
            FOLDS[delta.entity](state, delta)
            if delta.entity is Entity.ITEM:
                self._changed[self._table.slot(delta.key)] = state
