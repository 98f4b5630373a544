"""The canary: one probe event after the other through the whole pipeline, and how soon each was readable.

Enters: settings. Leaves: probe events on Kafka, freshness by view on `/metrics`. Called by `nowrank canary`.

A probe is a click of a reserved user on a reserved title (`features/probe.py`). It counts as readable in a view when
the view's named Feast feature `<view>_as_of_ms`, read from Redis as Feast's SDK reads it, has reached the click's time;
it is lost when that takes too long, or when broker or store fail. The probes take turns over the partitions, so that
one worker that stands still is noticed however many there are.
"""

import asyncio
import logging
import signal
from itertools import count
from typing import Any, NamedTuple

import aiokafka
import redis
import redis.asyncio
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from features.delta import Delta, Entity, Signal
from features.online_store import parse_address
from features.probe import probe_id
from features.rows import ITEM, USER, RowFamily, decode_int64_value, feature_field
from infra.clock import monotonic_s, now_ms
from infra.errors import SettingsError
from infra.metrics import Metrics
from infra.settings import Settings
from streams.deltas import partition_of
from streams.events import Click, encode_event
from streams.producer import new_event_id
from streams.topics import CLICKS
from streams.worker_http import WorkerHttp

VIEWS: dict[str, RowFamily] = {"session": USER, "item": ITEM}
# The time between two looks grows with what was waited so far: never coarser than a tenth of what is measured.
FIRST_LOOK_S, LAST_LOOK_S = 0.002, 0.05
LOOKS_PER_WAIT = 10
CONNECT_TIMEOUT_S = 5.0
_FIELDS = {view: feature_field(view, f"{view}_as_of_ms") for view in VIEWS}
log = logging.getLogger(__name__)


class Probe(NamedTuple):
    """A reserved user and a reserved title."""

    user_id: str
    item_id: str

    def key(self, view: str, project: str) -> bytes:
        """The Redis key of the probe's row for `view`."""
        return VIEWS[view].key(self.user_id if VIEWS[view] is USER else self.item_id, project)


def make_probes(canary_id: str, partitions: int) -> list[Probe]:
    """One probe for each partition: its user's events stand there, and so do its title's deltas."""
    numbers = list(range(partitions))
    users: dict[int, str] = {}
    items: dict[int, str] = {}
    for number in count():
        name = probe_id(canary_id, number)
        users.setdefault(DefaultPartitioner()(name.encode(), numbers, numbers), name)
        items.setdefault(partition_of(Delta(Entity.ITEM, name, name, Signal.CLICK, 1, 0, 0), partitions), name)
        if len(users) == len(items) == partitions:
            break
    return [Probe(users[partition], items[partition]) for partition in numbers]


class Canary:
    """Sends one probe at a time; connections that fail are opened anew for the next one."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.is_ready = False
        self._settings = settings
        self._metrics = metrics
        self._probes = make_probes(settings.canary_id, settings.partitions)
        # No `socket_timeout`: redis-py would wrap each write in `asyncio.wait_for`, which can swallow the cancellation
        # that ends this process. A probe has a timeout of its own.
        self._redis: Any = redis.asyncio.Redis(
            **parse_address(settings.redis),
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._producer: Any = None
        self._waits_for = "the broker"
        for result in ("seen", "lost"):  # from the start, so that an alert sees the first one that is lost
            metrics.count("nowrank_canary_probes_total", 0, result=result)

    async def run(self) -> None:
        """Probe for ever, a probe each interval; a probe that takes longer delays the next one."""
        for turn in count():
            began_s = monotonic_s()
            await self.probe(self._probes[turn % len(self._probes)])
            await asyncio.sleep(max(0.0, began_s + self._settings.canary_interval_s - monotonic_s()))

    async def probe(self, probe: Probe) -> bool:
        """Send one probe and wait until every view shows it; False when it was lost. Never raises for an outage."""
        try:
            async with asyncio.timeout(self._settings.canary_timeout_s):
                await self._send_and_watch(probe)
        except (TimeoutError, OSError, redis.RedisError, KafkaError) as error:
            why = f"{type(error).__name__} {error}".rstrip()
            log.warning("the probe of %s is lost, waiting for %s: %s", probe.user_id, self._waits_for, why)
            self.is_ready = False
            self._metrics.count("nowrank_canary_probes_total", result="lost")
            return False
        self.is_ready = True
        self._metrics.count("nowrank_canary_probes_total", result="seen")
        self._metrics.set("nowrank_canary_last_success_timestamp_seconds", now_ms() / 1000)
        return True

    async def close(self) -> None:
        """Close the connections."""
        if self._producer is not None:
            await self._producer.stop()
        await self._redis.aclose()

    async def _send_and_watch(self, probe: Probe) -> None:
        self._waits_for = "the broker"
        producer = await self._connect()
        self._waits_for = "the store"
        before_ms = await self._read(probe, list(VIEWS))
        event_ts_ms = max(now_ms(), *(as_of_ms + 1 for as_of_ms in before_ms.values()))
        event = Click(event_id=new_event_id(), user_id=probe.user_id, item_id=probe.item_id, event_ts_ms=event_ts_ms)
        began_s = monotonic_s()
        sent = await producer.send(CLICKS, encode_event(event), key=event.user_id.encode())
        sent.add_done_callback(_heed)
        waiting = list(VIEWS)
        while waiting:
            self._waits_for = " and ".join(waiting) if sent.done() else "the broker"
            as_of_ms = await self._read(probe, waiting)
            waited_s = monotonic_s() - began_s
            # A worker folds an event that is ahead of the broker's clock at the broker's time.
            at_ms = min(event_ts_ms, sent.result().timestamp) if sent.done() else event_ts_ms
            for view, seen_ms in as_of_ms.items():
                if seen_ms >= max(at_ms, before_ms[view] + 1):
                    waiting.remove(view)
                    self._metrics.observe("nowrank_canary_freshness_seconds", waited_s, view=view)
            if waiting:
                await asyncio.sleep(min(max(waited_s / LOOKS_PER_WAIT, FIRST_LOOK_S), LAST_LOOK_S))

    async def _connect(self) -> Any:
        if self._producer is None:
            producer = aiokafka.AIOKafkaProducer(
                bootstrap_servers=self._settings.kafka,
                acks="all",
                request_timeout_ms=int(self._settings.canary_timeout_s * 1000),
            )
            try:
                await producer.start()
            except BaseException:  # a start that was given up leaves connections open
                await producer.stop()
                raise
            self._producer = producer
        return self._producer

    async def _read(self, probe: Probe, views: list[str]) -> dict[str, int]:
        """The time of the newest event that each view shows; 0 for a row that does not exist."""
        pipeline = self._redis.pipeline(transaction=False)
        for view in views:
            pipeline.hget(probe.key(view, self._settings.feast_project), _FIELDS[view])
        replies = await pipeline.execute()
        return {
            view: 0 if reply is None else decode_int64_value(reply) for view, reply in zip(views, replies, strict=True)
        }


def _heed(sent: "asyncio.Future[Any]") -> None:
    """Take note of how a send ended: asyncio complains about failures that nobody looked at, after a probe was lost."""
    if not sent.cancelled():
        sent.exception()


async def watch(settings: Settings) -> None:
    """Probe until SIGTERM or SIGINT, with metrics and health over HTTP; raises `SettingsError` for a port that is
    taken.
    """
    metrics = Metrics("canary")
    canary = Canary(settings, metrics)
    http = WorkerHttp(
        settings.metrics_host, settings.canary_port, metrics, lambda: canary.is_ready, "a probe that is readable"
    )
    try:
        await http.start()
    except OSError as error:
        raise SettingsError(
            f"the canary cannot listen on NOWRANK_CANARY_PORT {settings.canary_port}: {error}"
        ) from error
    probing = asyncio.create_task(canary.run())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, probing.cancel)
    try:
        await probing
    except asyncio.CancelledError:
        log.info("stopped")
    finally:
        await http.stop()
        await canary.close()
