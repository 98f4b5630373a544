"""The load: records onto the broker, all at once or at a given rate.

Enters: records. Leaves: a log on the broker. Called by the measurements (`append`), and run as a process of its own for
a steady load: `python -m benchmarks.load ADDRESS FILE RATE_PER_S`.

Batches are built with aiokafka's batch builder (a few microseconds an event), so that the producing side never is the
bottleneck; their size, compression and partitions are those of `streams.producer`. A steady load sends one partition's
batch at a time, each partition's every `partitions x TICK_S`: at every fetch the embedded broker takes some 8 us for
every batch that a partition's log holds, so that many small batches would measure the broker instead of the worker.
"""

import asyncio
import json
import sys
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import aiokafka
import msgspec

from benchmarks.mix import Loaded
from infra.clock import monotonic_s
from streams.producer import BATCH_BYTES, COMPRESSION

TICK_S = 0.01
_RECORDS = msgspec.msgpack.Decoder(list[tuple[str, int, bytes, bytes]])


async def connect(address: str) -> Any:
    """A started producer with the settings of `streams.producer`."""
    producer = aiokafka.AIOKafkaProducer(
        bootstrap_servers=address.split(","), acks="all", compression_type=COMPRESSION, max_batch_size=BATCH_BYTES
    )
    await producer.start()
    return producer


def append(address: str, records: Sequence[Loaded]) -> float:
    """Append the records as fast as the broker takes them; returns the seconds until the last acknowledgement."""
    return asyncio.run(_append(address, records))


async def _append(address: str, records: Sequence[Loaded]) -> float:
    producer = await connect(address)
    try:
        began_s = monotonic_s()
        await asyncio.gather(*await send(producer, records))
        return monotonic_s() - began_s
    finally:
        await producer.stop()


async def send(producer: Any, records: Iterable[Loaded]) -> list[Any]:
    """Send the records in full batches; returns the futures of their acknowledgements."""
    open_batches: dict[tuple[str, int], Any] = {}
    futures = []
    for topic, partition, value, key in records:
        batch = open_batches.get((topic, partition))
        if batch is None:
            batch = open_batches[topic, partition] = producer.create_batch()
        if batch.append(key=key, value=value, timestamp=None) is None:
            futures.append(await producer.send_batch(batch, topic, partition=partition))
            batch = open_batches[topic, partition] = producer.create_batch()
            batch.append(key=key, value=value, timestamp=None)
    for (topic, partition), batch in open_batches.items():
        futures.append(await producer.send_batch(batch, topic, partition=partition))
    return futures


def write_records(path: Path, records: Sequence[Loaded]) -> None:
    """Put records into a file for the process that keeps up a steady load."""
    path.write_bytes(msgspec.msgpack.encode(records))


async def keep_rate(address: str, records: Sequence[Loaded], rate_per_s: float) -> dict[str, float]:
    """Send the records at `rate_per_s`, one topic-partition's waiting records every TICK_S; says what was reached."""
    places = sorted({(record.topic, record.partition) for record in records})
    waiting: dict[tuple[str, int], list[Loaded]] = {place: [] for place in places}
    producer = await connect(address)
    taken, futures = 0, []
    began_s = monotonic_s()
    for tick in count():
        due = min(len(records), int((monotonic_s() - began_s) * rate_per_s))
        for record in records[taken:due]:
            waiting[record.topic, record.partition].append(record)
        taken = due
        is_last = taken == len(records)
        for place in places if is_last else [places[tick % len(places)]]:
            futures += await send(producer, waiting[place])
            waiting[place].clear()
        if is_last:
            break
        await asyncio.sleep(max(0.0, began_s + (tick + 1) * TICK_S - monotonic_s()))
    await asyncio.gather(*futures)
    took_s = monotonic_s() - began_s
    await producer.stop()
    return {"sent": taken, "per_s": round(taken / took_s, 1)}


def main(arguments: Sequence[str]) -> int:
    """Say `ready` once the records are read, begin when a line arrives, and print what was reached."""
    address, path, rate_per_s = arguments
    records = [Loaded(*record) for record in _RECORDS.decode(Path(path).read_bytes())]
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(asyncio.run(keep_rate(address, records, float(rate_per_s)))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
