"""Topics: their names, their settings and how they are created.

Enters: settings. Leaves: topics on the broker. Called by `nowrank topics`, which the embedded stack runs as well;
whoever reads or writes a topic imports its name.
"""

from dataclasses import dataclass

from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from infra.errors import BrokerUnavailable
from infra.settings import Settings
from streams.log_ends import read_log_ends

PLAYS = "plays"
CLICKS = "clicks"
THUMBS = "thumbs"
RANKINGS = "rankings"
ITEMS = "items"
DELTAS = "deltas"
DEAD_LETTERS = "dead-letters"
LABELS = "labels"

EVENT_TOPICS = (PLAYS, CLICKS, THUMBS, RANKINGS)
FOLDED_TOPICS = (*EVENT_TOPICS, DELTAS)  # what the rows of the store are made of
WEEK_MS = 7 * 24 * 3600 * 1000
# What kafka-python raises for an address that is none, or where nobody answers.
NO_BROKER_ERRORS = (KafkaError, ValueError, OSError)


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """How a topic is created; `partitioned` topics get the configured number of partitions, the others one."""

    name: str
    partitioned: bool
    configs: dict[str, str]


_LOG = {"retention.ms": str(4 * WEEK_MS), "message.timestamp.type": "LogAppendTime"}
TOPICS = (
    *(TopicSpec(name, True, _LOG) for name in EVENT_TOPICS),
    TopicSpec(DELTAS, True, {"retention.ms": str(8 * WEEK_MS)}),
    TopicSpec(LABELS, True, {"retention.ms": str(4 * WEEK_MS)}),
    TopicSpec(ITEMS, False, {"cleanup.policy": "compact"}),
    TopicSpec(DEAD_LETTERS, False, {"retention.ms": str(4 * WEEK_MS)}),
)


def create_topics(settings: Settings) -> list[str]:
    """Create what is missing and return the names created; raises `BrokerUnavailable`."""
    try:
        admin = KafkaAdminClient(bootstrap_servers=settings.kafka.split(","), request_timeout_ms=10_000)
    except NO_BROKER_ERRORS as error:
        raise BrokerUnavailable(f"no broker answers at {settings.kafka!r}: {error}") from error
    created = []
    try:
        existing = set(admin.list_topics())
        for spec in TOPICS:
            if spec.name in existing:
                continue
            partitions = settings.partitions if spec.partitioned else 1
            topic = NewTopic(spec.name, partitions, settings.replication, topic_configs=spec.configs)
            try:
                admin.create_topics([topic])
                created.append(spec.name)
            except TopicAlreadyExistsError:
                continue
    except KafkaError as error:
        raise BrokerUnavailable(f"topics could not be created at {settings.kafka!r}: {error}") from error
    finally:
        admin.close()
    return created


def read_topic_ids(settings: Settings) -> dict[str, str]:
    """The broker's id of each of our topics that exists: a topic that is deleted and made anew has another one.

    Empty for brokers that have no such ids (Apache Kafka before 2.8). Raises `BrokerUnavailable`.
    """
    try:
        admin = KafkaAdminClient(bootstrap_servers=settings.kafka.split(","), request_timeout_ms=10_000)
        try:
            described = admin.describe_topics([spec.name for spec in TOPICS])
        finally:
            admin.close()
    except NO_BROKER_ERRORS as error:
        raise BrokerUnavailable(f"the topics could not be read at {settings.kafka!r}: {error}") from error
    return {topic["name"]: str(topic["topic_id"]) for topic in described if topic.get("topic_id")}


def describe_topics(settings: Settings) -> list[tuple[str, int, int]]:
    """Name, partitions (0: missing) and records of each of our topics; raises `BrokerUnavailable`."""
    try:
        consumer = KafkaConsumer(
            bootstrap_servers=settings.kafka.split(","),
            group_id=None,
            allow_auto_create_topics=False,
            bootstrap_timeout_ms=3_000,
        )
    except NO_BROKER_ERRORS as error:
        raise BrokerUnavailable(f"no broker answers at {settings.kafka!r}: {error}") from error
    try:
        existing = consumer.topics()
        described = []
        for spec in TOPICS:
            numbers = consumer.partitions_for_topic(spec.name) if spec.name in existing else None
            parts = [TopicPartition(spec.name, number) for number in numbers or ()]
            first, last = (consumer.beginning_offsets(parts), read_log_ends(consumer, parts)) if parts else ({}, {})
            described.append((spec.name, len(parts), sum(last[part] - first[part] for part in parts)))
    except KafkaError as error:
        raise BrokerUnavailable(f"the topics could not be read at {settings.kafka!r}: {error}") from error
    finally:
        consumer.close()
    return described
