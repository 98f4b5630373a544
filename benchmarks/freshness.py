"""A worker under a steady load: its freshness.

Enters: a folder for servers, the mix, a rate. Leaves: freshness at that rate, and whether the worker kept up. Called by
`streams.py`.
"""

import asyncio
import json
import time
from pathlib import Path
from typing import Any, Self

from kafka.admin import KafkaAdminClient, NewTopic

from benchmarks.load import write_records
from benchmarks.mix import Loaded, Mix
from benchmarks.probes import ECHO_TOPIC, bare_trips_for, percentile, probe_for, summarise
from benchmarks.processes import Child, Worker, environment, python_module
from benchmarks.progress import Progress
from benchmarks.servers import running_servers
from infra.settings import Settings

SETTLE_S = 3.0
READY_TIMEOUT_S = 60.0


def measure_freshness(folder: Path, mix: Mix, rate_per_s: float, seconds: float) -> dict[str, Any]:
    """Freshness of a new worker on new servers, under a load of `rate_per_s` (0: none)."""
    with running_servers(folder) as (settings, _), Worker(settings) as worker:
        _create_echo_topic(settings)
        worker.wait_until_ready()
        progress = Progress(settings)
        records = mix.take(round(rate_per_s * (SETTLE_S + 1.25 * seconds)), settings.partitions)
        try:
            return _measure_at(settings, worker, progress, records, rate_per_s, seconds)
        finally:
            progress.close()


def _measure_at(
    settings: Settings, worker: Worker, progress: Progress, records: list[Loaded], rate_per_s: float, seconds: float
) -> dict[str, Any]:
    with Load(settings, records, rate_per_s) as load:
        load.begin()
        time.sleep(SETTLE_S if records else 0)
        before = worker.usage()
        trips = asyncio.run(probe_for(settings, seconds))
        used = before.until(worker.usage())
        shared_ms = asyncio.run(bare_trips_for(settings, seconds / 4))
        steps_s = worker.means("nowrank_worker_freshness_step_seconds")
        sent_per_s = load.finish()
        behind = len(records) + trips.sent - progress.events_applied()
    return {
        "asked_per_s": round(rate_per_s, 1),
        "sent_per_s": sent_per_s,
        "kept_up": behind <= max(1.0, rate_per_s) and not trips.is_lost,
        "behind_at_the_end": behind,
        "worker_cores": round(used.cpu_s / used.at_s, 2),
        **summarise(trips),
        "workers_own_steps_mean_ms": {name: round(1000 * mean_s, 2) for name, mean_s in steps_s.items()},
        "bare_with_workers_partitions_ms": {"p50": percentile(shared_ms, 50), "p99": percentile(shared_ms, 99)},
    }


class Load:
    """The process that keeps up a steady load; does nothing when there are no records."""

    def __init__(self, settings: Settings, records: list[Loaded], rate_per_s: float) -> None:
        self._process: Child | None = None
        if not records:
            return
        path = settings.state_dir / "load.msgpack"
        write_records(path, records)
        command = python_module("benchmarks.load", settings.kafka, str(path), str(rate_per_s))
        self._process = Child(command, environment(settings), settings.state_dir / "logs" / "load.log")
        self._timeout_s = READY_TIMEOUT_S + 3 * len(records) / rate_per_s

    def begin(self) -> None:
        """Begin to send."""
        if self._process is not None:
            self._process.wait_for_line("ready", READY_TIMEOUT_S)
            self._process.say("begin")

    def finish(self) -> float:
        """Wait until everything is acknowledged; the rate that was reached."""
        if self._process is None:
            return 0.0
        return float(json.loads(self._process.wait_for_line("}", self._timeout_s))["per_s"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.stop()


def _create_echo_topic(settings: Settings) -> None:
    admin = KafkaAdminClient(bootstrap_servers=settings.kafka.split(","))
    try:
        admin.create_topics([NewTopic(ECHO_TOPIC, 1, 1)])
    finally:
        admin.close()
