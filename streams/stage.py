"""What both stages share: records, a cache of rows, and the compare-and-set loop of one batch.

Enters: records of the logs that this worker holds. Leaves: rows in the online store and checkpoints. Called by
`session_agent.py` and `target_agent.py`; `docs/decisions/0003-effectively-once.md` tells why each step stands where it
does.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from features.online_store import FencedStore, Row
from features.rows import RowFamily, decode_contained
from infra.clock import monotonic_s
from infra.errors import StoreFenced
from infra.metrics import Metrics

CACHE_ROWS = 50_000
WRITE_ATTEMPTS = 20
T = TypeVar("T")


class Record(NamedTuple):
    """One record of a log; `generation` is that of the consumer group when it was fetched."""

    topic: str
    partition: int
    offset: int
    broker_ts_ms: int
    value: bytes | None
    generation: int = 0

    @property
    def log(self) -> str:
        """The topic-partition, as rows and checkpoints name it."""
        return f"{self.topic}-{self.partition}"


class SharedStore:
    """The worker's one store connection, used by one thread at a time, off the event loop."""

    def __init__(self, store: FencedStore) -> None:
        self._store = store
        self._lock = asyncio.Lock()

    async def call(self, method: Callable[..., T], *args: Any) -> T:
        """Run a method of the fenced store; raises `StoreFenced`."""
        async with self._lock:
            return await asyncio.to_thread(method, self._store, *args)


class RowCache:
    """The rows that this worker has read or written last, by (family, entity value)."""

    def __init__(self, store: SharedStore, stage: str, metrics: Metrics) -> None:
        self._store = store
        self._stage = stage
        self._metrics = metrics
        self._rows: OrderedDict[tuple[str, str], Row] = OrderedDict()

    def clear(self) -> None:
        """Forget everything: another worker may have written since."""
        self._rows.clear()

    def get(self, family: RowFamily, value: str) -> Row:
        """A row that `load` has brought in."""
        return self._rows[family.name, value]

    async def load(self, wanted: Iterable[tuple[RowFamily, str]]) -> None:
        """Bring the wanted rows in: one round trip for each family that misses some."""
        missing: dict[str, tuple[RowFamily, list[str]]] = {}
        hits = 0
        for family, value in dict.fromkeys(wanted):
            if (family.name, value) in self._rows:
                self._rows.move_to_end((family.name, value))
                hits += 1
            else:
                missing.setdefault(family.name, (family, []))[1].append(value)
        self._metrics.count("nowrank_worker_row_cache_hits_total", hits, stage=self._stage)
        for family, values in missing.values():
            self._metrics.count("nowrank_worker_row_cache_misses_total", len(values), stage=self._stage)
            for value, row in zip(values, await self._store.call(FencedStore.read_rows, family, values), strict=True):
                self._rows[family.name, value] = row

    async def reload(self, family: RowFamily, value: str) -> Row:
        """Read a row again after a refused write; raises `StoreFenced` when the store has gone back behind what was
        seen.
        """
        key = (family.name, value)
        before = self._rows.pop(key)
        await self.load([(family, value)])
        row = self._rows[key]
        held = decode_contained(before.stored)
        if any(row.contained.get(log, -1) < offset for log, offset in held.items()):
            raise StoreFenced(
                f"a row of {family.name} went back from {held} to {row.contained}: the store was rolled back"
            )
        return row

    def trim(self) -> None:
        """Let the rows go that were not used for longest."""
        while len(self._rows) > CACHE_ROWS:
            self._rows.popitem(last=False)


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


def measure_batch(metrics: Metrics, stage: str, records: list[Record], began_s: float, readable_ms: int) -> None:
    """Count a batch that was applied."""
    for topic, count in Counter(record.topic for record in records).items():
        metrics.count("nowrank_worker_records_total", count, topic=topic)
    metrics.observe("nowrank_worker_batch_records", len(records), stage=stage)
    metrics.observe("nowrank_worker_batch_seconds", monotonic_s() - began_s, stage=stage)
    metrics.set("nowrank_worker_last_batch_timestamp_seconds", readable_ms / 1000, stage=stage)
