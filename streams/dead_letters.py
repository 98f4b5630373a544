"""Dead letters: records that could not be folded, kept with the reason.

Enters: records that stage 1 or 2 refused. Leaves: JSON on the `dead-letters` topic; for an operator, a list of them,
one in full, and the raw bytes sent again. Called by both stages and by `nowrank dead-letters`.
"""

import base64
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from infra.errors import BrokerUnavailable, NowrankError
from infra.settings import Settings
from streams.log_ends import read_log_ends
from streams.producer import Producer
from streams.topics import DEAD_LETTERS

if TYPE_CHECKING:
    from streams.stage import Record

READ_TIMEOUT_MS = 5_000


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A refused record: where it stood, why it was refused, and its bytes (base64)."""

    topic: str
    partition: int
    offset: int
    broker_ts_ms: int
    reason: str
    message: str
    value: str

    @classmethod
    def of(cls, record: "Record", reason: str, message: str) -> "DeadLetter":
        """The dead letter of a record."""
        return cls(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            broker_ts_ms=record.broker_ts_ms,
            reason=reason,
            message=message[:1000],
            value=base64.b64encode(record.value or b"").decode(),
        )

    @property
    def name(self) -> str:
        """How an operator names it: topic-partition-offset of the refused record."""
        return f"{self.topic}-{self.partition}-{self.offset}"

    @property
    def raw(self) -> bytes:
        """The record's bytes as they were."""
        return base64.b64decode(self.value)


def encode_dead_letter(letter: DeadLetter) -> bytes:
    """The JSON form of a dead letter."""
    return msgspec.json.encode(letter)


def read_dead_letters(settings: Settings) -> Iterator[DeadLetter]:
    """All dead letters, oldest first, each once (a worker that restarts may have sent one twice); raises
    `BrokerUnavailable`.
    """
    try:
        consumer = KafkaConsumer(
            bootstrap_servers=settings.kafka.split(","),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            consumer_timeout_ms=READ_TIMEOUT_MS,
        )
    except KafkaError as error:
        raise BrokerUnavailable(f"no broker answers at {settings.kafka!r}: {error}") from error
    try:
        partitions = [
            TopicPartition(DEAD_LETTERS, number) for number in consumer.partitions_for_topic(DEAD_LETTERS) or ()
        ]
        ends = read_log_ends(consumer, partitions)
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        seen: set[str] = set()
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            for records in consumer.poll(timeout_ms=500).values():
                for record in records:
                    letter = msgspec.json.decode(record.value, type=DeadLetter)
                    if letter.name not in seen:
                        seen.add(letter.name)
                        yield letter
    finally:
        consumer.close()


def resend(settings: Settings, letters: list[DeadLetter]) -> int:
    """Send the raw bytes of the letters to their topics again and return how many; raises `BrokerUnavailable` or
    `DeliveryFailed`.
    """
    with Producer(settings) as producer:
        for letter in letters:
            producer.send_record(letter.topic, letter.raw, _key_of(letter))
    return len(letters)


def find_dead_letter(settings: Settings, name: str) -> DeadLetter:
    """The dead letter of this name; raises `NowrankError` when there is none."""
    for letter in read_dead_letters(settings):
        if letter.name == name:
            return letter
    raise NowrankError(f"there is no dead letter {name!r}; `nowrank dead-letters list` names them")


def _key_of(letter: DeadLetter) -> bytes:
    try:
        decoded = msgspec.json.decode(letter.raw)
    except msgspec.DecodeError:
        return b""
    user_id = decoded.get("user_id") if isinstance(decoded, dict) else None
    return user_id.encode() if isinstance(user_id, str) else b""
