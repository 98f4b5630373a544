"""Memory: what a user and an item take in Redis and in a worker, and what a million of each would.

Enters: a running broker and store, a number of users and items. Leaves: bytes. Called by `streams.py` and
`saturation.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.contenders import wait_until_applied
from benchmarks.load import append
from benchmarks.mix import Loaded, to_loaded
from benchmarks.processes import Worker
from benchmarks.progress import Progress
from features.online_store import connect
from features.rows import ITEM, USER, RowFamily
from infra.clock import now_ms
from infra.settings import Settings
from streams.events import Click, Engaged, Play, Thumb, decode_engaged

MILLION = 1_000_000
SAMPLED_ROWS = 2_000
HOUR_MS = 3_600_000
PRIME = 7_919


@dataclass(frozen=True, slots=True)
class StoredRows:
    """The mean size of rows in Redis (`MEMORY USAGE`), and how many events each row holds."""

    user_bytes: float
    events_per_user: float
    item_bytes: float
    events_per_item: float


def measure_rows(settings: Settings, records: Sequence[Loaded]) -> StoredRows:
    """The rows that a log of engagements has left."""
    events = [decode_engaged(record.value) for record in records]
    users = list(dict.fromkeys(event.user_id for event in events))
    items = list(dict.fromkeys(event.item_id for event in events))
    return StoredRows(
        user_bytes=_mean_bytes(settings, USER, users),
        events_per_user=len(events) / len(users),
        item_bytes=_mean_bytes(settings, ITEM, items),
        events_per_item=len(events) / len(items),
    )


def measure_memory(settings: Settings, entities: int, of_mix: StoredRows) -> dict[str, Any]:
    """Let a worker fold three events of each of `entities` users about as many items, then weigh everything."""
    progress = Progress(settings)
    client: Any = connect(settings.redis)
    records = [to_loaded(event, settings.partitions) for event in one_rating_each(entities)]
    with Worker(settings) as worker:
        worker.wait_until_ready()
        empty_rss_bytes, empty_redis_bytes = worker.rss_bytes(), client.info("memory")["used_memory"]
        append(settings.kafka, records)
        progress.note(records)
        wait_until_applied(worker, progress)
        rss_bytes, redis_bytes = worker.rss_bytes(), client.info("memory")["used_memory"]
        cache_bytes = worker.counters()["nowrank_worker_row_cache_bytes"]
    progress.close()
    light = measure_rows(settings, records)
    return {
        "users": entities,
        "items": entities,
        "events": len(records),
        "redis_bytes_per_user": {"light": round(light.user_bytes), "mix": round(of_mix.user_bytes)},
        "redis_bytes_per_item": {"light": round(light.item_bytes), "mix": round(of_mix.item_bytes)},
        "events_per_user": {"light": light.events_per_user, "mix": round(of_mix.events_per_user, 1)},
        "events_per_item": {"light": light.events_per_item, "mix": round(of_mix.events_per_item, 1)},
        "redis_growth_bytes": redis_bytes - empty_redis_bytes,
        "redis_bytes_per_million": per_million(light, of_mix),
        "formula": "1,000,000 x bytes per row; bytes per user at e events: light + (e - 3) x (mix - light) / "
        "(events per user in the mix - 3), up to the rows' capacities",
        "worker_rss_bytes": {"no_rows": empty_rss_bytes, "all_rows": rss_bytes},
        "worker_row_cache_bytes": {"counted": cache_bytes, "limit": settings.row_cache_bytes},
        "worker_rss_bytes_at_million": worker_rss_bytes(empty_rss_bytes, rss_bytes, cache_bytes, settings),
    }


def per_million(light: StoredRows, of_mix: StoredRows) -> dict[str, dict[str, int]]:
    """Redis bytes of a million rows, with three events each and with as many as in the mix."""
    return {
        "users": {"light": round(MILLION * light.user_bytes), "mix": round(MILLION * of_mix.user_bytes)},
        "items": {"light": round(MILLION * light.item_bytes), "mix": round(MILLION * of_mix.item_bytes)},
    }


def worker_rss_bytes(empty_bytes: int, full_bytes: int, cache_bytes: float, settings: Settings) -> int:
    """A worker's memory whatever the number of rows: empty + the cache's limit x (growth / bytes that the cache
    counted).
    """
    growth = (full_bytes - empty_bytes) / cache_bytes if cache_bytes else 0.0
    return round(empty_bytes + settings.row_cache_bytes * growth)


def one_rating_each(entities: int) -> Iterator[Engaged]:
    """A click, a play and a thumb of every user, each user about another item."""
    at_ms = now_ms() - HOUR_MS
    for number in range(entities):
        common: dict[str, Any] = {
            "user_id": f"user-{number}",
            "item_id": f"item-{number * PRIME % entities}",
            "event_ts_ms": at_ms + number,
            "country": "US",
            "task": "pre_query",
        }
        yield Click(event_id=f"benchmark-click-{number}", **common)
        yield Play(event_id=f"benchmark-play-{number}", watched_ms=90_000, duration_ms=100_000, **common)
        yield Thumb(event_id=f"benchmark-thumb-{number}", value="up", **common)


def _mean_bytes(settings: Settings, family: RowFamily, values: Sequence[str]) -> float:
    client: Any = connect(settings.redis)
    sampled = values[:: max(1, len(values) // SAMPLED_ROWS)]
    pipeline = client.pipeline(transaction=False)
    for value in sampled:
        pipeline.memory_usage(family.key(value, settings.feast_project), samples=0)
    sizes = pipeline.execute()
    return float(sum(size or 0 for size in sizes) / len(sampled))
