"""Whether every row is right: the recomputation of the log, and plain counts of what was sent.

Enters: settings that point at a broker and a store, the events that were sent. Leaves: nothing but a sentence, or a
failed test with the first differences. Called by `world.py` and the tests of the embedded stack.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import redis
from kafka import KafkaConsumer, TopicPartition

from features.online_store import CHECKPOINT_KEY, connect
from infra.settings import Settings
from streams.audit.row_differences import Difference
from streams.audit.verify import verify_store
from streams.checkpoints import decode_checkpoints
from streams.log_ends import read_log_ends
from streams.progress import Advance
from streams.topics import DELTAS, EVENT_TOPICS
from tests.faults.plain_counts import PlainCounts
from tests.faults.processes import wait_until
from tests.faults.workload import Workload

SETTLE_TIMEOUT_S = 120.0
ENDS_TIMEOUT_S = 30.0
SHOWN_DIFFERENCES = 8


def next_offsets(client: redis.Redis, stage: str) -> dict[str, int]:
    """Where each log of a stage goes on, by its checkpoints."""
    any_client: Any = client
    stored = any_client.hgetall(CHECKPOINT_KEY + stage.encode())
    checkpoints = decode_checkpoints({log.decode(): value for log, value in stored.items()})
    return {log: checkpoint.next_offset for log, checkpoint in checkpoints.items()}


def log_ends(settings: Settings, *topics: str) -> dict[str, int]:
    """The end of each topic-partition that holds records."""
    consumer = KafkaConsumer(bootstrap_servers=settings.kafka, enable_auto_commit=False)
    try:
        partitions = [
            TopicPartition(topic, number) for topic in topics for number in consumer.partitions_for_topic(topic) or ()
        ]
        ends = read_log_ends(consumer, partitions, ENDS_TIMEOUT_S)
    finally:
        consumer.close()
    return {f"{part.topic}-{part.partition}": end for part, end in ends.items() if end > 0}


def settle(settings: Settings, tell: Callable[[], str] = str) -> None:
    """Wait until every event and then every delta in the log is folded; `tell` explains a failure."""

    def has_reached(stage: str, ends: dict[str, int]) -> bool:
        with connect(settings.redis) as client:
            try:
                reached = next_offsets(client, stage)
            except redis.RedisError:
                return False
        return all(reached.get(log, 0) >= end for log, end in ends.items())

    for stage, topics in (("session", EVENT_TOPICS), ("target", (DELTAS,))):
        ends = log_ends(settings, *topics)
        wait_until(
            lambda stage=stage, ends=ends: has_reached(stage, ends),  # type: ignore[misc]
            f"every record of {', '.join(topics)} is folded",
            SETTLE_TIMEOUT_S,
            tell,
        )


def check_exact(settings: Settings, workload: Workload, tell: Callable[[], str] = str) -> str:
    """Settle, then hold every row of the store to the recomputation of the log, and the totals to plain counts of what
    was sent; fails the test on any difference. Returns what was compared, for the table.
    """
    settle(settings, tell)
    comparison = compare(settings, workload)
    for found, oracle in ((comparison.plain, "plain counts"), (comparison.recomputed, "the recomputation")):
        shown = "\n".join(map(str, found[:SHOWN_DIFFERENCES]))
        assert not found, f"{len(found)} differences from {oracle}:\n{shown}\n{tell()}"
    assert comparison.rows, "there is no row to compare"
    return f"{comparison.rows:,} rows equal, {comparison.events:,} events"


class Comparison(NamedTuple):
    """How the store differs from plain counts and from the recomputation, and how much was compared."""

    plain: list[str]
    recomputed: list[Difference]
    rows: int
    events: int


def compare(settings: Settings, workload: Workload) -> Comparison:
    """Ask both oracles; a row that could not be verified is a failure."""
    counts = PlainCounts(workload.sent)
    with connect(settings.redis) as client:
        plain = counts.differences(client, settings.feast_project)
    report = verify_store(settings, _no_progress)
    assert not report.unverifiable, report.unverifiable
    return Comparison(plain, report.differences, sum(report.rows.values()), counts.unique)


def _no_progress(_what: str, _total: int) -> AbstractContextManager[Advance]:
    return nullcontext(lambda _count: None)
