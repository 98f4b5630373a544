"""Records as they stand in the logs.

Enters: what a consumer has fetched. Leaves: `Record`s, the names of logs. Called by the stages and by whatever reads a
log.
"""

from functools import cache
from typing import NamedTuple


class Record(NamedTuple):
    """One record of a log; `generation` is that of the consumer group when it was fetched."""

    topic: str
    partition: int
    offset: int
    broker_ts_ms: int
    value: bytes | None
    generation: int = 0

    @property
    def log(self) -> str:
        """The topic-partition, as rows and checkpoints name it."""
        return log_name(self.topic, self.partition)


@cache  # as many as there are topic-partitions
def log_name(topic: str, partition: int) -> str:
    """The name of a topic-partition in rows and checkpoints."""
    return f"{topic}-{partition}"
