"""The producer client: publishes events and titles, and says which ones did not arrive.

Enters: wire events, catalogue items. Leaves: acknowledged records on Kafka, or `InvalidEvent`, `BrokerUnavailable`,
`DeliveryFailed`. Called by other teams' services (`from nowrank import Producer`), the scorer and `nowrank import`.
Needs kafka-python and msgspec only.
"""

import contextlib
import threading
import uuid
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from kafka import KafkaProducer
from kafka.errors import InvalidRecordError, KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from features.catalogue import Item
from infra.clock import monotonic_s
from infra.errors import BrokerUnavailable, DeliveryFailed, InvalidEvent, NowrankError
from infra.settings import NO_BROKER, Settings, load_settings
from streams.events import Event, Ranking
from streams.records import NewRecord, checked_records, event_record, item_record
from streams.topics import NO_BROKER_ERRORS

# kafka-python queues without a bound: past this many unacknowledged records a sender waits for the oldest.
MAX_PENDING = 50_000
# Past this many failures since the last flush, sending raises them instead of collecting more.
MAX_FAILURES = 10_000
# Compressing costs less CPU than not: kafka-python's CRC-32C is pure Python, and gzip leaves it less to read.
COMPRESSION = "gzip"
BATCH_BYTES = 128 * 1024
# For whoever sends a whole log, where nobody waits for one event: fuller batches, fewer requests.
BULK_LINGER_MS = 250
REQUEST_TIMEOUT_S = 10.0
# What a batch may take beyond its delivery timeout until kafka-python has noticed.
EXPIRY_SLACK_S = 5.0
# What a broker says of a record itself, not of its own state.
REFUSALS = (InvalidRecordError, MessageSizeTooLargeError, RecordListTooLargeError)


def new_event_id() -> str:
    """A fresh id for an event: a UUID, version 4."""
    return str(uuid.uuid4())


class Producer:
    """An idempotent Kafka producer (`acks=all`), usable as a context manager and from several threads.

    `send*` returns before the broker has acknowledged; `flush` and `close` wait and raise `DeliveryFailed`, which
    names each lost event by its position among those sent since the last flush. `deliver` and `deliver_items` send one
    batch and wait for just that batch.
    """

    def __init__(
        self,
        where: Settings | str | None = None,
        *,
        connect_timeout_s: float = 3.0,
        delivery_timeout_s: float = 30.0,
        linger_ms: int = 5,
    ) -> None:
        """Connect to `where`: broker addresses, settings, or None for this process's settings; raises
        `BrokerUnavailable`.
        """
        self.address = _address(where)
        self._delivery_timeout_s = delivery_timeout_s
        self._options = _kafka_options(self.address, connect_timeout_s, delivery_timeout_s, linger_ms)
        self._kafka = self._connect()
        self._connecting = threading.Lock()
        self._broken = False
        self._lock = threading.Lock()
        self._pending: deque[tuple[int, Any]] = deque()
        self._failures: list[tuple[int, str]] = []
        self._sent = 0
        self._closed = False

    def send(self, event: Event | Ranking) -> None:
        """Queue one event; raises `InvalidEvent`, or `BrokerUnavailable` when the topic cannot be found."""
        self._queue_all([event_record(event)])

    def send_many(self, events: Iterable[Event | Ranking]) -> int:
        """Queue a batch and return its size; an invalid event raises `InvalidEvent` with its position, and nothing is
        sent.
        """
        return self._queue_all(checked_records(event_record, events))

    def send_item(self, item: Item) -> None:
        """Queue one title for the catalogue."""
        self._queue_all([item_record(item)])

    def send_items(self, items: Iterable[Item]) -> int:
        """Queue titles and return how many; an invalid one raises `InvalidEvent` with its position, and nothing is
        sent.
        """
        return self._queue_all(checked_records(item_record, items))

    def send_record(
        self, topic: str, value: bytes | None, key: bytes | None = None, timestamp_ms: int | None = None
    ) -> None:
        """Queue raw bytes, unchecked; `timestamp_ms` is the record's own Kafka time, now when None."""
        self._queue_all([NewRecord(topic, key, value, timestamp_ms)])

    def deliver(self, events: Iterable[Event | Ranking]) -> int:
        """Send a batch, wait until all of it is acknowledged and return its size; `DeliveryFailed` names positions in
        this batch, and after `InvalidEvent` or `BrokerUnavailable` nothing of it was sent.
        """
        return self._deliver_all(checked_records(event_record, events))

    def deliver_items(self, items: Iterable[Item]) -> int:
        """Send titles as `deliver` sends events."""
        return self._deliver_all(checked_records(item_record, items))

    def flush(self) -> None:
        """Wait until everything queued is acknowledged; raises `DeliveryFailed` for what was not."""
        with self._lock:
            pending, self._pending = self._pending, deque()
            failures, self._failures = self._failures, []
            self._sent = 0
        failures += self._wait(pending)
        if failures:
            raise DeliveryFailed(sorted(failures))

    def close(self) -> None:
        """Flush, then let go of the connection; raises `DeliveryFailed`. Closing twice does nothing."""
        if self._closed:
            return
        try:
            self.flush()
        finally:
            self._closed = True
            self._let_go(self._kafka)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            with contextlib.suppress(NowrankError):
                self.close()

    def _deliver_all(self, records: list[NewRecord]) -> int:
        client = self._client()
        futures: list[tuple[int, Any]] = []
        unsent: list[tuple[int, str]] = []
        for position, record in enumerate(records):
            try:
                futures.append((position, self._send(client, record)))
            except BrokerUnavailable as error:
                if not futures:
                    raise
                unsent = [(later, str(error)) for later in range(position, len(records))]
                break
        if failures := self._wait(futures) + unsent:
            refused = {position for position, future in futures if isinstance(future.exception, REFUSALS)}
            raise DeliveryFailed(failures, refused)
        return len(records)

    def _queue_all(self, records: list[NewRecord]) -> int:
        """Queue through one connection, also when another thread finds it broken in the middle: a refusal then would
        leave a part of the batch queued.
        """
        self._make_room()
        client = self._client()
        for record in records:
            self._make_room()
            future = self._send(client, record)
            with self._lock:
                self._pending.append((self._sent, future))
                self._sent += 1
        return len(records)

    def _make_room(self) -> None:
        """Forget what is acknowledged; when too much is not, wait for the oldest."""
        with self._lock:
            while self._pending and self._pending[0][1].is_done:
                position, future = self._pending.popleft()
                if future.failed():
                    self._broken = True
                    self._failures.append((position, str(future.exception)))
            oldest = self._pending[0][1] if len(self._pending) >= MAX_PENDING else None
            overflow = len(self._failures) >= MAX_FAILURES
        if overflow:
            self.flush()
        if oldest is not None:
            with contextlib.suppress(KafkaError):
                oldest.get(self._delivery_timeout_s + EXPIRY_SLACK_S)

    def _send(self, client: Any, record: NewRecord) -> Any:
        try:
            return client.send(record.topic, record.value, record.key, timestamp_ms=record.timestamp_ms)
        except MessageSizeTooLargeError as error:
            raise InvalidEvent("oversized", str(error)) from error
        except KafkaError as error:
            raise BrokerUnavailable(
                f"topic {record.topic!r} was not found at {self.address!r} ({error}); "
                "`nowrank topics create` creates what is missing"
            ) from error

    def _wait(self, futures: Iterable[tuple[int, Any]]) -> list[tuple[int, str]]:
        """The position and the cause of each future that fails, or is not done in time."""
        deadline_s = monotonic_s() + self._delivery_timeout_s + EXPIRY_SLACK_S
        with contextlib.suppress(KafkaError):
            self._kafka.flush(timeout=self._delivery_timeout_s + EXPIRY_SLACK_S)
        failures = []
        for position, future in futures:
            try:
                future.get(max(0.0, deadline_s - monotonic_s()))
            except KafkaError as error:
                self._broken = True
                failures.append((position, str(error)))
        return failures

    def _client(self) -> Any:
        """The connection; a new one after a failure, since kafka-python's idempotent producer may never send again."""
        if self._closed:
            raise NowrankError("this producer is closed; make another one")
        if not self._broken:
            return self._kafka
        with self._connecting:
            if self._broken:
                old, self._kafka = self._kafka, self._connect()
                self._broken = False
                # It may still wait for what other threads sent.
                threading.Thread(target=self._let_go, args=(old,), name="producer-close", daemon=True).start()
        return self._kafka

    def _connect(self) -> Any:
        try:
            return KafkaProducer(**self._options)
        except NO_BROKER_ERRORS as error:
            raise BrokerUnavailable(
                f"no broker answers at {self.address!r} ({error}); start one with `nowrank up`, or set "
                "NOWRANK_KAFKA=host:port"
            ) from error

    def _let_go(self, client: Any) -> None:
        with contextlib.suppress(KafkaError):
            client.close(timeout=self._delivery_timeout_s + EXPIRY_SLACK_S)


def _address(where: Settings | str | None) -> str:
    address = where if isinstance(where, str) else (load_settings() if where is None else where).kafka
    if not address:
        raise BrokerUnavailable(NO_BROKER)
    return address


def _kafka_options(address: str, connect_timeout_s: float, delivery_timeout_s: float, linger_ms: int) -> dict[str, Any]:
    return {
        "bootstrap_servers": address.split(","),
        "enable_idempotence": True,
        "acks": "all",
        "linger_ms": linger_ms,
        "batch_size": BATCH_BYTES,
        "compression_type": COMPRESSION,
        "delivery_timeout_ms": int(delivery_timeout_s * 1000),
        "request_timeout_ms": int(min(REQUEST_TIMEOUT_S, delivery_timeout_s) * 1000) - linger_ms,
        "max_block_ms": int(connect_timeout_s * 1000),
        "bootstrap_timeout_ms": int(connect_timeout_s * 1000),
        "reconnect_backoff_max_ms": 1_000,
        "allow_auto_create_topics": False,
    }
