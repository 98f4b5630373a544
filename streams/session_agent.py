"""Stage 1: events become user rows and deltas.

Enters: records of the event topics. Leaves: user rows (views `session` and `user_history`), deltas, dead letters,
checkpoints. Called by `app.py` with one batch at a time.

One batch: decode, dead-letter what is invalid, read the users' rows, fold, send the deltas, await their
acknowledgement, write the rows, write the checkpoints. A crash between any two steps repeats the batch; what a row
contains already folds into nothing, and repeated deltas are recognised by stage 2. What cannot go on raises, and ends
the process.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from features.engagement import Coordinate, Engagement
from features.online_store import Row
from features.rows import USER
from features.user import Folded, fold_user
from infra.clock import monotonic_s, now_ms
from infra.errors import InvalidEvent
from infra.metrics import Metrics
from infra.redaction import hide_ids
from streams.checkpoints import Checkpoint
from streams.dead_letters import DeadLetter
from streams.deltas import SourcedDelta
from streams.events import decode_record, to_engagement
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

STAGE = "session"
LATE_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Decoded:
    """A record and the engagement in it."""

    record: Record
    coordinate: Coordinate
    engagement: Engagement


class SessionStage:
    """Stage 1 of one worker; `send_deltas` and `send_dead_letters` return once the broker has acknowledged,
    `count_unknown` says how many titles the catalogue does not know.
    """

    def __init__(
        self,
        store: SharedStore,
        send_deltas: Callable[[list[SourcedDelta]], Awaitable[int]],
        send_dead_letters: Callable[[list[DeadLetter]], Awaitable[None]],
        metrics: Metrics,
        future_limit_ms: int,
        cache_bytes: int,
        count_unknown: Callable[[Iterable[str]], int] = lambda item_ids: 0,
    ) -> None:
        self._store = store
        self._send_deltas = send_deltas
        self._send_dead_letters = send_dead_letters
        self._metrics = metrics
        self._future_limit_ms = future_limit_ms
        self._count_unknown = count_unknown
        self._cache = RowCache(store, STAGE, metrics, cache_bytes)
        self.checkpoints: dict[str, Checkpoint] = {}

    def begin(self, checkpoints: dict[str, Checkpoint]) -> None:
        """Forget the cache and go on at these checkpoints; called at every assignment."""
        self._cache.clear()
        self.checkpoints = checkpoints

    async def apply(self, records: list[Record]) -> None:
        """Fold one batch, in the order of `records`."""
        began_s = monotonic_s()
        decoded, dead = self._decode(records)
        await self._cache.load((USER, one.engagement.user_id) for one in decoded)
        deltas, changed, poison = self._fold(decoded)
        while poison is not None:
            dead.append(poison[1])
            decoded.remove(poison[0])
            self._cache.clear()
            await self._cache.load((USER, one.engagement.user_id) for one in decoded)
            deltas, changed, poison = self._fold(decoded)
        if dead:
            await self._send_dead_letters(dead)
            for letter in dead:
                self._metrics.count("nowrank_worker_dead_letters_total", reason=letter.reason)
        if deltas:
            self._metrics.count("nowrank_worker_deltas_total", await self._send_deltas(deltas))
        folded_ms = now_ms()
        await self._write(decoded, changed)
        await move_checkpoints(self._store, STAGE, self.checkpoints, records)
        self._cache.trim()
        self._measure(records, decoded, began_s, folded_ms)

    def _decode(self, records: list[Record]) -> tuple[list[Decoded], list[DeadLetter]]:
        decoded, dead = [], []
        for record in records:
            try:
                event = decode_record(record.topic, record.value)
                engagement = to_engagement(event, record.broker_ts_ms, self._future_limit_ms)
            except InvalidEvent as error:
                dead.append(DeadLetter.of(record, error.reason, error.message))
                continue
            if event.event_ts_ms > record.broker_ts_ms:
                self._metrics.count("nowrank_worker_clamped_events_total")
            decoded.append(Decoded(record, Coordinate(record.log, record.offset), engagement))
        return decoded, dead

    def _fold(self, decoded: list[Decoded]) -> tuple[list[SourcedDelta], list[str], tuple[Decoded, DeadLetter] | None]:
        """The deltas in order and the users whose rows changed; or the record whose fold broke."""
        deltas: list[SourcedDelta] = []
        changed: dict[str, None] = {}
        repeats = 0
        for one in decoded:
            row = self._cache.get(USER, one.engagement.user_id)
            try:
                folded = _fold_into(row, one)
            except Exception as error:  # noqa: BLE001 - whatever breaks a fold is a property of the record: a dead letter, not a crash loop
                said = hide_ids(f"{type(error).__name__}: {error}", [one.engagement.user_id])
                return [], [], (one, DeadLetter.of(one.record, "poison", said))
            repeats += folded is None or folded.duplicate
            if folded is not None:
                changed[one.engagement.user_id] = None
                deltas += [SourcedDelta(*one.coordinate, ordinal, delta) for ordinal, delta in enumerate(folded.deltas)]
        self._metrics.count("nowrank_worker_duplicates_total", repeats, stage=STAGE)
        return deltas, list(changed), None

    async def _write(self, decoded: list[Decoded], changed: list[str]) -> None:
        def refold(row: Row, user_id: str) -> bool:
            own = [one for one in decoded if one.engagement.user_id == user_id]
            folded = [_fold_into(row, one) for one in own]
            return any(one is not None for one in folded)

        if changed:
            await write_until_accepted(
                self._store, self._cache, [(USER, user_id) for user_id in changed], refold, self._metrics, STAGE
            )

    def _measure(self, records: list[Record], decoded: list[Decoded], began_s: float, folded_ms: int) -> None:
        readable_ms = now_ms()
        times_ms = [(one.engagement.event_ts_ms, one.record.broker_ts_ms) for one in decoded]
        ages_ms = [broker_ms - event_ms for event_ms, broker_ms in times_ms]
        for (event_ms, broker_ms), age_ms in zip(times_ms, ages_ms, strict=True):
            if age_ms <= FRESH_WHEN_PRODUCED_MS:
                measure_freshness(self._metrics, "session", event_ms, broker_ms, folded_ms, readable_ms)
        self._metrics.count("nowrank_worker_late_events_total", sum(age_ms > LATE_MS for age_ms in ages_ms))
        backfill = sum(age_ms > FRESH_WHEN_PRODUCED_MS for age_ms in ages_ms)
        self._metrics.count("nowrank_worker_backfill_events_total", backfill, view="session")
        for kind, count in Counter(one.engagement.kind for one in decoded).items():
            self._metrics.count("nowrank_worker_events_total", count, kind=kind.name.lower())
        engaged = (one.engagement.item_id for one in decoded if one.engagement.item_id)
        self._metrics.count("nowrank_worker_unknown_items_total", self._count_unknown(engaged))
        measure_batch(self._metrics, STAGE, records, began_s, readable_ms)


def _fold_into(row: Row, one: Decoded) -> Folded | None:
    """Fold a record into its user's row; None when the row contains it already."""
    log, offset = one.coordinate
    if row.contained.get(log, -1) >= offset:
        return None
    folded = fold_user(row.state, one.coordinate, one.engagement)
    row.contained[log] = offset
    return folded
