"""The stream worker: one Faust app with both stages, crash-only.

Enters: settings. Leaves: a running worker. Called by `nowrank worker`.

Faust gives the consumer group, the assignment of partitions and the flow of records. Where each log begins is ours: at
every assignment the consumer seeks to the checkpoints that stand in the online store beside the rows. What a worker
cannot continue from ends the process; its supervisor starts a new one, which begins at the checkpoints.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, NoReturn

import aiokafka
import faust
from faust.transport.drivers import aiokafka as driver

from features.online_store import FencedStore
from infra.metrics import Metrics
from infra.settings import Settings
from streams.batcher import Batcher
from streams.dead_letters import DeadLetter, encode_dead_letter
from streams.deltas import SourcedDelta, send_deltas
from streams.session_agent import STAGE as SESSION_STAGE
from streams.session_agent import SessionStage
from streams.stage import Record, SharedStore
from streams.target_agent import STAGE as TARGET_STAGE
from streams.target_agent import TargetStage
from streams.topics import DEAD_LETTERS, DELTAS, EVENT_TOPICS
from streams.worker_http import WorkerHttp

HEARTBEAT_S = 0.5
LOOK_TIMEOUT_S = 5.0
ANEW = "Empty the store and start anew."
MAX_REQUEST_BYTES = 1024 * 1024
CANNOT_CONTINUE = 70
log = logging.getLogger(__name__)


def end_process(reason: str) -> NoReturn:
    """End the process at once: what was not acknowledged will be read again from the checkpoints."""
    log.critical("this worker cannot continue and ends: %s", reason)
    logging.shutdown()
    sys.stderr.flush()
    os._exit(CANNOT_CONTINUE)


async def or_end(work: Awaitable[None], what: str) -> None:
    """Await `work`; whatever it raises ends the process (an exception in a Faust agent would acknowledge and lose its
    batch).
    """
    try:
        await work
    except asyncio.CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 - the process's edge
        end_process(f"{what}: {type(error).__name__}: {error}")


class Runtime:
    """What the two stages of one worker process share: the fenced store, the producer, the assignment."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.store = SharedStore(FencedStore(settings.redis, settings.feast_project))
        self.session_stage = SessionStage(
            self.store, self._send_deltas, self._send_dead_letters, metrics, settings.future_limit_s * 1000
        )
        self.target_stage = TargetStage(self.store, self._send_dead_letters, metrics)
        self.generation = -1
        self.is_ready = False
        self._busy = {SESSION_STAGE: asyncio.Lock(), TARGET_STAGE: asyncio.Lock()}
        self._producer: Any = None

    async def start(self) -> None:
        """Connect the producer of deltas and dead letters.

        It need not be idempotent: one message a partition is under way at a time, and stage 2 recognises one that was
        written twice.
        """
        self._producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=self.settings.kafka, acks="all", max_request_size=MAX_REQUEST_BYTES
        )
        await self._producer.start()

    async def stop(self) -> None:
        """Disconnect the producer."""
        if self._producer is not None:
            await self._producer.stop()

    async def begin(self, consumer: Any) -> dict[Any, int]:
        """At an assignment: forget what was cached, read the checkpoints, and say where each assigned log goes on."""
        async with self._busy[SESSION_STAGE], self._busy[TARGET_STAGE]:
            self.generation = consumer.app.consumer_generation_id
            session = self.session_stage.begin(await self.store.call(FencedStore.read_checkpoints, SESSION_STAGE))
            target = self.target_stage.begin(await self.store.call(FencedStore.read_checkpoints, TARGET_STAGE))
        checkpoints = {**session, **target}
        assigned = consumer.assignment()
        first = await consumer.earliest_offsets(*assigned)
        ends = await consumer.highwaters(*assigned)
        starts = {}
        for tp in assigned:
            name = f"{tp.topic}-{tp.partition}"
            starts[tp] = checkpoint = checkpoints.get(name, first[tp])
            if checkpoint < first[tp]:
                end_process(
                    f"{name} goes on at {checkpoint} but its log begins at {first[tp]}: "
                    f"{first[tp] - checkpoint} records are lost. {ANEW}"
                )
            if checkpoint > ends[tp] and not await self._is_in_log(tp, checkpoint - 1):
                end_process(
                    f"{name} goes on at {checkpoint} but its log ends at {ends[tp]}: this is another log. {ANEW}"
                )
        return starts

    async def _is_in_log(self, tp: Any, offset: int) -> bool:
        """Whether the log holds a record at `offset`: the embedded broker reports ends that are too low, so look."""
        reader = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=self.settings.kafka, auto_offset_reset="none", enable_auto_commit=False
        )
        await reader.start()
        try:
            reader.assign([tp])
            reader.seek(tp, offset)
            records = await asyncio.wait_for(reader.getone(), LOOK_TIMEOUT_S)
        except (TimeoutError, aiokafka.errors.KafkaError):
            return False
        finally:
            await reader.stop()
        return bool(records.offset == offset)

    async def apply(self, stage: str, events: list[Any]) -> None:
        """Fold one batch of Faust events; records of an earlier assignment are left to whoever holds their partition
        now.
        """
        async with self._busy[stage]:
            records = [record for record in map(_to_record, events) if record.generation == self.generation]
            if records:
                await (self.session_stage if stage == SESSION_STAGE else self.target_stage).apply(records)

    async def heartbeat(self, consumer: Any) -> None:
        """Check the fence and measure the lag, twice a second, for ever."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            await self.store.call(FencedStore.write_checkpoints, SESSION_STAGE, {})
            self._measure_lag(consumer)

    def _measure_lag(self, consumer: Any) -> None:
        positions = {**self.session_stage.next_offsets, **self.target_stage.next_offsets}
        lags = dict.fromkeys((*EVENT_TOPICS, DELTAS), 0)
        for tp in consumer.assignment():
            end = consumer.highwater(tp)
            if end is not None:
                lags[tp.topic] += max(0, end - positions.get(f"{tp.topic}-{tp.partition}", 0))
        for topic, lag in lags.items():
            self.metrics.set("nowrank_worker_lag_records", lag, topic=topic)

    async def _send_deltas(self, deltas: list[SourcedDelta]) -> int:
        async def send(partition: int, message: bytes) -> None:
            await self._producer.send_and_wait(DELTAS, value=message, partition=partition)

        return await send_deltas(deltas, self.settings.partitions, send)

    async def _send_dead_letters(self, letters: list[DeadLetter]) -> None:
        for letter in letters:
            await self._producer.send_and_wait(DEAD_LETTERS, value=encode_dead_letter(letter), key=letter.name.encode())


def _to_record(event: Any) -> Record:
    message = event.message
    return Record(
        message.topic,
        message.partition,
        message.offset,
        round(message.timestamp * 1000),
        message.value,
        message.generation_id,
    )


class _ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's consumer thread with a fetch wait of our own (Faust hard-codes 1,500 ms)."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = self.app.runtime.settings.fetch_wait_ms
        return consumer


class _Consumer(driver.Consumer):  # type: ignore[misc]
    """Faust's consumer, which begins each log at our checkpoint instead of the group's committed offset."""

    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def seek_to_committed(self) -> dict[Any, int]:
        runtime: Runtime = self.app.runtime
        runtime.is_ready = False
        offsets: dict[Any, int] = {}

        async def begin() -> None:
            offsets.update(await runtime.begin(self))
            await self.seek_wait(offsets)

        await or_end(begin(), "the assignment could not begin")
        log.info("assigned %s", {f"{tp.topic}-{tp.partition}": offset for tp, offset in sorted(offsets.items())})
        runtime.is_ready = True
        return offsets


class _Transport(driver.Transport):  # type: ignore[misc]
    Consumer = _Consumer


class _App(faust.App):  # type: ignore[misc]
    """The Faust app, which knows its runtime."""

    runtime: Runtime

    async def on_first_start(self) -> None:
        await or_end(self.runtime.start(), "the producer could not start")
        await super().on_first_start()

    def _new_transport(self) -> _Transport:
        return _Transport(self.conf.broker_consumer, self)


def create_app(settings: Settings, metrics: Metrics) -> faust.App:
    """The Faust app of a worker; connects to the store at once and to the broker when it starts."""
    data_dir = Path(settings.state_dir) / "faust" / settings.worker_id
    data_dir.mkdir(parents=True, exist_ok=True)
    app = _App(
        "nowrank",
        broker=[f"kafka://{address}" for address in settings.kafka.split(",")],
        autodiscover=False,
        broker_heartbeat_interval=1.0,
        broker_max_poll_records=4 * settings.batch_max_events,
        broker_session_timeout=settings.broker_session_timeout_s,
        consumer_auto_offset_reset="earliest",
        datadir=str(data_dir),
        store="memory://",
        stream_wait_empty=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )
    runtime = app.runtime = Runtime(settings, metrics)
    http = WorkerHttp(settings.metrics_host, settings.metrics_port, metrics, lambda: runtime.is_ready)

    def add_stage(stage: str, *topics: str) -> None:
        async def apply(events: list[Any]) -> None:
            await or_end(runtime.apply(stage, events), f"stage {stage}")

        batcher = Batcher(apply, settings.batch_max_events)

        async def agent(stream: Any) -> None:
            async for event in stream.events():
                await batcher.put(event)

        channel = app.topic(*topics, key_serializer="raw", value_serializer="raw", value_type=bytes)
        app.agent(channel, name=f"{stage}-stage", concurrency=1)(agent)
        app.task(batcher.run)

    add_stage(SESSION_STAGE, *EVENT_TOPICS)
    add_stage(TARGET_STAGE, DELTAS)

    @app.on_before_shutdown.connect  # type: ignore[untyped-decorator]
    async def stop(*_: Any, **__: Any) -> None:
        await http.stop()
        await runtime.stop()

    @app.task  # type: ignore[untyped-decorator]
    async def run() -> None:
        await or_end(http.start(), "the worker's HTTP endpoint")
        await or_end(runtime.heartbeat(app.consumer), "the heartbeat")

    return app


def run_worker(settings: Settings) -> None:
    """Run a worker until SIGTERM or SIGINT; exits the process."""
    app = create_app(settings, Metrics("worker"))
    faust.Worker(
        app, loglevel=settings.log_level, override_logging=False, redirect_stdouts=False
    ).execute_from_commandline()
