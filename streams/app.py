"""The stream worker: one Faust app with one stage or both, crash-only.

Enters: settings. Leaves: a running worker. Called by `nowrank worker`.

Faust gives the consumer group, the assignment of partitions and the flow of records. Where each log begins is ours: at
every assignment the consumer seeks to the checkpoints that stand in the online store beside the rows. What a worker
cannot continue from ends the process; its supervisor starts a new one, which begins at the checkpoints.
"""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import faust
import uvloop
from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import ConsumerMessage

from infra.metrics import Metrics
from infra.settings import STAGES, Settings
from streams.batcher import Batcher
from streams.holes import Holes
from streams.log_records import Record
from streams.runtime import TOPICS_OF, Runtime, or_end
from streams.worker_http import WorkerHttp

HOLE_PAUSE_S = 0.01
MAX_WAITING_CHUNKS = 16
SWITCH_INTERVAL_S = 0.0005
log = logging.getLogger(__name__)


class _ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's consumer thread with a fetch wait of our own (Faust hard-codes 1,500 ms)."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = self.app.runtime.settings.fetch_wait_ms
        return consumer


class _Chunk(ConsumerMessage):  # type: ignore[misc]
    """What one fetch brought of one topic-partition: to Faust a single message, which stands at its last offset."""

    __slots__ = ("records",)
    records: list[Record]

    @classmethod
    def of(cls, tp: Any, fetched: list[Any], generation: int) -> "_Chunk":
        last = fetched[-1]
        chunk = cls(
            *(tp.topic, tp.partition, last.offset, last.timestamp / 1000, last.timestamp_type),
            *([], None, b"", None, 0, 0, tp),
            generation_id=generation,
        )
        chunk.records = [
            Record(tp.topic, tp.partition, one.offset, one.timestamp, one.value, generation) for one in fetched
        ]
        return chunk


class _Consumer(driver.Consumer):  # type: ignore[misc]
    """Faust's consumer, which begins each log at our checkpoint instead of the group's committed offset, and hands on
    chunks instead of single records: Faust's own work for a message costs more than decoding and folding an event.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._handed_on: dict[Any, int] = {}  # where each log goes on behind the newest chunk, or its checkpoint
        self._holes = Holes()

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[Any, ConsumerMessage]]:
        fetched, active = await self._wait_next_records(timeout)
        generation = self.app.consumer_generation_id
        if fetched is None or self.should_stop:
            return
        if not self.flow_active:
            await self.perform_seek()  # a rebalance is under way: what was fetched is fetched again
            return
        for tp, own in fetched.items():
            if not own or (active is not None and tp not in active and tp not in self._buffered_partitions):
                continue
            if not self.flow_active or self.app.consumer_generation_id != generation:
                return
            begin = self._handed_on.get(tp, own[0].offset)
            if self._holes.may_fill(tp, begin, own):
                await self._fetch_again(tp, begin, generation)
                continue
            self._handed_on[tp] = own[-1].offset + 1
            yield tp, _Chunk.of(tp, own, generation)

    async def _fetch_again(self, tp: Any, begin: int, generation: int) -> None:
        with contextlib.suppress(IllegalStateError):  # a rebalance has taken it
            await self._thread.seek_wait({tp: begin})
        if self.app.consumer_generation_id != generation:
            await self.perform_seek()  # `begin` might be further on than the new assignment's checkpoint
        await asyncio.sleep(HOLE_PAUSE_S)

    def next_offset(self, tp: Any, folded: int) -> int:
        """Where a log that is folded up to the offset `folded` goes on: behind what is passed and holds no records,
        like the marks that end transactions.
        """
        if self._handed_on.get(tp, 0) > folded:
            return folded
        assignment = self._thread._ensure_consumer()._subscription.subscription.assignment
        state = assignment.state_value(TopicPartition(tp.topic, tp.partition)) if assignment else None
        return max(folded, state.position) if state and state.has_valid_position else folded

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        """Nothing: what Faust takes for a gap is the rest of a chunk."""

    def _new_offset(self, tp: Any) -> int | None:
        """What the group commits, for lag monitoring only; Faust's own way keeps every offset between two chunks."""
        acked, self._acked[tp] = self._acked[tp], []
        self._acked_index[tp].clear()
        return max(acked) + 1 if acked else None

    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def seek_to_committed(self) -> dict[Any, int]:
        runtime: Runtime = self.app.runtime
        runtime.is_ready = False
        offsets: dict[Any, int] = {}

        async def begin() -> None:
            offsets.update(await runtime.begin(self))
            await self.seek_wait(offsets)
            self._handed_on = dict(offsets)

        await or_end(begin(), "the assignment could not begin")
        log.info("assigned %s", {f"{tp.topic}-{tp.partition}": offset for tp, offset in sorted(offsets.items())})
        runtime.resumed()
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


def consumer_group(settings: Settings) -> str:
    """The workers of a stage share its partitions in a group of their own, and so do workers of both stages.

    Groups only divide the work: should two of them read the same log, each row still contains each record once.
    """
    stages = settings.stage_names
    return "nowrank" if stages == STAGES else f"nowrank-{stages[0]}"


def create_app(settings: Settings, metrics: Metrics) -> faust.App:
    """The Faust app of a worker; connects to the store at once and to the broker when it starts."""
    data_dir = Path(settings.state_dir) / "faust" / settings.worker_id
    data_dir.mkdir(parents=True, exist_ok=True)
    app = _App(
        consumer_group(settings),
        broker=[f"kafka://{address}" for address in settings.kafka.split(",")],
        autodiscover=False,
        broker_heartbeat_interval=1.0,
        broker_max_poll_records=2 * settings.batch_max_events,
        broker_session_timeout=settings.broker_session_timeout_s,
        consumer_auto_offset_reset="earliest",
        datadir=str(data_dir),
        store="memory://",
        stream_buffer_maxsize=MAX_WAITING_CHUNKS,
        stream_wait_empty=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )
    runtime = app.runtime = Runtime(settings, metrics)
    http = WorkerHttp(settings.metrics_host, settings.metrics_port, metrics, lambda: runtime.is_ready)

    def add_stage(stage: str) -> None:
        async def apply(records: list[Record]) -> None:
            await or_end(runtime.apply(stage, records), f"stage {stage}")

        batcher = Batcher(apply, settings.batch_max_events)

        async def agent(stream: Any) -> None:
            async for event in stream.events():
                await batcher.put(event.message.records)

        channel = app.topic(*TOPICS_OF[stage], key_serializer="raw", value_serializer="raw", value_type=bytes)
        app.agent(channel, name=f"{stage}-stage", concurrency=1)(agent)
        app.task(batcher.run)

    for stage in settings.stage_names:
        add_stage(stage)

    @app.on_partitions_revoked.connect  # type: ignore[untyped-decorator]
    async def revoked(*_: Any, **__: Any) -> None:
        runtime.revoked()

    @app.on_before_shutdown.connect  # type: ignore[untyped-decorator]
    async def stop(*_: Any, **__: Any) -> None:
        await http.stop()
        await runtime.stop()

    @app.task  # type: ignore[untyped-decorator]
    async def run() -> None:
        await or_end(http.start(), "the worker's HTTP endpoint")
        await or_end(runtime.heartbeat(app.consumer), "the heartbeat")

    @app.task  # type: ignore[untyped-decorator]
    async def watch_logs() -> None:
        await or_end(runtime.watch_logs(), "the watch over the logs")

    return app


def run_worker(settings: Settings) -> None:
    """Run a worker until SIGTERM or SIGINT; exits the process. On uvloop: Faust makes many tasks.

    Threads hand the interpreter lock over after SWITCH_INTERVAL_S: at Python's 5 ms, each of a row write's many short
    waits on its socket would stand behind 5 ms of folding.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    app = create_app(settings, Metrics("worker"))
    faust.Worker(
        app, loglevel=settings.log_level, override_logging=False, redirect_stdouts=False
    ).execute_from_commandline()
