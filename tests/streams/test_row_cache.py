"""The row cache keeps its limit in bytes, and the estimate behind it is about right."""

import asyncio
import gc
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from features.delta import Delta, Entity, Signal
from features.engagement import Coordinate, Engagement, Kind, Thumb
from features.online_store import FencedStore
from features.rows import FOLDS, ITEM, QUERY, USER, RowFamily
from features.user import UserState, fold_user
from infra.metrics import Metrics
from infra.settings import Settings
from streams.stage import RowCache, SharedStore, estimate_memory_bytes

PROJECT = "cache_test"
NOW_MS = 1_750_000_000_000
COPIES = 60


@pytest.fixture
def store(settings: Settings, redis_client: redis.Redis) -> Iterator[FencedStore]:
    opened = FencedStore(settings.redis, PROJECT)
    yield opened
    opened.close()


def engaged_user(count: int) -> UserState:
    state = UserState()
    for number in range(count):
        kind = (Kind.CLICK, Kind.PLAY, Kind.THUMB)[number % 3]
        event = Engagement(
            kind=kind,
            event_id=f"event-{number:032}",
            user_id="u",
            event_ts_ms=NOW_MS + number,
            ingested_ts_ms=NOW_MS + number,
            item_id=f"item-{number % 700}",
            query="star wars" if number % 2 else None,
            thumb=Thumb.UP if kind is Kind.THUMB else Thumb.NONE,
        )
        fold_user(state, Coordinate(f"{kind.name}-0", number), event)
    return state


def targets(entity: Entity, family: RowFamily, count: int) -> Any:
    state = family.new_state()
    for number in range(count):
        delta = Delta(entity, "key", f"item-{number}", Signal.CLICK, 1, NOW_MS + number, NOW_MS + number)
        FOLDS[entity](state, delta)
    return state


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "make_state"),
    [
        (USER, lambda: engaged_user(1)),
        (USER, lambda: engaged_user(30)),
        (USER, lambda: engaged_user(300)),
        (USER, lambda: engaged_user(900)),
        (ITEM, lambda: targets(Entity.ITEM, ITEM, 3)),
        (QUERY, lambda: targets(Entity.QUERY, QUERY, 1)),
        (QUERY, lambda: targets(Entity.QUERY, QUERY, 100)),
    ],
)
def test_the_estimate_is_close_to_what_a_row_takes_and_rather_too_much(
    store: FencedStore, family: RowFamily, make_state: Callable[[], Any]
) -> None:
    keys = [f"row-{number}" for number in range(COPIES)]
    rows = store.read_rows(family, keys)
    for row in rows:
        row.state, row.contained = make_state(), {"plays-0": 7, "clicks-0": 9}
    assert all(store.write_rows(rows))
    del rows
    store.read_rows(family, keys)  # what is allocated once does not count
    gc.collect()
    tracemalloc.start()
    read = store.read_rows(family, keys)
    taken_bytes = tracemalloc.get_traced_memory()[0] / COPIES
    tracemalloc.stop()
    estimated_bytes = estimate_memory_bytes(read[0])
    assert 0.6 * taken_bytes < estimated_bytes < 4 * taken_bytes


def test_rows_that_were_not_used_for_longest_leave_first_and_the_limit_is_kept(store: FencedStore) -> None:
    async def load() -> RowCache:
        cache = RowCache(SharedStore(store), "target", metrics, limit_bytes=50_000)
        for number in range(200):
            await cache.load([(ITEM, "always"), (ITEM, f"item-{number}")])
            cache.trim()
        return cache

    metrics = Metrics("worker")
    cache = asyncio.run(load())
    assert cache.get(ITEM, "always").state == ITEM.new_state()
    assert cache.get(ITEM, "item-199").state == ITEM.new_state()
    with pytest.raises(KeyError):
        cache.get(ITEM, "item-0")
    held_bytes = metrics.registry.get_sample_value("nowrank_worker_row_cache_bytes", {"stage": "target"})
    assert held_bytes is not None
    assert 45_000 < held_bytes <= 50_000
