"""Probes: from produce to readable in the store, beside a bare round trip from produce to consume.

Enters: a running worker. Leaves: the times of both views and of the bare round trip. Called by `freshness.py`.

A probe is one click of a probe user on a probe title, sent alone and at once. It is readable when Feast's named fields
`session_as_of_ms` and `item_as_of_ms` of its two rows hold its event time, looked at every POLL_S. After each probe one
record makes the bare trip on a topic of its own, so both meet the same load. All clocks are this process's.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

import aiokafka

from benchmarks.mix import partition_of
from features.online_store import connect
from features.rows import ITEM, USER, encode_value, feature_field
from features.spec import DType
from infra.clock import monotonic_s, now_ms
from infra.settings import Settings
from streams.events import Click, encode_event
from streams.producer import new_event_id
from streams.topics import FOLDED_TOPICS

POLL_S = 0.002
# Between probes, drawn evenly: the fetches of consumers come in steps, and probes must not fall into step with them.
PAUSE_S = (0.01, 0.06)
PROBES = 8
ECHO_TOPIC = "benchmark-echo"
_ECHO = aiokafka.TopicPartition(ECHO_TOPIC, 0)
LOST_S = 30.0
SESSION_FIELD = feature_field("session", "session_as_of_ms")
ITEM_FIELD = feature_field("item", "item_as_of_ms")


@dataclass(slots=True)
class Trips:
    """Milliseconds of each probe and of each bare trip; a probe that is lost ends the measurement."""

    session_ms: list[float] = field(default_factory=list)
    target_ms: list[float] = field(default_factory=list)
    bare_ms: list[float] = field(default_factory=list)
    is_lost: bool = False

    @property
    def sent(self) -> int:
        """Probes that were sent."""
        return len(self.session_ms) + self.is_lost


async def probe_for(settings: Settings, seconds: float) -> Trips:
    """Send probes and bare records in turn, one after the other, for so long; the bare consumer holds its partition
    only.
    """
    trips, draw, number = Trips(), random.Random(0), 0
    client: Any = connect(settings.redis)
    async with _bare_clients(settings, [_ECHO]) as (producer, echo):
        until_s = monotonic_s() + seconds
        while monotonic_s() < until_s:
            seen = await _probe(settings, client, producer, f"benchmark-probe-{number % PROBES}")
            if seen is None:
                trips.is_lost = True
                break
            trips.session_ms.append(seen[0])
            trips.target_ms.append(seen[1])
            await asyncio.sleep(draw.uniform(*PAUSE_S))
            trips.bare_ms.append(await _round_trip(producer, echo))
            await asyncio.sleep(draw.uniform(*PAUSE_S))
            number += 1
    client.close()
    return trips


async def bare_trips_for(settings: Settings, seconds: float) -> list[float]:
    """Milliseconds of bare trips with a consumer that holds the worker's partitions too, and so all of its load."""
    numbers = range(settings.partitions)
    partitions = [aiokafka.TopicPartition(topic, number) for topic in FOLDED_TOPICS for number in numbers]
    trips_ms, draw = [], random.Random(0)
    async with _bare_clients(settings, [_ECHO, *partitions]) as (producer, echo):
        until_s = monotonic_s() + seconds
        while monotonic_s() < until_s:
            trips_ms.append(await _round_trip(producer, echo))
            await asyncio.sleep(draw.uniform(*PAUSE_S))
    return trips_ms


@asynccontextmanager
async def _bare_clients(settings: Settings, partitions: list[Any]) -> AsyncIterator[tuple[Any, Any]]:
    """A producer that waits for nothing, and a consumer at the end of `partitions`, with the worker's fetch wait."""
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=settings.kafka, acks="all", linger_ms=0)
    echo = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=settings.kafka, auto_offset_reset="earliest", fetch_max_wait_ms=settings.fetch_wait_ms
    )
    await producer.start()
    await echo.start()
    try:
        echo.assign(partitions)
        await echo.seek_to_end(*(tp for tp in partitions if tp != _ECHO))
        await _round_trip(producer, echo)
        yield producer, echo
    finally:
        await echo.stop()
        await producer.stop()


async def _probe(settings: Settings, client: Any, producer: Any, probe: str) -> tuple[float, float] | None:
    """Milliseconds until the session view, and until the item view, show a click sent now; None after LOST_S."""
    at_ms = now_ms()
    wanted = encode_value(DType.INT64, at_ms)
    click = Click(event_id=new_event_id(), user_id=probe, item_id=probe, event_ts_ms=at_ms)
    key = probe.encode()
    user_key, item_key = USER.key(probe, settings.feast_project), ITEM.key(probe, settings.feast_project)
    seen_ms: dict[str, float] = {}
    began_s = monotonic_s()
    await producer.send(
        click.topic,
        encode_event(click),
        key=key,
        partition=partition_of(key, settings.partitions),
        timestamp_ms=at_ms,
    )
    while len(seen_ms) < 2:
        pipeline = client.pipeline(transaction=False)
        pipeline.hget(user_key, SESSION_FIELD).hget(item_key, ITEM_FIELD)
        for view, value in zip(("session", "item"), pipeline.execute(), strict=True):
            if value == wanted:
                seen_ms.setdefault(view, 1000 * (monotonic_s() - began_s))
        if monotonic_s() - began_s > LOST_S:
            return None
        await asyncio.sleep(POLL_S)
    return seen_ms["session"], seen_ms["item"]


async def _round_trip(producer: Any, echo: Any) -> float:
    """Milliseconds from send to receive of one record."""
    sent = str(new_event_id()).encode()
    began_s = monotonic_s()
    await producer.send(ECHO_TOPIC, sent, partition=0)
    while (await asyncio.wait_for(echo.getone(), LOST_S)).value != sent:
        pass  # background load, or an earlier trip
    return 1000 * (monotonic_s() - began_s)


def percentile(values: list[float], percent: int) -> float | None:
    """A percentile of measured values, linear between neighbours; None for fewer than two."""
    if len(values) < 2:
        return None
    return round(quantiles(values, n=100, method="inclusive")[percent - 1], 2)


def summarise(trips: Trips) -> dict[str, Any]:
    """p50 and p99 of each, and the ratio of the medians to the bare trip's."""
    measured = {"session": trips.session_ms, "target": trips.target_ms, "bare": trips.bare_ms}
    medians = {name: percentile(values, 50) for name, values in measured.items()}
    return {
        **{f"{name}_ms": {"p50": medians[name], "p99": percentile(values, 99)} for name, values in measured.items()},
        "ratio": {view: _ratio(medians[view], medians["bare"]) for view in ("session", "target")},
        "probes": len(trips.session_ms),
    }


def _ratio(ours_ms: float | None, bare_ms: float | None) -> float | None:
    return round(ours_ms / bare_ms, 3) if ours_ms is not None and bare_ms else None
