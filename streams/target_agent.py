"""Stage 2: deltas become item, query, source-item and country rows.

Enters: messages of the delta log. Leaves: target rows and checkpoints. Called by `app.py` with one batch at a time.

A repeat is a delta whose source's (offset, ordinal) is not higher than the highest one seen before it in the delta log:
this map is part of the checkpoint, so that the decision depends on the log's prefix only. A row contains the offset of
the last message with a delta for it; all of one message's deltas for a row go into one write.
"""

from collections.abc import Awaitable, Callable

import msgspec

from features.delta import Delta
from features.online_store import FencedStore, Row
from features.rows import FOLDS, TARGET_FAMILIES, RowFamily
from infra.clock import monotonic_s, now_ms
from infra.metrics import Metrics
from streams.dead_letters import DeadLetter
from streams.deltas import SourcedDelta, decode_deltas
from streams.session_agent import FRESH_WHEN_PRODUCED_MS
from streams.stage import Record, RowCache, SharedStore, measure_batch, write_until_accepted

STAGE = "target"
Highest = dict[str, tuple[int, int]]


class Checkpoint(msgspec.Struct, array_like=True):
    """Where a delta log goes on, and the highest (offset, ordinal) of each source seen before that."""

    next_offset: int = 0
    highest: Highest = msgspec.field(default_factory=dict)


class RowDeltas(msgspec.Struct):
    """What one batch holds for one row: (message log, message offset, delta) in log order."""

    family: RowFamily
    key: str
    deltas: list[tuple[str, int, Delta]]


class TargetStage:
    """Stage 2 of one worker."""

    def __init__(
        self, store: SharedStore, send_dead_letters: Callable[[list[DeadLetter]], Awaitable[None]], metrics: Metrics
    ) -> None:
        self._store = store
        self._send_dead_letters = send_dead_letters
        self._metrics = metrics
        self._cache = RowCache(store, STAGE, metrics)
        self.checkpoints: dict[str, Checkpoint] = {}

    def begin(self, checkpoints: dict[str, bytes]) -> dict[str, int]:
        """Forget the cache and return the next offset of each log that has a checkpoint; called at every assignment."""
        self._cache.clear()
        self.checkpoints = {log: msgspec.msgpack.decode(value, type=Checkpoint) for log, value in checkpoints.items()}
        return self.next_offsets

    @property
    def next_offsets(self) -> dict[str, int]:
        """The next offset of each delta log."""
        return {log: checkpoint.next_offset for log, checkpoint in self.checkpoints.items()}

    async def apply(self, records: list[Record]) -> None:
        """Fold one batch of delta messages, in the order of `records`."""
        began_s = monotonic_s()
        by_row, dead = self._group(records)
        await self._cache.load((own.family, own.key) for own in by_row.values())
        changed = [
            (own.family, own.key) for own in by_row.values() if self._refold(self._cache.get(own.family, own.key), own)
        ]
        if dead:
            await self._send_dead_letters(dead)
            self._metrics.count("nowrank_worker_dead_letters_total", len(dead), reason="poison")
        if changed:
            await write_until_accepted(
                self._store,
                self._cache,
                changed,
                lambda row, key: self._refold(row, by_row[row.family.name, key]),
                self._metrics,
                STAGE,
            )
        logs = {record.log for record in records}
        await self._store.call(
            FencedStore.write_checkpoints, STAGE, {log: msgspec.msgpack.encode(self.checkpoints[log]) for log in logs}
        )
        self._cache.trim()
        self._measure(records, by_row, began_s)

    def _group(self, records: list[Record]) -> tuple[dict[tuple[str, str], RowDeltas], list[DeadLetter]]:
        """The batch's new deltas by row, repeats dropped; moves the checkpoints on in memory."""
        by_row: dict[tuple[str, str], RowDeltas] = {}
        dead = []
        for record in records:
            checkpoint = self.checkpoints.setdefault(record.log, Checkpoint())
            checkpoint.next_offset = max(checkpoint.next_offset, record.offset + 1)
            try:
                message = decode_deltas(record.value or b"")
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                dead.append(DeadLetter.of(record, "poison", f"not a message of deltas: {error}"))
                continue
            for sourced in message:
                if not self._is_new(checkpoint, sourced):
                    self._metrics.count("nowrank_worker_duplicates_total", stage=STAGE)
                    continue
                delta = sourced.delta
                family = TARGET_FAMILIES[delta.entity]
                own = by_row.setdefault((family.name, delta.key), RowDeltas(family, delta.key, []))
                own.deltas.append((record.log, record.offset, delta))
        return by_row, dead

    @staticmethod
    def _is_new(checkpoint: Checkpoint, sourced: SourcedDelta) -> bool:
        place = (sourced.offset, sourced.ordinal)
        if place <= checkpoint.highest.get(sourced.log, (-1, -1)):
            return False
        checkpoint.highest[sourced.log] = place
        return True

    @staticmethod
    def _refold(row: Row, own: RowDeltas) -> bool:
        """Fold the messages that the row does not contain yet; returns whether there were any."""
        before = dict(row.contained)
        for log, offset, delta in own.deltas:
            if before.get(log, -1) >= offset:
                continue
            FOLDS[delta.entity](row.state, delta)
            row.contained[log] = offset
        return row.contained != before

    def _measure(self, records: list[Record], by_row: dict[tuple[str, str], RowDeltas], began_s: float) -> None:
        readable_ms = now_ms()
        sent_ms = {(record.log, record.offset): record.broker_ts_ms for record in records}
        for own in by_row.values():
            for log, offset, delta in own.deltas:
                if sent_ms[log, offset] - delta.event_ts_ms <= FRESH_WHEN_PRODUCED_MS:
                    freshness_s = max(0, readable_ms - delta.event_ts_ms) / 1000
                    self._metrics.observe("nowrank_worker_freshness_seconds", freshness_s, view=own.family.name)
        measure_batch(self._metrics, STAGE, records, began_s, readable_ms)
