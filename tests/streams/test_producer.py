"""The producer client, against a real broker: what it acknowledges is there, what is not there it says."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import IllegalStateError, KafkaError, KafkaTimeoutError

from features.catalogue import Item
from infra.clock import monotonic_s
from infra.embedded import EmbeddedServers
from infra.embedded.servers import free_port
from infra.errors import BrokerUnavailable, DeliveryFailed, InvalidEvent, NowrankError
from infra.settings import Settings
from streams.events import Click, Play, Ranking, ServedItem, Thumb, decode_record
from streams.log_ends import read_log_ends
from streams.producer import Producer, new_event_id
from tests.running_time import running_s


def click(user_id: str, **fields: object) -> Click:
    return Click(**{"event_id": new_event_id(), "user_id": user_id, "item_id": "i", "event_ts_ms": 1, **fields})  # type: ignore[arg-type]


def records_of(settings: Settings, topic: str, key: bytes) -> list:  # type: ignore[type-arg]
    """Every record with this key, in the order of its partition."""
    consumer = KafkaConsumer(bootstrap_servers=settings.kafka, group_id=None, auto_offset_reset="earliest")
    try:
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
        ends = read_log_ends(consumer, partitions)
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        found = []
        deadline_s = monotonic_s() + 20
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            assert monotonic_s() < deadline_s
            batches = consumer.poll(timeout_ms=200)
            found += [record for batch in batches.values() for record in batch if record.key == key]
        return found
    finally:
        consumer.close()


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="seeing a process stopped needs /proc")


@pytest.fixture
def stopped_broker(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """The address and the process id of a broker of one's own, which a test may stop; it goes on in the end."""
    with EmbeddedServers(tmp_path) as servers:
        pid = servers.pid("broker")
        try:
            yield servers.kafka, pid
        finally:
            os.kill(pid, signal.SIGCONT)


def stop(pid: int) -> None:
    """Stop a process and wait until every one of its threads stands still."""
    os.kill(pid, signal.SIGSTOP)
    deadline_s = monotonic_s() + 20
    tasks = Path(f"/proc/{pid}/task")
    while not all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks.iterdir()):
        assert monotonic_s() < deadline_s


def test_each_event_lands_on_its_own_topic_keyed_by_its_user(topics: Settings) -> None:
    user = f"user-{uuid.uuid4()}"
    base = {"user_id": user, "item_id": "i", "event_ts_ms": 1}
    events = [
        Click(event_id=new_event_id(), **base),
        Play(event_id=new_event_id(), **base, watched_ms=1, duration_ms=2),
        Thumb(event_id=new_event_id(), **base, value="up"),
        Ranking(ranking_id="r", user_id=user, event_ts_ms=1, task="search", items=[ServedItem(item_id="i", score=0.5)]),
    ]
    with Producer(topics) as producer:
        assert producer.send_many(events) == 4
    for event in events:
        (record,) = records_of(topics, event.topic, user.encode())
        assert decode_record(event.topic, record.value) == event


def test_a_users_events_keep_their_order(topics: Settings) -> None:
    user = f"user-{uuid.uuid4()}"
    with Producer(topics) as producer:
        producer.send_many(click(user, position=number) for number in range(1, 2_001))
    records = records_of(topics, "clicks", user.encode())
    assert [decode_record("clicks", record.value).position for record in records] == list(range(1, 2_001))  # type: ignore[union-attr]
    assert len({record.partition for record in records}) == 1


def test_an_invalid_event_is_named_by_its_position_and_nothing_of_its_batch_is_sent(topics: Settings) -> None:
    user = f"user-{uuid.uuid4()}"
    with Producer(topics) as producer:
        with pytest.raises(InvalidEvent, match="number 1 of the batch") as raised:
            producer.send_many([click(user), click(user, item_id="x" * 10_000)])
        assert (raised.value.reason, raised.value.field) == ("invalid_field", "item_id")
        with pytest.raises(InvalidEvent):
            producer.send(click("\ud800"))
        with pytest.raises(InvalidEvent):
            producer.send(click(user, item_id=object()))
    assert records_of(topics, "clicks", user.encode()) == []


def test_raw_records_carry_the_time_they_are_given(topics: Settings) -> None:
    key = f"raw-{uuid.uuid4()}".encode()
    with Producer(topics.kafka) as producer:
        producer.send_record("clicks", b"not json", key, timestamp_ms=1_600_000_000_000)
    (record,) = records_of(topics, "clicks", key)
    assert (record.value, record.timestamp) == (b"not json", 1_600_000_000_000)


def test_titles_are_keyed_by_their_id(topics: Settings) -> None:
    item = Item(item_id=f"item-{uuid.uuid4()}", title="Toy Story")
    with Producer(topics) as producer:
        producer.send_items([item])
        with pytest.raises(InvalidEvent):
            producer.send_item(Item(item_id="", title="No id"))
    assert len(records_of(topics, "items", item.item_id.encode())) == 1


def test_a_broker_that_is_not_there_is_said_within_seconds() -> None:
    began_s = running_s()
    with pytest.raises(BrokerUnavailable, match="no broker answers"):
        Producer(f"127.0.0.1:{free_port()}", connect_timeout_s=1.0)
    assert running_s() - began_s < 5.0


def test_no_address_at_all_says_what_to_do() -> None:
    with pytest.raises(BrokerUnavailable, match="nowrank up"):
        Producer(Settings(kafka=""))


@pytest.mark.slow
@needs_proc
def test_what_a_stopped_broker_did_not_acknowledge_is_named_by_position(stopped_broker: tuple[str, int]) -> None:
    address, pid = stopped_broker
    with Producer(address, delivery_timeout_s=3.0) as producer:
        producer.deliver([click("u")])
        stop(pid)
        producer.send_many([click("u"), click("u")])
        with pytest.raises(DeliveryFailed) as raised:
            producer.flush()
        assert [position for position, _cause in raised.value.failures] == [0, 1]
        with pytest.raises(BrokerUnavailable):
            producer.deliver([click("u")])
        os.kill(pid, signal.SIGCONT)
        assert producer.deliver([click("u")]) == 1


def test_a_producer_sends_again_once_a_broker_that_forgot_it_is_back(tmp_path: Path) -> None:
    with EmbeddedServers(tmp_path) as servers, Producer(servers.kafka, delivery_timeout_s=3.0) as producer:
        producer.deliver([click("u")])
        servers.kill("broker")
        tries, deadline_s = 0, monotonic_s() + 60
        while True:
            try:
                producer.deliver([click("u")])
                break
            except (DeliveryFailed, BrokerUnavailable):
                tries += 1
                assert monotonic_s() < deadline_s
        assert tries > 0


class Answer:
    """What a record came to, as kafka-python's futures say it."""

    is_done = True

    def __init__(self, exception: KafkaError | None = None) -> None:
        self.exception = exception

    def failed(self) -> bool:
        return self.exception is not None

    def get(self, _timeout_s: float) -> None:
        if self.exception is not None:
            raise self.exception


class BreakingClient:
    """The first connection of a producer: when it has taken one record, another thread finds it broken. What becomes of
    a record after that is for `take_next` to say.
    """

    def __init__(self, find_broken: Callable[[], None], take_next: Callable[[], Answer]) -> None:
        self._is_broken = False
        self._find_broken = find_broken
        self._take_next = take_next

    def send(self, *_record: object, **_options: object) -> Answer:
        if self._is_broken:
            return self._take_next()
        self._is_broken = True
        self._find_broken()
        return Answer()

    def flush(self, timeout: float) -> None:
        """Nothing waits."""

    def close(self, timeout: float) -> None:
        """Nothing is open."""


class BreakingProducer(Producer):
    """Has a `BreakingClient` and finds no broker for another connection."""

    def __init__(self, take_next: Callable[[], Answer]) -> None:
        self.client: BreakingClient | None = None
        self._take_next = take_next
        super().__init__("127.0.0.1:1")

    def _connect(self) -> Any:
        if self.client is not None:
            raise BrokerUnavailable("no broker answers")
        self.client = BreakingClient(self._find_broken, self._take_next)
        return self.client

    def _find_broken(self) -> None:
        self._broken = True


def expire() -> Answer:
    """A record that is not acknowledged."""
    return Answer(KafkaTimeoutError("expired"))


def refuse_as_closed() -> Answer:
    """A record for a connection that another thread has given up already."""
    raise IllegalStateError("closed")


def test_a_batch_stays_with_its_connection_when_another_thread_finds_it_broken_in_the_middle() -> None:
    producer = BreakingProducer(expire)
    titles = [Item(item_id=f"i{number}", title="A title") for number in range(3)]
    assert producer.send_items(titles) == 3
    with pytest.raises(DeliveryFailed) as raised:
        producer.flush()
    assert [position for position, _cause in raised.value.failures] == [1, 2]


@pytest.mark.parametrize("take_next", [expire, refuse_as_closed])
def test_a_delivery_that_breaks_in_the_middle_names_its_own_positions_and_leaves_none_for_the_next(
    take_next: Callable[[], Answer],
) -> None:
    producer = BreakingProducer(take_next)
    with pytest.raises(DeliveryFailed) as raised:
        producer.deliver([click("u"), click("u"), click("u")])
    assert [position for position, _cause in raised.value.failures] == [1, 2]
    titles = [Item(item_id=f"i{number}", title="A title") for number in range(3)]
    producer = BreakingProducer(take_next)
    with pytest.raises(DeliveryFailed) as raised:
        producer.deliver_items(titles)
    assert [position for position, _cause in raised.value.failures] == [1, 2]
    with pytest.raises(BrokerUnavailable):
        producer.deliver_items(titles)
    producer.flush()


@pytest.mark.slow
@needs_proc
def test_an_error_inside_the_block_is_not_hidden_by_a_failed_delivery(stopped_broker: tuple[str, int]) -> None:
    address, pid = stopped_broker
    with pytest.raises(KeyError, match="mine"):  # noqa: PT012, SIM117
        with Producer(address, delivery_timeout_s=1.0) as producer:
            producer.deliver([click("u")])
            stop(pid)
            producer.send(click("u"))
            raise KeyError("mine")


def test_a_closed_producer_refuses_and_may_be_closed_again(topics: Settings) -> None:
    producer = Producer(topics)
    producer.close()
    producer.close()
    with pytest.raises(NowrankError, match="closed"):
        producer.send(click("u"))


def test_a_producer_loads_kafka_python_and_msgspec_only() -> None:
    script = (
        "import sys; from nowrank import Producer; Producer;"
        "print(*{name.partition('.')[0] for name in sys.modules} & set(sys.argv[1:]))"
    )
    heavy = ["numpy", "faust", "redis", "pyarrow", "rich", "torch", "feast", "prometheus_client", "mmh3", "httpx"]
    done = subprocess.run([sys.executable, "-c", script, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
