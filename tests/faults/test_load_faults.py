"""Loads that are lopsided, wide or long: exact all the same, and bounded in memory and in metrics."""

import os
import statistics
import time
from itertools import combinations

import psutil
import pytest

from infra.clock import monotonic_s, now_ms
from streams.events import Click
from tests.faults.cases import Case
from tests.faults.processes import Worker, wait_until
from tests.faults.workload import Load, Workload, send
from tests.faults.world import World

pytestmark = [pytest.mark.slow, pytest.mark.alone]

EVENTS_PER_S = 300
HOT_EVENTS = 6_000
WIDE_EVENTS = 20_000  # each with five ids of its own
CACHE_BYTES = 16 * 1024 * 1024
SOAK_USERS = 20
# After so many events the remembered windows of all their rows are full, and a row grows no more.
FILLING_EVENTS = 1_000 * SOAK_USERS
SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "180"))
WARM_UP_SHARE = 1 / 3
# An allocator takes its last steps late on a slow machine; what leaks rises in every stretch of the watch.
STRETCHES = 3
SAMPLE_S = 1.0
# The embedded broker slows down with the number of batches in a log; fewer, larger ones keep that out of a long soak.
SOAK_TICK_S = 0.5
MEGABYTE = 1024 * 1024
RSS_SLOPE_MB_PER_MINUTE = 0.6
LAG_SLOPE_PER_MINUTE = 0.01 * 60 * EVENTS_PER_S


def test_hot_key(world: World, case: Case) -> None:
    case.expects("half of all events one user, half one title: every row equal")
    workload = Workload(seed=41, hot=True)
    world.worker("worker-0").keep().wait_until_ready()
    world.worker("worker-1").keep().wait_until_ready()
    send(world.settings, workload.take(HOT_EVENTS))
    case.observes(world.check_exact(workload))


def test_100_000_distinct_ids(world: World, case: Case) -> None:
    case.expects("the metric series stay the same ones, the row cache keeps its limit; every row equal")
    worker = world.worker(row_cache_bytes=CACHE_BYTES).keep()
    worker.wait_until_ready()
    workload = Workload(seed=42)
    send(world.settings, workload.take(1_000))
    world.settle()
    wait_until(lambda: any(name.startswith("nowrank_worker_lag") for name in worker.metrics()), "the lag is measured")
    before = set(worker.metrics())
    workload.sent += [
        Click(
            event_id=f"wide-event-{number:012d}", user_id=f"wide-user-{number}", item_id=f"wide-item-{number}",
            query=f"wide query {number}", source_item_id=f"wide-source-{number}", event_ts_ms=now_ms() - 1_000,
        )
        for number in range(WIDE_EVENTS)
    ]  # fmt: skip
    send(world.settings, workload.sent[-WIDE_EVENTS:])
    compared = world.check_exact(workload)
    assert set(worker.metrics()) == before
    held_bytes = worker.metric("nowrank_worker_row_cache_bytes")
    assert 0 < held_bytes <= CACHE_BYTES
    assert worker.exit_codes == []
    case.observes(f"{len(before)} series before and after, cache {held_bytes / MEGABYTE:.0f} MB; {compared}")


@pytest.mark.timeout(STRETCHES * SOAK_SECONDS + 300)
def test_soak(world: World, case: Case) -> None:
    case.expects(f"{SOAK_SECONDS:g} s: memory and lag become flat; every row equal")
    workload = Workload(seed=43, users=SOAK_USERS)
    worker = world.worker().keep()
    worker.wait_until_ready()
    send(world.settings, workload.take(FILLING_EVENTS))
    world.settle()
    with Load(world.settings, workload, EVENTS_PER_S, SOAK_TICK_S):
        _watch(worker, WARM_UP_SHARE * SOAK_SECONDS)
        for _ in range(STRETCHES):
            rss_mb, lag = _watch(worker, (1 - WARM_UP_SHARE) * SOAK_SECONDS)
            rss_slope, lag_slope = _slope_per_minute(rss_mb), _slope_per_minute(lag)
            if rss_slope < RSS_SLOPE_MB_PER_MINUTE and lag_slope < LAG_SLOPE_PER_MINUTE:
                break
    assert worker.exit_codes == []
    compared = world.check_exact(workload)
    case.observes(
        f"memory {rss_slope:+.2f} MB/min at {statistics.mean(rss_mb.values()):.0f} MB, lag {lag_slope:+.0f}/min at "
        f"{statistics.mean(lag.values()):.0f}; {compared}"
    )
    assert rss_slope < RSS_SLOPE_MB_PER_MINUTE, rss_mb
    assert lag_slope < LAG_SLOPE_PER_MINUTE, lag
    assert statistics.median(lag.values()) < EVENTS_PER_S, lag


def _watch(worker: Worker, seconds: float) -> tuple[dict[float, float], dict[float, float]]:
    """Memory of all of the worker's processes in MB, and records of lag, by the second."""
    parent = psutil.Process(worker.pid)
    processes = [parent, *parent.children(recursive=True)]
    rss_mb, lag = {}, {}
    began_s = monotonic_s()
    while (elapsed_s := monotonic_s() - began_s) < seconds:
        rss_mb[elapsed_s] = sum(process.memory_info().rss for process in processes) / MEGABYTE
        lag[elapsed_s] = worker.metric("nowrank_worker_lag_records")
        time.sleep(SAMPLE_S)  # the interval of the samples
    return rss_mb, lag


def _slope_per_minute(samples: dict[float, float]) -> float:
    """The median slope between two samples (Theil and Sen): a step, as after a stall of the machine, is no growth."""
    pairs = combinations(samples.items(), 2)
    return 60 * statistics.median((later - earlier) / (end_s - begin_s) for (begin_s, earlier), (end_s, later) in pairs)
