"""How far a worker is: both stages' checkpoints against the ends of their logs, without a question to the worker.

Enters: records as they are appended. Leaves: whether everything is applied. Called by the measurements. Reading
checkpoints from the store costs the worker nothing; scraping its metrics would.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from kafka import KafkaConsumer, TopicPartition

from benchmarks.mix import Loaded
from features.online_store import FencedStore
from infra.settings import Settings
from streams.checkpoints import decode_checkpoints
from streams.log_ends import read_log_ends
from streams.log_records import log_name
from streams.session_agent import STAGE as SESSION_STAGE
from streams.target_agent import STAGE as TARGET_STAGE
from streams.topics import DELTAS


class Progress:
    """Follows the logs of one broker, which nobody else appends to, and the workers of one store."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = FencedStore(settings.redis, settings.feast_project)
        self._ends: Counter[str] = Counter()

    def note(self, records: Iterable[Loaded]) -> None:
        """These records were appended."""
        self._ends.update(log_name(record.topic, record.partition) for record in records)

    def events_applied(self) -> int:
        """Events behind stage 1's checkpoints."""
        return sum(self._next_offsets(SESSION_STAGE).values())

    def is_session_done(self) -> bool:
        """Whether stage 1 has applied every record that was noted; its deltas are all on the delta log then."""
        return self._is_at(SESSION_STAGE, self._ends)

    def delta_ends(self) -> dict[str, int]:
        """The ends of the delta log as the broker reports them, at once."""
        with _consumer(self._settings) as consumer:
            reported = consumer.end_offsets(self._partitions())
        return {log_name(DELTAS, tp.partition): end for tp, end in reported.items()}

    def exact_delta_ends(self) -> dict[str, int]:
        """The ends of the delta log, by reading: the embedded broker reports a batch of several records too short."""
        with _consumer(self._settings) as consumer:
            ends = read_log_ends(consumer, self._partitions())
        return {log_name(DELTAS, tp.partition): end for tp, end in ends.items()}

    def is_target_done(self, ends: dict[str, int]) -> bool:
        """Whether stage 2 has applied the delta log up to `ends`."""
        return self._is_at(TARGET_STAGE, ends)

    def close(self) -> None:
        """Let go of the store."""
        self._store.close()

    def _is_at(self, stage: str, ends: dict[str, int]) -> bool:
        reached = self._next_offsets(stage)
        return all(reached.get(log, 0) >= end for log, end in ends.items())

    def _next_offsets(self, stage: str) -> dict[str, int]:
        stored = decode_checkpoints(self._store.read_checkpoints(stage))
        return {log: checkpoint.next_offset for log, checkpoint in stored.items()}

    def _partitions(self) -> list[TopicPartition]:
        return [TopicPartition(DELTAS, number) for number in range(self._settings.partitions)]


@contextmanager
def _consumer(settings: Settings) -> Iterator[KafkaConsumer]:
    consumer = KafkaConsumer(bootstrap_servers=settings.kafka.split(","), group_id=None)
    try:
        yield consumer
    finally:
        consumer.close()
