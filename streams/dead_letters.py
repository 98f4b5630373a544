"""Dead letters: records that could not be folded, kept with the reason.

Enters: records that a stage refused. Leaves: JSON on the `dead-letters` topic; for an operator, a list of them,
one in full, and the bytes sent again, as they were or repaired. Called by the stages and by `nowrank dead-letters`.
"""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from infra.clock import now_ms
from infra.errors import InvalidEvent, NowrankError
from infra.redaction import hide_value
from infra.settings import Settings
from streams.audit.log_reader import LogReader
from streams.events import decode_record, to_engagement
from streams.log_records import Record
from streams.producer import Producer
from streams.topics import DEAD_LETTERS, DELTAS, EVENT_TOPICS

# A letter must fit into a message of the size that brokers take; what is longer could not be sent again anyway.
MAX_KEPT_BYTES = 256 * 1024
# The reason of what stands on the topic `dead-letters` and is no dead letter itself.
UNREADABLE = "unreadable"


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A refused record: where it stood, why it was refused, and its first MAX_KEPT_BYTES bytes (base64)."""

    topic: str
    partition: int
    offset: int
    broker_ts_ms: int
    reason: str
    message: str
    value: str

    @classmethod
    def of(cls, record: Record, reason: str, message: str) -> "DeadLetter":
        """The dead letter of a record; `message` says so when not all of its bytes are kept."""
        value = record.value or b""
        kept = f" (kept: the first {MAX_KEPT_BYTES} of {len(value)} bytes)" if len(value) > MAX_KEPT_BYTES else ""
        return cls(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            broker_ts_ms=record.broker_ts_ms,
            reason=reason,
            message=hide_value(message)[:1000] + kept,
            value=base64.b64encode(value[:MAX_KEPT_BYTES]).decode(),
        )

    @property
    def name(self) -> str:
        """How an operator names it: topic-partition-offset of the refused record."""
        return f"{self.topic}-{self.partition}-{self.offset}"

    @property
    def raw(self) -> bytes:
        """The record's bytes as they were, the first ones of a very long record."""
        return base64.b64decode(self.value)


def encode_dead_letter(letter: DeadLetter) -> bytes:
    """The JSON form of a dead letter."""
    return msgspec.json.encode(letter)


def decode_dead_letter(value: bytes | None, place: DeadLetter) -> DeadLetter:
    """The dead letter in a record of the topic; `place`, with the reason `unreadable`, when there is none in it."""
    try:
        letter = msgspec.json.decode(value or b"", type=DeadLetter)
        base64.b64decode(letter.value, validate=True)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, binascii.Error, ValueError) as error:
        return msgspec.structs.replace(place, message=f"this record of {DEAD_LETTERS} is no dead letter: {error}")
    return letter


def read_dead_letters(settings: Settings) -> Iterator[DeadLetter]:
    """All dead letters, oldest first in each partition, each once (a worker that restarts may have sent one twice), but
    a record that two stages refused for each of their reasons; raises `BrokerUnavailable`.

    A record of the topic that is no dead letter comes as one of the reason `unreadable`, with its own place and bytes.
    """
    seen: set[tuple[str, str]] = set()
    with LogReader(settings) as reader:
        for span in reader.spans([DEAD_LETTERS]).values():
            for record in reader.read_span(span):
                letter = decode_dead_letter(record.value, _place_of(record))
                if (letter.name, letter.reason) not in seen:
                    seen.add((letter.name, letter.reason))
                    yield letter


def _place_of(record: Record) -> DeadLetter:
    return DeadLetter(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        broker_ts_ms=record.broker_ts_ms,
        reason=UNREADABLE,
        message="",
        value=base64.b64encode(record.value or b"").decode(),
    )


def find_dead_letter(settings: Settings, name: str) -> DeadLetter:
    """The dead letter of this name; raises `NowrankError` when there is none."""
    for letter in read_dead_letters(settings):
        if letter.name == name:
            return letter
    raise NowrankError(f"there is no dead letter {name!r}; `nowrank dead-letters list` names them")


@dataclass(frozen=True, slots=True)
class Resent:
    """What became of the letters that were to be sent again; `refused` names each with what is still wrong."""

    sent: int
    refused: list[tuple[DeadLetter, str]]


def resend(settings: Settings, letters: list[DeadLetter], repaired: bytes | None = None) -> Resent:
    """Send the bytes of the letters, or the `repaired` ones, to their topics again, keyed by their user; bytes that
    would be refused once more are not sent. Raises `BrokerUnavailable` or `DeliveryFailed`.
    """
    ready, refused = [], []
    for letter in letters:
        value = letter.raw if repaired is None else repaired
        try:
            ready.append((letter.topic, value, check_value(letter.topic, value, settings.future_limit_ms).encode()))
        except InvalidEvent as error:
            refused.append((letter, f"{error.reason}: {error.message}"))
    if ready:
        with Producer(settings) as producer:
            for topic, value, key in ready:
                producer.send_record(topic, value, key)
    return Resent(len(ready), refused)


def check_value(topic: str, value: bytes, future_limit_ms: int) -> str:
    """The user of an event that stage 1 would take if it were sent now; raises `InvalidEvent`."""
    if topic == DELTAS:
        raise InvalidEvent(
            UNREADABLE,
            "a message between the stages cannot be sent again: stage 2 would take it for a repeat; "
            "`nowrank rebuild` computes the rows anew",
        )
    if topic not in EVENT_TOPICS:
        raise InvalidEvent(UNREADABLE, f"{topic!r} is no topic of events; they are {', '.join(EVENT_TOPICS)}")
    event = decode_record(topic, value)
    to_engagement(event, now_ms(), future_limit_ms)
    return str(event.user_id)
