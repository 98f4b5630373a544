"""What the stages share: a cache of rows, the compare-and-set loop of one batch, and its checkpoints.

Enters: records of the logs that this worker holds. Leaves: rows in the online store and checkpoints. Called by
`session_agent.py`, `target_agent.py` and `label_agent.py`; `docs/decisions/0001-rows-by-compare-and-set.md` tells why
each step stands where it does.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from features.online_store import FencedStore, Row
from features.rows import RowFamily, decode_contained
from infra.clock import monotonic_s
from infra.errors import StoreFenced
from infra.metrics import Metrics
from streams.checkpoints import Checkpoint, encode_checkpoint
from streams.log_records import Record

WRITE_ATTEMPTS = 20
FRESH_WHEN_PRODUCED_MS = 10_000
# What a row takes as Python objects, for each byte of its stored form and beside: tests/streams/test_row_cache.py.
OBJECT_BYTES_PER_STORED_BYTE = 7
ROW_BYTES = 1_000
T = TypeVar("T")


class SharedStore:
    """The worker's one store connection, used by one thread at a time, off the event loop."""

    def __init__(self, store: FencedStore) -> None:
        self._store = store
        self._lock = asyncio.Lock()

    async def call(self, method: Callable[..., T], *args: Any) -> T:
        """Run a method of the fenced store; raises `StoreFenced`."""
        async with self._lock:
            return await asyncio.to_thread(method, self._store, *args)


def estimate_memory_bytes(row: Row) -> int:
    """About what a row takes in this process; too much rather than too little."""
    return ROW_BYTES + OBJECT_BYTES_PER_STORED_BYTE * row.size_bytes


class RowCache:
    """The rows that this worker has read or written last, by (family, entity value); between batches they take at most
    `limit_bytes` of memory.
    """

    def __init__(self, store: SharedStore, stage: str, metrics: Metrics, limit_bytes: int) -> None:
        self._store = store
        self._stage = stage
        self._metrics = metrics
        self._limit_bytes = limit_bytes
        self._rows: OrderedDict[tuple[str, str], Row] = OrderedDict()
        self._sizes_bytes: dict[tuple[str, str], int] = {}
        self._total_bytes = 0
        self._batch: dict[tuple[str, str], None] = {}

    def clear(self) -> None:
        """Forget everything: another worker may have written since."""
        self._rows.clear()
        self._sizes_bytes.clear()
        self._batch.clear()
        self._total_bytes = 0

    def get(self, family: RowFamily, value: str) -> Row:
        """A row that `load` has brought in."""
        return self._rows[family.name, value]

    async def load(self, wanted: Iterable[tuple[RowFamily, str]]) -> None:
        """Bring the wanted rows in, those that are missing in one round trip."""
        missing: dict[RowFamily, list[str]] = {}
        hits = 0
        for family, value in dict.fromkeys(wanted):
            self._batch[family.name, value] = None
            if (family.name, value) in self._rows:
                self._rows.move_to_end((family.name, value))
                hits += 1
            else:
                missing.setdefault(family, []).append(value)
        if hits:
            self._metrics.count("nowrank_worker_row_cache_hits_total", hits, stage=self._stage)
        if not missing:
            return
        misses = sum(map(len, missing.values()))
        self._metrics.count("nowrank_worker_row_cache_misses_total", misses, stage=self._stage)
        for family, rows in (await self._store.call(FencedStore.read_families, missing)).items():
            self._rows.update(((family.name, value), row) for value, row in zip(missing[family], rows, strict=True))

    async def reload(self, family: RowFamily, value: str) -> Row:
        """Read a row again after a refused write; raises `StoreFenced` when the store has gone back behind what was
        seen.
        """
        held = decode_contained(self._rows[family.name, value].stored)
        [row] = await self._store.call(FencedStore.read_rows, family, [value])
        if any(row.contained.get(log, -1) < offset for log, offset in held.items()):
            raise StoreFenced(
                f"a row of {family.name} went back from {held} to {row.contained}: it has expired, or the store was "
                "rolled back"
            )
        self._rows[family.name, value] = row
        return row

    def trim(self) -> None:
        """After a batch: let the rows go that were not used for longest, until the limit is kept."""
        for key in self._batch:
            size_bytes = estimate_memory_bytes(self._rows[key])
            self._total_bytes += size_bytes - self._sizes_bytes.get(key, 0)
            self._sizes_bytes[key] = size_bytes
        self._batch.clear()
        while self._total_bytes > self._limit_bytes:
            key, _ = self._rows.popitem(last=False)
            self._total_bytes -= self._sizes_bytes.pop(key)
        self._metrics.set("nowrank_worker_row_cache_bytes", self._total_bytes, stage=self._stage)


async def write_until_accepted(
    store: SharedStore,
    cache: RowCache,
    values: list[tuple[RowFamily, str]],
    refold: Callable[[Row, str], bool],
    metrics: Metrics,
    stage: str,
) -> None:
    """Write the changed rows; where another writer was first, reload, `refold(row, value)` what is not contained, and
    try again.

    `refold` returns whether it changed the row. Raises `StoreFenced` when the writer does not win within
    WRITE_ATTEMPTS.
    """
    pending = values
    for _ in range(WRITE_ATTEMPTS):
        accepted = await store.call(FencedStore.write_rows, [cache.get(family, value) for family, value in pending])
        for (family, _), is_accepted in zip(pending, accepted, strict=True):
            if is_accepted:
                metrics.count("nowrank_worker_rows_written_total", entity=family.name)
        refused = [pair for pair, is_accepted in zip(pending, accepted, strict=True) if not is_accepted]
        if not refused:
            return
        metrics.count("nowrank_worker_row_conflicts_total", len(refused), stage=stage)
        pending = []
        for family, value in refused:
            row = await cache.reload(family, value)
            if refold(row, value):
                pending.append((family, value))
        if not pending:
            return
    raise StoreFenced(f"{len(pending)} rows were refused {WRITE_ATTEMPTS} times: too many writers for the same rows")


async def move_checkpoints(
    store: SharedStore, stage: str, checkpoints: dict[str, Checkpoint], records: list[Record]
) -> None:
    """Move the checkpoints behind a batch that was applied, and write those that its records moved."""
    ends = {record.log: record.offset + 1 for record in records}
    for log, next_offset in ends.items():
        checkpoints.setdefault(log, Checkpoint()).move_to(next_offset)
    await store.call(FencedStore.write_checkpoints, stage, {log: encode_checkpoint(checkpoints[log]) for log in ends})


def measure_freshness(
    metrics: Metrics, view: str, event_ms: int, ingested_ms: int, folded_ms: int, now_ms: int
) -> None:
    """Observe how long one fresh event took: to the broker, to its fold, to be readable, and altogether."""
    steps = ("append", ingested_ms - event_ms), ("apply", folded_ms - ingested_ms), ("write", now_ms - folded_ms)
    for step, took_ms in steps:
        metrics.observe("nowrank_worker_freshness_step_seconds", max(0, took_ms) / 1000, view=view, step=step)
    metrics.observe("nowrank_worker_freshness_seconds", max(0, now_ms - event_ms) / 1000, view=view)


def measure_batch(metrics: Metrics, stage: str, records: list[Record], began_s: float, readable_ms: int) -> None:
    """Count a batch that was applied."""
    for topic, count in Counter(record.topic for record in records).items():
        metrics.count("nowrank_worker_records_total", count, topic=topic)
    metrics.observe("nowrank_worker_batch_records", len(records), stage=stage)
    metrics.observe("nowrank_worker_batch_seconds", monotonic_s() - began_s, stage=stage)
    metrics.set("nowrank_worker_last_batch_timestamp_seconds", readable_ms / 1000, stage=stage)
