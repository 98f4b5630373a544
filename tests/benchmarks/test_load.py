"""The load: every record arrives where it belongs, at the rate that was asked for."""

import asyncio
import uuid
from collections import Counter

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

from benchmarks.load import append, keep_rate
from benchmarks.mix import Loaded
from benchmarks.progress import Progress
from features.online_store import FencedStore
from infra.settings import Settings
from streams.checkpoints import Checkpoint, encode_checkpoint
from streams.session_agent import STAGE as SESSION_STAGE


@pytest.fixture
def topic(settings: Settings) -> str:
    """A new topic with two partitions."""
    name = f"load-{uuid.uuid4()}"
    admin = KafkaAdminClient(bootstrap_servers=settings.kafka.split(","))
    admin.create_topics([NewTopic(name, 2, 1)])
    admin.close()
    return name


def make_records(topic: str, number: int, size_bytes: int = 100) -> list[Loaded]:
    return [
        Loaded(topic, place % 2, f"{place}-".encode().ljust(size_bytes, b"x"), str(place).encode())
        for place in range(number)
    ]


def read_all(settings: Settings, topic: str, number: int) -> list[tuple[int, bytes, bytes]]:
    consumer = KafkaConsumer(
        bootstrap_servers=settings.kafka.split(","),
        group_id=None,
        auto_offset_reset="earliest",
        consumer_timeout_ms=10_000,
    )
    consumer.assign([TopicPartition(topic, 0), TopicPartition(topic, 1)])
    read = []
    for record in consumer:
        read.append((record.partition, record.value, record.key))
        if len(read) == number:
            break
    consumer.close()
    return read


def test_appended_records_arrive_once_each_on_their_partition_across_full_batches(
    settings: Settings, topic: str
) -> None:
    records = make_records(topic, 5_000)
    append(settings.kafka, records)
    expected = Counter((record.partition, record.value, record.key) for record in records)
    assert Counter(read_all(settings, topic, 5_000)) == expected


def test_a_steady_load_sends_everything_no_faster_than_asked(settings: Settings, topic: str) -> None:
    records = make_records(topic, 400)
    reached = asyncio.run(keep_rate(settings.kafka, records, 800.0))
    assert reached["sent"] == 400
    assert reached["per_s"] <= 820
    assert sorted(value for _, value, _ in read_all(settings, topic, 400)) == sorted(one.value for one in records)


def test_progress_is_done_when_the_checkpoints_stand_at_the_ends_of_what_was_appended(
    topics: Settings, redis_client: object
) -> None:
    progress = Progress(topics)
    progress.note(make_records("plays", 6))
    store = FencedStore(topics.redis, topics.feast_project)
    store.write_checkpoints(SESSION_STAGE, {"plays-0": encode_checkpoint(Checkpoint(3))})
    assert not progress.is_session_done()
    store.write_checkpoints(SESSION_STAGE, {"plays-1": encode_checkpoint(Checkpoint(3))})
    assert progress.is_session_done()
    assert progress.events_applied() == 6
    store.close()
    progress.close()
