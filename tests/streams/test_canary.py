"""The canary on a real broker and a real Redis: what it measures, what it calls lost, what it survives."""

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import redis
from aiokafka.partitioner import DefaultPartitioner
from kafka import KafkaConsumer
from prometheus_client import generate_latest

from features.delta import Delta, Entity, Signal
from features.engagement import Coordinate
from features.online_store import FencedStore, read_states
from features.probe import is_probe, probe_id
from features.rows import FOLDS, ITEM, TARGET_FAMILIES, USER
from features.user import fold_user
from infra.clock import monotonic_s, now_ms
from infra.embedded import EmbeddedServers
from infra.embedded.servers import free_port
from infra.errors import BrokerUnavailable
from infra.metrics import Metrics
from infra.settings import Settings, child_environment
from streams.canary import Canary, Probe, make_probes
from streams.deltas import partition_of
from streams.events import decode_record, to_engagement
from streams.topics import CLICKS, create_topics

pytestmark = pytest.mark.slow


def until(condition: Callable[[], object], timeout_s: float = 30) -> None:
    deadline_s = monotonic_s() + timeout_s
    pause = threading.Event()
    while not condition():
        assert monotonic_s() < deadline_s, "the condition did not come true in time"
        pause.wait(0.02)


class Worker:
    """Folds probes as a worker does, in a thread: the real folds and the real store without Faust."""

    def __init__(self, settings: Settings, *, only_users: bool = False) -> None:
        self._settings = settings
        self._only_users = only_users
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Worker":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        store = FencedStore(self._settings.redis, self._settings.feast_project)
        consumer = KafkaConsumer(
            CLICKS,
            bootstrap_servers=self._settings.kafka,
            group_id=None,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=20,
        )
        while not self._stop.is_set():
            for records in consumer.poll(timeout_ms=50).values():
                for record in records:
                    self._fold(store, record)
        consumer.close()
        store.close()

    def _fold(self, store: FencedStore, record: object) -> None:
        value, offset, partition = record.value, record.offset, record.partition  # type: ignore[attr-defined]
        if b"nowrank-probe-" not in value:
            return  # the topics are shared with other tests
        engagement = to_engagement(decode_record(CLICKS, value), record.timestamp)  # type: ignore[attr-defined]
        log = f"{CLICKS}-{partition}"
        [row] = store.read_rows(USER, [engagement.user_id])
        if row.contained.get(log, -1) >= offset:
            return
        deltas = fold_user(row.state, Coordinate(log, offset), engagement).deltas
        row.contained[log] = offset
        assert store.write_rows([row]) == [True]
        for delta in [] if self._only_users else deltas:
            [row] = store.read_rows(TARGET_FAMILIES[delta.entity], [delta.key])
            FOLDS[delta.entity](row.state, delta)
            row.contained["deltas-0"] = row.contained.get("deltas-0", -1) + 1
            assert store.write_rows([row]) == [True]


def exposed(metrics: Metrics) -> dict[str, float]:
    lines = generate_latest(metrics.registry).decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def probe_times(settings: Settings, probe: Probe, times: int = 1) -> tuple[list[bool], Metrics]:
    """What became of some probes, one after the other."""
    metrics = Metrics("canary")

    async def run() -> list[bool]:
        canary = Canary(settings, metrics)
        try:
            return [await canary.probe(probe) for _ in range(times)]
        finally:
            await canary.close()

    return asyncio.run(run()), metrics


@pytest.fixture
def probe(redis_client: redis.Redis) -> Probe:
    """A probe of this test's own, for the topics are shared; the store is empty."""
    redis_client.flushdb()
    name = str(uuid.uuid4())
    return Probe(probe_id(name, 0), probe_id(name, 1))


def test_a_probe_that_is_folded_is_seen_in_both_views_and_measured_once_in_each(topics: Settings, probe: Probe) -> None:
    with Worker(topics):
        results, metrics = probe_times(topics, probe, 5)
    found = exposed(metrics)
    assert results == [True] * 5
    for view in ("session", "item"):
        assert found[f'nowrank_canary_freshness_seconds_count{{view="{view}"}}'] == 5
        assert 0 < found[f'nowrank_canary_freshness_seconds_sum{{view="{view}"}}'] < 5 * topics.canary_timeout_s
    assert found['nowrank_canary_probes_total{result="seen"}'] == 5
    assert found['nowrank_canary_probes_total{result="lost"}'] == 0
    assert found["nowrank_canary_last_success_timestamp_seconds"] > 1_600_000_000


def test_a_probe_leaves_one_click_of_the_reserved_user_on_the_reserved_title(
    topics: Settings, probe: Probe, redis_client: redis.Redis
) -> None:
    with Worker(topics):
        probe_times(topics, probe, 3)
        user, item = read_states(redis_client, topics.feast_project, [(USER, probe.user_id), (ITEM, probe.item_id)])
    assert [moment.item_id for moment in user.recent] == [probe.item_id] * 3
    assert item.totals == [0, 3, 0, 0, 0, 0, 0]
    assert is_probe(probe.user_id)
    assert is_probe(probe.item_id)


def test_a_probe_that_nobody_folds_is_lost_and_an_older_row_is_not_taken_for_it(topics: Settings, probe: Probe) -> None:
    with Worker(topics):
        assert probe_times(topics, probe, 1)[0] == [True]
    results, metrics = probe_times(replace(topics, canary_timeout_s=0.5), probe, 2)
    assert results == [False, False]
    found = exposed(metrics)
    assert found['nowrank_canary_probes_total{result="lost"}'] == 2
    assert 'nowrank_canary_freshness_seconds_count{view="session"}' not in found
    assert found["nowrank_canary_last_success_timestamp_seconds"] == 0


def test_a_stage_2_that_stands_still_loses_the_probe_though_the_session_showed_it(
    topics: Settings, probe: Probe
) -> None:
    seen = 'nowrank_canary_freshness_seconds_count{view="session"}'
    found: dict[str, float] = {}
    with Worker(topics, only_users=True):
        while seen not in found:  # a machine that stands still loses the session too
            results, metrics = probe_times(replace(topics, canary_timeout_s=2.0), probe, 1)
            assert results == [False]
            found = exposed(metrics)
    assert found[seen] == 1
    assert 'nowrank_canary_freshness_seconds_count{view="item"}' not in found


def test_a_row_that_is_ahead_of_this_clock_does_not_pass_for_a_probe_seen(
    topics: Settings, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock went back by a minute: the row holds a newer time than any that the clock gives."""
    with Worker(topics):
        assert probe_times(topics, probe, 1)[0] == [True]
    monkeypatch.setattr("streams.canary.now_ms", lambda: now_ms() - 60_000)
    assert probe_times(replace(topics, canary_timeout_s=0.5), probe, 1)[0] == [False]
    with Worker(topics):
        assert probe_times(topics, probe, 2)[0] == [True, True]


def test_a_clock_that_is_ahead_of_the_brokers_is_no_lost_probe(
    topics: Settings, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers clamp such an event to the broker's time."""
    monkeypatch.setattr("streams.canary.now_ms", lambda: now_ms() + 60_000)
    with Worker(topics):
        assert probe_times(topics, probe, 2)[0] == [True, True]


def test_probes_cover_every_partition_of_events_and_of_deltas_and_are_always_the_same() -> None:
    for partitions in (1, 4, 32):
        numbers = list(range(partitions))
        probes = make_probes("canary-0", partitions)
        users = [DefaultPartitioner()(probe.user_id.encode(), numbers, numbers) for probe in probes]
        items = [
            partition_of(Delta(Entity.ITEM, probe.item_id, probe.item_id, Signal.CLICK, 1, 0, 0), partitions)
            for probe in probes
        ]
        assert users == items == numbers
        assert probes == make_probes("canary-0", partitions)
        assert not set(probes) & set(make_probes("canary-1", partitions))


def test_no_broker_and_no_store_are_lost_probes_and_no_error(tmp_path: Path) -> None:
    nowhere = Settings(
        kafka=f"127.0.0.1:{free_port()}", redis=f"127.0.0.1:{free_port()}", state_dir=tmp_path, canary_timeout_s=1.0
    )
    results, metrics = probe_times(nowhere, Probe(probe_id("x", 0), probe_id("x", 1)), 2)
    assert results == [False, False]
    assert exposed(metrics)['nowrank_canary_probes_total{result="lost"}'] == 2


def test_a_canary_goes_on_when_broker_and_store_come_back(tmp_path: Path, probe: Probe) -> None:
    with EmbeddedServers(tmp_path) as servers:
        settings = Settings(kafka=servers.kafka, redis=servers.redis, state_dir=tmp_path, canary_timeout_s=2.0)
        create_topics(settings)
        metrics = Metrics("canary")
        results: list[bool] = []

        async def run() -> None:
            canary = Canary(settings, metrics)

            async def seen() -> None:
                while not await canary.probe(probe):
                    results.append(False)
                results.append(True)

            try:
                with Worker(settings):
                    await seen()
                servers.kill("redis")
                await asyncio.to_thread(until, lambda: servers.restarts("redis") == 1)
                await asyncio.to_thread(until, lambda: _answers(settings))
                with Worker(settings):
                    await seen()
                servers.kill("broker")
                assert not await canary.probe(probe)
                await asyncio.to_thread(until, lambda: servers.restarts("broker") == 1)
                await asyncio.to_thread(until, lambda: _created(settings))
                redis.Redis.from_url(f"redis://{settings.redis}").flushdb()  # its rows counted the lost log
                with Worker(settings):
                    await asyncio.wait_for(seen(), 60)
            finally:
                await canary.close()

        asyncio.run(run())
        assert results[0] is True
        assert results.count(True) == 3


def _answers(settings: Settings) -> bool:
    try:
        return bool(redis.Redis.from_url(f"redis://{settings.redis}").ping())
    except redis.RedisError:
        return False


def _created(settings: Settings) -> bool:
    try:
        create_topics(settings)
    except BrokerUnavailable:
        return False
    return True


def test_a_probe_ends_when_it_is_cancelled_whatever_it_waits_for(topics: Settings) -> None:
    moments = random.Random(7)

    async def run() -> None:
        canary = Canary(replace(topics, canary_timeout_s=5.0), Metrics("canary"))
        [probe, *_] = make_probes(topics.canary_id, topics.partitions)
        try:
            assert await canary.probe(probe) is False  # connected now; there is no worker
            for _ in range(150):
                probing = asyncio.create_task(canary.probe(probe))
                await asyncio.sleep(moments.uniform(0.001, 0.006))
                probing.cancel()
                assert await asyncio.wait([probing], timeout=30) == ({probing}, set())
                assert probing.cancelled(), "it went on until its own timeout"
        finally:
            await canary.close()

    asyncio.run(run())


def test_the_command_serves_health_and_metrics_and_ends_on_sigterm(topics: Settings) -> None:
    port = free_port()
    settings = replace(topics, canary_port=port, canary_interval_s=0.2, canary_timeout_s=1.0)
    command = [sys.executable, "-P", "-m", "nowrank.cli", "canary"]
    with (
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http,
        subprocess.Popen(command, env=child_environment(settings), stderr=subprocess.PIPE, text=True) as process,
    ):
        try:
            until(lambda: _status(http, "/health/live") == 200)
            until(lambda: _lost(http) > 0)
            assert http.get("/health/ready").json() == {"status": "waiting for a probe that is readable"}
            with Worker(topics):
                until(lambda: _status(http, "/health/ready") == 200)
        finally:
            os.kill(process.pid, signal.SIGTERM)
            _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert "is lost, waiting for session and item: TimeoutError" in errors
    assert "Traceback" not in errors


def _status(http: httpx.Client, path: str) -> int:
    try:
        return http.get(path).status_code
    except httpx.HTTPError:
        return 0


def _lost(http: httpx.Client) -> float:
    found = re.search(r'probes_total\{result="lost"\} (\S+)', http.get("/metrics").text)
    return float(found[1]) if found else 0.0
