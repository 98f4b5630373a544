"""Stage 2: deltas become item, query, source-item and country rows.

Enters: messages of the delta log. Leaves: target rows and checkpoints. Called by `app.py` with one batch at a time.

A repeat is a delta whose source's (offset, ordinal) is not higher than the highest one seen before it in the delta log:
this map is part of the checkpoint, so that the decision depends on the log's prefix only. A row contains the offset of
the last message with a delta for it; all of one message's deltas for a row go into one write.
"""

from collections.abc import Awaitable, Callable

import msgspec

from features.delta import Delta
from features.online_store import Row
from features.rows import FOLDS, TARGET_FAMILIES, RowFamily
from infra.clock import monotonic_s, now_ms
from infra.metrics import Metrics
from streams.checkpoints import Checkpoint
from streams.dead_letters import DeadLetter
from streams.deltas import SourcedDelta, decode_deltas
from streams.log_records import Record
from streams.stage import (
    FRESH_WHEN_PRODUCED_MS,
    RowCache,
    SharedStore,
    measure_batch,
    measure_freshness,
    move_checkpoints,
    write_until_accepted,
)

STAGE = "target"


class RowDeltas(msgspec.Struct):
    """What one batch holds for one row: (its message, delta) in log order."""

    family: RowFamily
    key: str
    deltas: list[tuple[Record, Delta]]


RowsOfBatch = dict[tuple[str, str], RowDeltas]
Dead = tuple[Record, str]


class PoisonDelta(Exception):
    """A delta broke its fold; carries its place among the row's deltas."""


class TargetStage:
    """Stage 2 of one worker."""

    def __init__(
        self,
        store: SharedStore,
        send_dead_letters: Callable[[list[DeadLetter]], Awaitable[None]],
        metrics: Metrics,
        cache_bytes: int,
    ) -> None:
        self._store = store
        self._send_dead_letters = send_dead_letters
        self._metrics = metrics
        self._cache = RowCache(store, STAGE, metrics, cache_bytes)
        self.checkpoints: dict[str, Checkpoint] = {}

    def begin(self, checkpoints: dict[str, Checkpoint]) -> None:
        """Forget the cache and go on at these checkpoints; called at every assignment."""
        self._cache.clear()
        self.checkpoints = checkpoints

    async def apply(self, records: list[Record]) -> None:
        """Fold one batch of delta messages, in the order of `records`."""
        began_s = monotonic_s()
        by_row, dead = self._group(records)
        changed = None
        while changed is None:
            await self._cache.load((own.family, own.key) for own in by_row.values())
            changed = self._fold(by_row, dead)
        if dead:
            await self._send_dead_letters([DeadLetter.of(record, "poison", message) for record, message in dead])
            self._metrics.count("nowrank_worker_dead_letters_total", len(dead), reason="poison")
        folded_ms = now_ms()
        if changed:
            await write_until_accepted(
                self._store,
                self._cache,
                changed,
                lambda row, key: self._refold(row, by_row[row.family.name, key]),
                self._metrics,
                STAGE,
            )
        await move_checkpoints(self._store, STAGE, self.checkpoints, records)
        self._cache.trim()
        self._measure(records, by_row, began_s, folded_ms)

    def _fold(self, by_row: RowsOfBatch, dead: list[Dead]) -> list[tuple[RowFamily, str]] | None:
        """The rows that changed; None after a delta broke its fold: it is dead, and the batch must be folded anew."""
        changed = []
        for own in by_row.values():
            try:
                if self._refold(self._cache.get(own.family, own.key), own):
                    changed.append((own.family, own.key))
            except PoisonDelta as poison:
                place = poison.args[0]
                record, delta = own.deltas.pop(place)
                dead.append((record, f"{delta}: {poison.__cause__!r}"))
                self._cache.clear()
                return None
        return changed

    def _group(self, records: list[Record]) -> tuple[RowsOfBatch, list[Dead]]:
        """The batch's new deltas by row, repeats dropped; moves the checkpoints on in memory."""
        by_row: RowsOfBatch = {}
        dead: list[Dead] = []
        for record in records:
            checkpoint = self.checkpoints.setdefault(record.log, Checkpoint())
            checkpoint.move_to(record.offset + 1)
            try:
                message = decode_deltas(record.value or b"")
            except msgspec.DecodeError as error:
                dead.append((record, f"not a message of deltas: {error}"))
                continue
            for sourced in message:
                if not self._is_new(checkpoint, sourced):
                    self._metrics.count("nowrank_worker_duplicates_total", stage=STAGE)
                    continue
                delta = sourced.delta
                family = TARGET_FAMILIES[delta.entity]
                own = by_row.setdefault((family.name, delta.key), RowDeltas(family, delta.key, []))
                own.deltas.append((record, delta))
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
        for place, (record, delta) in enumerate(own.deltas):
            if before.get(record.log, -1) >= record.offset:
                continue
            try:
                FOLDS[delta.entity](row.state, delta)
            except Exception as error:  # whatever breaks a fold is a property of the delta
                raise PoisonDelta(place) from error
            row.contained[record.log] = record.offset
        return row.contained != before

    def _measure(self, records: list[Record], by_row: RowsOfBatch, began_s: float, folded_ms: int) -> None:
        readable_ms = now_ms()
        for own in by_row.values():
            for _, delta in own.deltas:
                if delta.amount > 0 and delta.ingested_ts_ms - delta.event_ts_ms <= FRESH_WHEN_PRODUCED_MS:
                    times_ms = delta.event_ts_ms, delta.ingested_ts_ms, folded_ms, readable_ms
                    measure_freshness(self._metrics, own.family.name, *times_ms)
        measure_batch(self._metrics, STAGE, records, began_s, readable_ms)
