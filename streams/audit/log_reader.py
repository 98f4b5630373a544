"""The log as a whole: every partition's records in order, between exact offsets, without a consumer group.

Enters: settings, topics, offsets. Leaves: spans, `Record`s one at a time, the first offset at a time. Called by
whatever reads a log beside the workers and leaves no trace on the broker.
"""

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from infra.clock import monotonic_s
from infra.errors import BrokerUnavailable
from infra.settings import Settings
from streams.log_ends import read_log_ends
from streams.log_records import Record, log_name
from streams.topics import NO_BROKER_ERRORS

POLL_MS = 500
POLL_RECORDS = 5_000
FETCH_WAIT_MS = 20
FETCH_BYTES = 4 << 20
SILENCE_S = 30.0


class LogSpan(NamedTuple):
    """One topic-partition and what it holds: the offsets from `first` on, before `end`."""

    topic: str
    partition: int
    first: int
    end: int

    @property
    def log(self) -> str:
        """The topic-partition, as rows and checkpoints name it."""
        return log_name(self.topic, self.partition)


class LogReader:
    """Reads partitions one after the other; a context manager. Every method raises `BrokerUnavailable`."""

    def __init__(self, settings: Settings) -> None:
        self._addresses = settings.kafka.split(",")
        self._consumer = self._connect()

    def __enter__(self) -> "LogReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close()

    def spans(self, topics: Iterable[str]) -> dict[str, LogSpan]:
        """What each partition of `topics` holds now, by log; a topic that does not exist has none."""
        consumer = self._connect()  # `read_log_ends` wants one that has fetched nothing
        try:
            parts = [
                TopicPartition(topic, number)
                for topic in topics
                for number in sorted(consumer.partitions_for_topic(topic) or ())
            ]
            first = consumer.beginning_offsets(parts) if parts else {}
            ends = read_log_ends(consumer, parts)
        except KafkaError as error:
            raise BrokerUnavailable(f"the ends of the logs could not be read: {error}") from error
        finally:
            consumer.close()
        spans = [LogSpan(part.topic, part.partition, first[part], ends[part]) for part in parts]
        return {span.log: span for span in spans}

    def read(self, topic: str, partition: int, begin: int, end: int) -> Iterator[Record]:
        """The records of `begin` <= offset < `end`, in order; `end` must not be beyond the log's own. Exhaust or drop
        it before the next call.
        """
        if begin >= end:
            return
        part = TopicPartition(topic, partition)
        try:
            self._consumer.assign([part])
            self._consumer.seek(part, begin)
            heard_s = monotonic_s()
            while self._consumer.position(part) < end:
                records = self._consumer.poll(timeout_ms=POLL_MS, max_records=POLL_RECORDS).get(part, ())
                if records:
                    heard_s = monotonic_s()
                elif monotonic_s() - heard_s > SILENCE_S:
                    raise BrokerUnavailable(f"{topic}-{partition} ends at {end}, but nothing comes after {begin}")
                for record in records:
                    if record.offset >= end:
                        return
                    yield Record(topic, partition, record.offset, record.timestamp, record.value)
                    begin = record.offset + 1
        except KafkaError as error:
            raise BrokerUnavailable(f"{topic}-{partition} could not be read at offset {begin}: {error}") from error

    def read_span(self, span: LogSpan, begin: int | None = None, end: int | None = None) -> Iterator[Record]:
        """The records of a span, or of the part of it between `begin` and `end`."""
        begin = span.first if begin is None else max(begin, span.first)
        return self.read(span.topic, span.partition, begin, span.end if end is None else min(end, span.end))

    def offset_at(self, span: LogSpan, at_ms: int) -> int:
        """The first offset whose broker timestamp is `at_ms` or later, the span's end when there is none.

        By bisection over single records: brokers answer ListOffsets by batch, and not all of them exactly.
        """
        low, high = span.first, span.end
        while low < high:
            middle = (low + high) // 2
            record = next(self.read(span.topic, span.partition, middle, span.end), None)
            if record is not None and record.broker_ts_ms < at_ms:
                low = record.offset + 1
            else:
                high = middle
        return low

    def _connect(self) -> Any:
        try:
            return KafkaConsumer(
                bootstrap_servers=self._addresses,
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="none",
                allow_auto_create_topics=False,
                fetch_max_wait_ms=FETCH_WAIT_MS,
                max_partition_fetch_bytes=FETCH_BYTES,
                check_crcs=False,  # slow in pure Python, and the broker has checked what it stores
                retry_backoff_ms=FETCH_WAIT_MS,  # its sleep after a change of the assignment
                bootstrap_timeout_ms=5_000,
            )
        except NO_BROKER_ERRORS as error:
            raise BrokerUnavailable(f"no broker answers at {','.join(self._addresses)!r}: {error}") from error
