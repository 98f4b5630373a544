"""The delta log: what stage 1 hands to stage 2.

Enters: deltas with the place of the event they come from. Leaves: messages on the `deltas` topic, each for one
partition. Called by stage 1 (encode, send) and stage 2 (decode).

A partition gets its messages one at a time and in the order of the events: a delta is a repeat exactly when its
source's (offset, ordinal) is not higher than the highest one already in the log.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from zlib import crc32

import msgspec

from features.delta import Delta

MAX_DELTAS_PER_MESSAGE = 4000
# Half of what a broker takes by default. A delta alone is far smaller: its key is an id or a query of bounded length.
MAX_MESSAGE_BYTES = 512 * 1024
SendMessage = Callable[[int, bytes], Awaitable[None]]


class SourcedDelta(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A delta, the log and offset of its event, and its place among the event's deltas."""

    log: str
    offset: int
    ordinal: int
    delta: Delta


_DECODER = msgspec.msgpack.Decoder(list[SourcedDelta])
_ENCODER = msgspec.msgpack.Encoder()


def encode_deltas(deltas: list[SourcedDelta]) -> bytes:
    """The message that carries these deltas."""
    return _ENCODER.encode(deltas)


def encode_messages(deltas: list[SourcedDelta]) -> Iterator[bytes]:
    """The messages that carry these deltas in order, as few as their limits allow."""
    if len(deltas) <= MAX_DELTAS_PER_MESSAGE:
        message = encode_deltas(deltas)
        if len(message) <= MAX_MESSAGE_BYTES or len(deltas) == 1:
            yield message
            return
    middle = len(deltas) // 2
    yield from encode_messages(deltas[:middle])
    yield from encode_messages(deltas[middle:])


def decode_deltas(message: bytes) -> list[SourcedDelta]:
    """The deltas of a message; raises `msgspec.DecodeError`."""
    try:
        return _DECODER.decode(message)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error


def partition_of(delta: Delta, partitions: int) -> int:
    """The partition that owns a delta's row; the same in every process and version."""
    return crc32(f"{int(delta.entity)}:{delta.key}".encode()) % partitions


async def send_deltas(deltas: Iterable[SourcedDelta], partitions: int, send: SendMessage) -> int:
    """Send to each partition its deltas in order, one acknowledged message after the other; returns how many deltas
    were sent.
    """
    by_partition: dict[int, list[SourcedDelta]] = {}
    for sourced in deltas:
        by_partition.setdefault(partition_of(sourced.delta, partitions), []).append(sourced)

    async def send_one_partition(partition: int, own: list[SourcedDelta]) -> None:
        for message in encode_messages(own):
            await send(partition, message)

    await asyncio.gather(*(send_one_partition(partition, own) for partition, own in by_partition.items()))
    return sum(map(len, by_partition.values()))
