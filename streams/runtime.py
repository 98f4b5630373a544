"""What the stages of one worker share: the producer, the assignment, the process's end.

Enters: the assignments and batches that Faust brings. Leaves: applied batches. Called by `app.py`.
"""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Awaitable, Collection, Iterable
from contextlib import AsyncExitStack
from typing import Any, NoReturn

import aiokafka

from features.online_store import FencedStore
from infra.clock import monotonic_s
from infra.errors import BrokerUnavailable
from infra.metrics import Metrics
from infra.settings import Settings
from streams.checkpoints import Checkpoint, decode_checkpoints, encode_checkpoint
from streams.dead_letters import DeadLetter, encode_dead_letter
from streams.deltas import MAX_MESSAGE_BYTES, SourcedDelta, send_deltas
from streams.known_items import KnownItems
from streams.label_agent import STAGE as LABELS_STAGE
from streams.label_agent import LabelStage
from streams.log_records import Record, log_name
from streams.session_agent import STAGE as SESSION_STAGE
from streams.session_agent import SessionStage
from streams.shown_labels import RankingLabels, encode_labels
from streams.stage import SharedStore
from streams.target_agent import STAGE as TARGET_STAGE
from streams.target_agent import TargetStage
from streams.topics import DEAD_LETTERS, DELTAS, EVENT_TOPICS, FOLDED_TOPICS, LABELS, read_topic_ids
from streams.watchdog import Progress, Watchdog

HEARTBEAT_S = 0.5
LOG_CHECK_S = 5.0
STOP_TIMEOUT_S = 6.0
LOOK_TIMEOUT_S = 5.0
TOPICS_OF = {SESSION_STAGE: EVENT_TOPICS, TARGET_STAGE: (DELTAS,), LABELS_STAGE: EVENT_TOPICS}
ANEW = "Rows and log do not belong together any more: run `nowrank rebuild`."
GONE = "Rows count its records: make it anew with `nowrank topics create`, then run `nowrank rebuild`."
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
    """What the stages of one worker process share: the producer, the assignment, the catalogue's ids."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.generation = -1
        self.is_ready = self.is_stopping = False
        self._known_items = KnownItems(settings)
        # A connection each, so that no stage waits for the other's writes.
        self._stores = {
            stage: SharedStore(FencedStore(settings.redis, settings.feast_project)) for stage in settings.stage_names
        }
        self._stages = {stage: self._new_stage(stage) for stage in settings.stage_names}
        for stage in self._stages:  # known to Prometheus before any event comes
            metrics.set("nowrank_worker_last_batch_timestamp_seconds", 0, stage=stage)
        self._stage_of = {topic: stage for stage in self._stages for topic in TOPICS_OF[stage]}
        self.progress = {stage: Progress(stage) for stage in self._stages}
        self._busy = {stage: asyncio.Lock() for stage in self._stages}
        self._watchdog = Watchdog(settings.stall_timeout_s)
        self._log_ids: dict[str, str] = {}
        self._revoked_s: float | None = None
        self._producer: Any = None

    def _new_stage(self, stage: str) -> SessionStage | TargetStage | LabelStage:
        store, cache_bytes = self._stores[stage], self.settings.row_cache_bytes // len(self._stores)
        future_limit_ms, window_ms = self.settings.future_limit_ms, self.settings.label_window_ms
        if stage == LABELS_STAGE:
            return LabelStage(
                store, self._send_labels, self._send_dead_letters, self.metrics, future_limit_ms, window_ms
            )
        if stage == TARGET_STAGE:
            return TargetStage(store, self._send_dead_letters, self.metrics, cache_bytes)
        return SessionStage(
            store,
            self._send_deltas,
            self._send_dead_letters,
            self.metrics,
            future_limit_ms,
            cache_bytes,
            self._known_items.count_unknown,
        )

    async def start(self) -> None:
        """Connect the producer of deltas, dead letters and labels.

        It need not be idempotent: one message a partition is under way at a time, and stage 2 recognises one that was
        written twice.
        """
        self._producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=self.settings.kafka,
            acks="all",
            max_batch_size=MAX_MESSAGE_BYTES,
            max_request_size=MAX_REQUEST_BYTES,
        )
        await self._producer.start()
        if SESSION_STAGE in self._stages:
            await self._check_partitions()
            self._known_items.start()

    async def _check_partitions(self) -> None:
        """End the process when the deltas would be spread otherwise than their topic is: repeats could not be told."""
        found = len(await self._producer.partitions_for(DELTAS))
        if found != self.settings.partitions:
            end_process(
                f"NOWRANK_PARTITIONS is {self.settings.partitions}, but the topic {DELTAS} has {found} partitions: "
                f"set it to {found}, or make the topics anew and run `nowrank rebuild`"
            )

    async def stop(self) -> None:
        """Let the batches that are under way end, begin no other, and disconnect."""
        self.is_stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                for lock in self._busy.values():
                    await lock.acquire()
        self._watchdog.stop()
        self._known_items.stop()
        if self._producer is not None:
            await self._producer.stop()

    def revoked(self) -> None:
        """A rebalance begins: the partitions are not ours until the next assignment."""
        self.is_ready = False
        self._revoked_s = monotonic_s()

    def resumed(self) -> None:
        """Every assigned log stands where it goes on; records flow again."""
        self.is_ready = True
        if self._revoked_s is not None:
            self.metrics.observe("nowrank_worker_rebalance_seconds", monotonic_s() - self._revoked_s)
            self._revoked_s = None

    async def begin(self, consumer: Any) -> dict[Any, int]:
        """At an assignment: forget what was cached, read the checkpoints, write those of logs that begin, and say where
        each assigned log goes on.
        """
        async with AsyncExitStack() as locks:
            for lock in self._busy.values():
                await locks.enter_async_context(lock)
            self.generation = consumer.app.consumer_generation_id
            self._log_ids = await asyncio.to_thread(read_topic_ids, self.settings)
            checkpoints = {
                stage: decode_checkpoints(await store.call(FencedStore.read_checkpoints, stage))
                for stage, store in self._stores.items()
            }
            known = (log for own in checkpoints.values() for log, checkpoint in own.items() if checkpoint.log_id)
            _end_if_gone({log.rpartition("-")[0] for log in known}, self._log_ids)
            stored = {stage: set(own) for stage, own in checkpoints.items()}
            starts = await self._starts(consumer, checkpoints)
            for name, stage in self._stages.items():
                # Or a store whose worker waits for a log's first record would look like one that no worker has met.
                new = {log: encode_checkpoint(one) for log, one in checkpoints[name].items() if log not in stored[name]}
                await self._stores[name].call(FencedStore.write_checkpoints, name, new)
                stage.begin(checkpoints[name])
        for progress in self.progress.values():
            progress.moved_s = monotonic_s()
        self.metrics.set("nowrank_worker_assigned_partitions", len(starts))
        return starts

    async def _starts(self, consumer: Any, checkpoints: dict[str, dict[str, Checkpoint]]) -> dict[Any, int]:
        """Where each assigned log goes on; a log without a checkpoint gets one at its beginning."""
        assigned = consumer.assignment()
        first = await consumer.earliest_offsets(*assigned)
        ends = await consumer.highwaters(*assigned)
        starts = {}
        for tp in assigned:
            name = log_name(tp.topic, tp.partition)
            log_id = self._log_ids.get(tp.topic, "")
            begin = Checkpoint(first[tp], first[tp], log_id)
            checkpoint = checkpoints[self._stage_of[tp.topic]].setdefault(name, begin)
            starts[tp] = next_offset = checkpoint.next_offset
            if log_id and checkpoint.log_id and log_id != checkpoint.log_id:
                end_process(f"{name} goes on in the log {checkpoint.log_id}, but this is the log {log_id}. {ANEW}")
            if next_offset < first[tp]:
                end_process(
                    f"{name} goes on at {next_offset} but its log begins at {first[tp]}: "
                    f"{first[tp] - next_offset} records are lost. {ANEW}"
                )
            if next_offset > ends[tp] and not await self._is_in_log(tp, next_offset - 1):
                end_process(
                    f"{name} goes on at {next_offset} but its log ends at {ends[tp]}: this is another log. {ANEW}"
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
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                record = await reader.getone()
        except (TimeoutError, aiokafka.errors.KafkaError):
            return False
        finally:
            await reader.stop()
        return bool(record.offset == offset)

    async def apply(self, stage: str, records: list[Record]) -> None:
        """Fold one batch; records of an earlier assignment are left to whoever holds their partition now."""
        progress = self.progress[stage]
        async with self._busy[stage]:
            current = [record for record in records if record.generation == self.generation]
            if current and not self.is_stopping:
                progress.busy_since_s = monotonic_s()
                await self._stages[stage].apply(current)
                progress.busy_since_s, progress.moved_s = None, monotonic_s()

    async def heartbeat(self, consumer: Any) -> None:
        """Check the fence, measure the lag and look for a stall, twice a second, for ever."""
        while True:
            self._watchdog.beat()
            await asyncio.sleep(HEARTBEAT_S)
            for stage, store in self._stores.items():
                await store.call(FencedStore.write_checkpoints, stage, {})
            lags = self._measure_lag(consumer)
            stalled = self._stalled(lags, consumer.assignment())
            if stalled is not None:
                end_process(f"it has stalled: {stalled}")

    def _stalled(self, lags: dict[str, int], assigned: Collection[Any]) -> str | None:
        if self.is_ready:
            return self._watchdog.stalled(self.progress.values(), lags)
        if self._revoked_s is not None and assigned and not self.is_stopping:
            waited_s = monotonic_s() - self._revoked_s
            if waited_s > self.settings.stall_timeout_s:
                return f"{len(assigned)} partitions are assigned, but after {waited_s:.0f} s no record flows"
        return None

    async def watch_logs(self) -> None:
        """End the process when a topic was deleted behind its back, made anew or not, for ever."""
        while True:
            await asyncio.sleep(LOG_CHECK_S)
            with contextlib.suppress(BrokerUnavailable):
                found = await asyncio.to_thread(read_topic_ids, self.settings)
                _end_if_gone(self._log_ids, found)
                for topic, log_id in found.items():
                    if self._log_ids.get(topic, log_id) != log_id:
                        end_process(f"the log of {topic} was {self._log_ids[topic]} and now is {log_id}. {ANEW}")

    def _measure_lag(self, consumer: Any) -> dict[str, int]:
        """The lag by topic, as metrics; the lag by stage, returned."""
        lags = dict.fromkeys(self._stage_of, 0)
        for tp in consumer.assignment():
            end = consumer.highwater(tp)
            checkpoint = self._stages[self._stage_of[tp.topic]].checkpoints.get(log_name(tp.topic, tp.partition))
            if end is not None and checkpoint is not None:
                lags[tp.topic] += max(0, end - consumer.next_offset(tp, checkpoint.next_offset))
        by_stage = dict.fromkeys(self._stages, 0)
        for topic, lag in lags.items():
            self.metrics.set("nowrank_worker_lag_records", lag, topic=topic)
            by_stage[self._stage_of[topic]] += lag
        return by_stage

    async def _send_deltas(self, deltas: list[SourcedDelta]) -> int:
        async def send(partition: int, message: bytes) -> None:
            await self._producer.send_and_wait(DELTAS, value=message, partition=partition)

        return await send_deltas(deltas, self.settings.partitions, send)

    async def _send_dead_letters(self, letters: list[DeadLetter]) -> None:
        messages = ((letter.name.encode(), encode_dead_letter(letter)) for letter in letters)
        await send_together(self._producer, DEAD_LETTERS, messages)

    async def _send_labels(self, labels: list[RankingLabels]) -> None:
        messages = ((one.ranking_id.encode(), encode_labels(one)) for one in labels)
        await send_together(self._producer, LABELS, messages)


def _end_if_gone(known: Collection[str], found: Collection[str]) -> None:
    """End the process when a topic whose records rows count is gone; only a topic that had an id is `known`."""
    gone = [topic for topic in FOLDED_TOPICS if topic in known and topic not in found]
    if gone:
        end_process(f"the log of {', '.join(gone)} is gone. {GONE}")


async def send_together(producer: Any, topic: str, messages: Iterable[tuple[bytes, bytes]]) -> None:
    """Send each (key, value), then await all acknowledgements at once: about one round trip, however many there are.

    For messages that may be written in any order, or twice. Raises `KafkaError` when one is not acknowledged.
    """
    acknowledgements = [await producer.send(topic, value=value, key=key) for key, value in messages]
    await asyncio.gather(*acknowledgements)
