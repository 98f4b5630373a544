"""A worker under a steady load: its freshness, and the greatest load that it keeps up with.

Enters: a folder for servers, the mix, a rate. Leaves: freshness at that rate, and whether the worker kept up. Called by
`streams.py`.

Saturation is the sustainable throughput of Karimov et al., Benchmarking Distributed Stream Data Processing Systems
(ICDE 2018): the load, offered while it is worked on, at which nothing piles up. How fast a worker drains a log that is
already there is another figure, and a higher one: nothing is produced meanwhile.
"""

import asyncio
import json
import time
from collections.abc import Callable
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
# Of the rate at which a worker drains a log, the greatest first.
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
MAX_BEHIND_S = 0.25
READY_TIMEOUT_S = 60.0


def find_saturation(
    folder: Path, mix: Mix, drained_per_s: float, seconds: float, say: Callable[[str], None]
) -> tuple[float, list[dict[str, Any]]]:
    """The greatest of SHARES of `drained_per_s` that a worker keeps up with, and what was seen at each that was tried:
    the least of them, and not kept up with, when it keeps up with none.
    """
    tried = []
    for share in SHARES:
        rate_per_s = share * drained_per_s
        seen = measure_freshness(folder / f"{share:.0%}", mix, rate_per_s, seconds)
        tried.append({name: seen[name] for name in ("asked_per_s", "sent_per_s", "kept_up", "behind_at_the_end")})
        p50_ms = f"session {seen['session_ms']['p50']} ms, target {seen['target_ms']['p50']} ms"
        say(f"{rate_per_s:,.0f} events/s: {p50_ms}, {'kept up' if seen['kept_up'] else 'fell behind'}")
        if seen["kept_up"]:
            break
    return rate_per_s, tried


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
    figures = summarise(trips)
    target_ms = figures["target_ms"]["p50"]  # None: so slow that there are too few for a median
    return {
        "asked_per_s": round(rate_per_s, 1),
        "sent_per_s": sent_per_s,
        "kept_up": not trips.is_lost
        and behind <= max(1.0, MAX_BEHIND_S * rate_per_s)
        and target_ms is not None
        and target_ms <= 1000 * MAX_BEHIND_S,
        "behind_at_the_end": behind,
        "worker_cores": round(used.cpu_s / used.at_s, 2),
        **figures,
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
