"""The simulation's broker: append-only logs of the four event topics, the delta topic and the dead letters.

Enters: records of producers and of stage 1. Leaves: the same records, by log and offset. Called by
`simulation_worker.py`, `simulation_workload.py` and the oracle.
"""

from dataclasses import dataclass, field
from zlib import crc32

from streams.dead_letters import DeadLetter
from streams.log_records import Record
from streams.topics import DELTAS, EVENT_TOPICS

PARTITIONS = 2
BEGIN_MS = 1_700_000_000_000
TopicPartition = tuple[str, int]
EVENT_PARTITIONS: tuple[TopicPartition, ...] = tuple((topic, p) for topic in EVENT_TOPICS for p in range(PARTITIONS))
DELTA_PARTITIONS: tuple[TopicPartition, ...] = tuple((DELTAS, partition) for partition in range(PARTITIONS))
ALL_PARTITIONS = EVENT_PARTITIONS + DELTA_PARTITIONS


@dataclass(slots=True)
class Logs:
    """Every record ever appended; `refusals` names the event records that are invalid, with the reason."""

    now_ms: int = BEGIN_MS
    records: dict[TopicPartition, list[Record]] = field(default_factory=lambda: {tp: [] for tp in ALL_PARTITIONS})
    refusals: dict[str, str] = field(default_factory=dict)
    dead: list[DeadLetter] = field(default_factory=list)

    def append_event(self, topic: str, user_id: str, value: bytes | None, broker_ts_ms: int, refusal: str = "") -> None:
        """Append a producer's record; `refusal` is the reason for which stage 1 has to refuse it."""
        record = self._append((topic, crc32(user_id.encode()) % PARTITIONS), value, broker_ts_ms)
        if refusal:
            self.refusals[f"{record.log}-{record.offset}"] = refusal

    def append_deltas(self, partition: int, message: bytes) -> None:
        """Append a message of stage 1."""
        self._append((DELTAS, partition), message, self.now_ms)

    def read(self, partition: TopicPartition, offset: int, count: int) -> list[Record]:
        """Up to `count` records from `offset` on."""
        return self.records[partition][offset : offset + count]

    def end(self, partition: TopicPartition) -> int:
        """The offset that the next record will get."""
        return len(self.records[partition])

    def _append(self, partition: TopicPartition, value: bytes | None, broker_ts_ms: int) -> Record:
        log = self.records[partition]
        record = Record(*partition, len(log), broker_ts_ms, value)
        log.append(record)
        return record
