"""What the two stages of one worker share: the fenced store, the producer, the assignment, the process's end.

Enters: the assignments and batches that Faust brings. Leaves: applied batches. Called by `app.py`.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable
from typing import Any, NoReturn

import aiokafka

from features.online_store import FencedStore
from infra.metrics import Metrics
from infra.settings import Settings
from streams.dead_letters import DeadLetter, encode_dead_letter
from streams.deltas import SourcedDelta, send_deltas
from streams.session_agent import STAGE as SESSION_STAGE
from streams.session_agent import SessionStage
from streams.stage import Record, SharedStore
from streams.target_agent import STAGE as TARGET_STAGE
from streams.target_agent import TargetStage
from streams.topics import DEAD_LETTERS, DELTAS, EVENT_TOPICS

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
