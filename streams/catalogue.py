"""The `items` topic: the wire form of a title, and the topic read into a catalogue for as long as the process lives.

Enters: records of the compacted topic `items`. Leaves: a `Catalogue`, or `InvalidEvent` for a record that is no title.
Called by the producer client, imports, the scorer, skew, the simulator and the workers' count of unknown titles.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, Self, TypeVar

import msgspec
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from features.catalogue import Catalogue, Item
from infra.clock import monotonic_s
from infra.errors import BrokerUnavailable, InvalidEvent
from infra.settings import NO_BROKER, Settings
from streams import topics
from streams.events import decode_value, invalid_event
from streams.log_ends import read_log_ends

POLL_MS = 500
POLL_RECORDS = 500
METADATA_AGE_MS = 5_000
CLOSED_PER_S = 5.0  # over the last half minute
FIRST_RETRY_S = 0.5
LAST_RETRY_S = 5.0

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Item)
log = logging.getLogger(__name__)


def encode_item(item: Item) -> bytes:
    """The JSON form of a title."""
    return _ENCODER.encode(item)


def decode_item(value: bytes) -> Item:
    """The title in a record or an HTTP body; raises `InvalidEvent` with a reason code."""
    return decode_value(_DECODER, value, "a title")


def convert_item(value: Any) -> Item:
    """The title in already decoded JSON; raises `InvalidEvent`."""
    try:
        return msgspec.convert(value, Item)
    except msgspec.ValidationError as error:
        raise invalid_event(error) from error


class Titles(Protocol):
    """What can be kept equal to the topic: the catalogue, or less of it."""

    def put(self, item: Item, /) -> None:
        """Add a title, or replace the one with the same id."""

    def remove(self, item_id: str, /) -> None:
        """Forget a title."""

    def replace(self, other: Self, /) -> None:
        """Hold exactly what `other` holds, in one step."""


T = TypeVar("T", bound=Titles)


class ItemsFollower(Generic[T]):
    """Keeps `titles` equal to the topic in a background thread; a broker that is away leaves them as they are and is
    tried again. `pause_s` after each POLL_RECORDS keeps a long topic from taking the process's time.
    """

    read_timeout_s = 60.0
    last_retry_s = LAST_RETRY_S

    def __init__(self, settings: Settings, new_titles: Callable[[], T], pause_s: float = 0.0) -> None:
        self.titles = new_titles()
        self._new_titles = new_titles
        self._pause_s = pause_s
        self._settings = settings
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="catalogue-follower", daemon=True)

    @property
    def ready(self) -> bool:
        """Whether the whole topic has been read once."""
        return self._ready.is_set()

    def start(self) -> None:
        """Begin to follow; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; the catalogue stays as it is."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=POLL_MS / 1000 + LAST_RETRY_S)

    def _run(self) -> None:
        retry_s = FIRST_RETRY_S
        while not self._stop.is_set():
            try:
                self._follow()
                retry_s = FIRST_RETRY_S
            except (KafkaError, BrokerUnavailable, OSError) as error:
                log.warning("the catalogue cannot be followed, next try in %.1f s: %s", retry_s, error)
                self._stop.wait(retry_s)
                retry_s = min(self.last_retry_s, 2 * retry_s)

    def _follow(self) -> None:
        reader = _connect(self._settings)
        try:
            self.titles.replace(
                reader.read_to_end(self.read_timeout_s, self._new_titles(), lambda: self._stop.wait(self._pause_s))
            )
            self._ready.set()
            while not self._stop.is_set() and not reader.is_other_log():
                apply_records(self.titles, reader.poll())
                self._stop.wait(self._pause_s)
        finally:
            reader.close()


class CatalogueFollower(ItemsFollower[Catalogue]):
    """Keeps a whole `catalogue` equal to the topic."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, Catalogue)

    @property
    def catalogue(self) -> Catalogue:
        """The titles as the topic has them."""
        return self.titles


class _Reader:
    """One consumer of every partition of the topic, without a group."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._log_id: Any = None

    def read_to_end(self, timeout_s: float, titles: T, pause: Callable[[], object] = lambda: None) -> T:
        """Put everything up to where the topic ended when this was called into `titles`; `pause` comes after each
        poll.
        """
        deadline_s = monotonic_s() + timeout_s
        partitions = [TopicPartition(topics.ITEMS, number) for number in self._partitions(deadline_s)]
        self._log_id = self._topic_id()
        ends = read_log_ends(self._consumer, partitions, timeout_s)
        self._consumer.assign(partitions)
        self._consumer.seek_to_beginning(*partitions)
        while any(self._consumer.position(partition) < end for partition, end in ends.items()):
            if monotonic_s() > deadline_s:
                raise BrokerUnavailable(f"topic {topics.ITEMS!r} was not read to its end within {timeout_s} s")
            apply_records(titles, self.poll())
            pause()
        return titles

    def is_other_log(self) -> bool:
        """Whether the topic is not the one that was read: it has another id, ends before what was read, or has other
        partitions.

        So it is after it was deleted and made anew, or the embedded broker, whose log lives in memory, was started
        again.
        """
        found = self._topic_id()
        if self._log_id and found and found != self._log_id:
            return True
        assigned = self._consumer.assignment()
        numbers = self._consumer.partitions_for_topic(topics.ITEMS)
        if numbers and numbers != {partition.partition for partition in assigned}:
            return True
        ends = {partition: self._consumer.highwater(partition) for partition in assigned}
        return any(end is not None and end < self._consumer.position(partition) for partition, end in ends.items())

    def poll(self) -> list[Any]:
        """The next records, none when there are none for a while. Raises `BrokerUnavailable` when all connections are
        taken and closed again, as by a load balancer without a broker: the client itself would open the next at once.
        """
        records = [record for batch in self._consumer.poll(timeout_ms=POLL_MS).values() for record in batch]
        if not records and self._consumer.metrics()["consumer-metrics"]["connection-close-rate"] > CLOSED_PER_S:
            raise BrokerUnavailable("connections to the broker are taken and closed again")
        return records

    def close(self) -> None:
        self._consumer.close(autocommit=False)

    def _topic_id(self) -> Any:
        """The broker's id of the topic, by the metadata that the client refreshes anyway; None when there is none."""
        return self._consumer._client.cluster.topic_id(topics.ITEMS)

    def _partitions(self, deadline_s: float) -> Iterable[int]:
        while not (partitions := self._consumer.partitions_for_topic(topics.ITEMS)):
            if monotonic_s() > deadline_s:
                raise BrokerUnavailable(f"topic {topics.ITEMS!r} does not exist; `nowrank topics create` creates it")
            self._consumer.poll(timeout_ms=100)
        return sorted(partitions)


def apply_records(titles: Titles, records: Iterable[Any]) -> None:
    """Put or remove what each record (`key`, `value`, `offset`) says; a record that is no title is logged and left
    out.
    """
    for record in records:
        if record.value is None:
            titles.remove((record.key or b"").decode("utf-8", "replace"))
            continue
        try:
            titles.put(decode_item(record.value))
        except InvalidEvent as error:
            log.warning("record %d of topic %r is no title: %s", record.offset, topics.ITEMS, error)


def _connect(settings: Settings) -> _Reader:
    if not settings.kafka:
        raise BrokerUnavailable(NO_BROKER)
    try:
        consumer = KafkaConsumer(
            bootstrap_servers=settings.kafka.split(","),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            allow_auto_create_topics=False,
            max_poll_records=POLL_RECORDS,
            bootstrap_timeout_ms=3_000,
            reconnect_backoff_max_ms=1_000,
            metadata_max_age_ms=METADATA_AGE_MS,
        )
    except topics.NO_BROKER_ERRORS as error:
        raise BrokerUnavailable(f"no broker answers at {settings.kafka!r}: {error}") from error
    return _Reader(consumer)
