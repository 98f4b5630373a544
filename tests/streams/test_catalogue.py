"""The catalogue: its rules, its wire form, and the topic read whole and followed, on a real broker."""

import contextlib
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka.admin import KafkaAdminClient

from features.catalogue import Catalogue, Item
from infra.clock import monotonic_s
from infra.embedded import EmbeddedServers
from infra.embedded.servers import free_port
from infra.errors import BrokerUnavailable, InvalidEvent
from infra.settings import Settings
from streams.catalogue import CatalogueFollower, convert_item, decode_item, encode_item
from streams.producer import Producer
from streams.topics import ITEMS, create_topics, describe_topics
from tests.faults.world import World

pytestmark = pytest.mark.slow

NOW_MS = 1_000_000
FULL = Item(
    item_id="1",
    title="Amélie",
    kind="movie",
    genres=("Comedy", "Romance"),
    people=("Audrey Tautou",),
    year=2001,
    available_from_ms=5,
    countries=("FR", "US"),
)


def wait_for(condition, timeout_s: float = 20.0) -> None:  # type: ignore[no-untyped-def]
    deadline_s = monotonic_s() + timeout_s
    pause = threading.Event()
    while not condition():
        assert monotonic_s() < deadline_s, "the condition did not come true in time"
        pause.wait(0.01)


@contextlib.contextmanager
def following(settings: Settings) -> Iterator[CatalogueFollower]:
    """A follower that has read the whole topic once."""
    follower = CatalogueFollower(settings)
    follower.start()
    try:
        wait_for(lambda: follower.ready)
        yield follower
    finally:
        follower.stop()


@contextlib.contextmanager
def following_old_titles(folder: Path, count: int) -> Iterator[tuple[EmbeddedServers, Settings, CatalogueFollower]]:
    """A broker of the test's own, and a follower that has read its catalogue of `count` titles called Old."""
    with EmbeddedServers(folder) as servers:
        settings = Settings(kafka=servers.kafka)
        create_topics(settings)
        with Producer(settings) as producer:
            producer.send_items(Item(item_id=f"old-{number}", title="Old") for number in range(count))
        with following(settings) as follower:
            assert len(follower.catalogue) == count
            yield servers, settings, follower


def test_a_title_is_written_and_read_back() -> None:
    assert decode_item(encode_item(FULL)) == FULL
    assert convert_item({"item_id": "1", "title": "T"}) == Item(item_id="1", title="T")


@pytest.mark.parametrize(
    ("reason", "field", "value"),
    [
        ("empty", None, b""),
        ("malformed_json", None, b"{"),
        ("missing_field", "title", b'{"item_id":"1"}'),
        ("invalid_field", "title", b'{"item_id":"1","title":""}'),
        ("invalid_field", "item_id", b'{"item_id":"1\\n","title":"T"}'),
        ("invalid_field", "countries[0]", b'{"item_id":"1","title":"T","countries":["usa"]}'),
        ("invalid_field", "year", b'{"item_id":"1","title":"T","year":20010}'),
        ("oversized", None, b'{"item_id":"1","title":"' + b"T" * 70_000 + b'"}'),
    ],
)
def test_a_bad_title_gets_its_reason_and_its_field(reason: str, field: str | None, value: bytes) -> None:
    with pytest.raises(InvalidEvent) as raised:
        decode_item(value)
    assert (raised.value.reason, raised.value.field) == (reason, field)


@pytest.mark.parametrize(
    ("item", "country", "available"),
    [
        (Item(item_id="1", title="T"), None, True),
        (Item(item_id="1", title="T", deleted=True), None, False),
        (Item(item_id="1", title="T", available_from_ms=NOW_MS), None, True),
        (Item(item_id="1", title="T", available_from_ms=NOW_MS + 1), None, False),
        (Item(item_id="1", title="T", countries=("US",)), "US", True),
        (Item(item_id="1", title="T", countries=("US",)), "FR", False),
        (Item(item_id="1", title="T", countries=("US",)), None, False),
    ],
)
def test_only_titles_that_are_there_now_and_here_are_available(
    item: Item, country: str | None, available: bool
) -> None:
    assert Catalogue([item]).is_available("1", country, NOW_MS) is available


def test_unknown_titles_are_not_available_and_every_change_moves_the_version() -> None:
    catalogue = Catalogue()
    assert not catalogue.is_available("1", None, NOW_MS)
    catalogue.put(FULL)
    catalogue.put(FULL)
    catalogue.remove("1")
    catalogue.remove("1")
    assert (catalogue.version, len(catalogue), catalogue.get("1")) == (3, 0, None)
    catalogue.replace(Catalogue([FULL]))
    assert (list(catalogue), "1" in catalogue) == ([FULL], True)


def test_the_topic_is_read_to_its_very_end_whatever_its_last_batch_holds(tmp_path: Path) -> None:
    with EmbeddedServers(tmp_path) as servers:
        settings = Settings(kafka=servers.kafka)
        create_topics(settings)
        with following(settings) as follower:
            assert len(follower.catalogue) == 0
        with Producer(settings, linger_ms=200) as producer:
            producer.send_items(Item(item_id=str(number), title="First") for number in range(700))
        with Producer(settings, linger_ms=200) as producer:
            producer.send_items(Item(item_id=str(number), title="Second") for number in range(350, 700))
            producer.send_record("items", None, b"0")
            producer.send_record("items", b"no title", b"1")
        with following(settings) as follower:
            catalogue = follower.catalogue
        assert ("items", 1, 1_052) in describe_topics(settings)
    assert len(catalogue) == 699
    assert {item.title for item in catalogue if int(item.item_id) >= 350} == {"Second"}


def test_a_follower_sees_new_changed_and_removed_titles(topics: Settings) -> None:
    first, second = (f"item-{uuid.uuid4()}" for _ in range(2))
    with Producer(topics) as producer:
        producer.send_item(Item(item_id=first, title="Old"))
    with following(topics) as follower, Producer(topics) as producer:
        assert follower.catalogue.get(first) == Item(item_id=first, title="Old")
        producer.send_items([Item(item_id=first, title="New"), Item(item_id=second, title="Two")])
        producer.flush()
        wait_for(lambda: follower.catalogue.get(first) == Item(item_id=first, title="New"))
        producer.send_record("items", None, second.encode())
        producer.flush()
        wait_for(lambda: second not in follower.catalogue)


def test_a_broker_that_is_away_never_raises_in_the_follower(caplog: pytest.LogCaptureFixture) -> None:
    follower = CatalogueFollower(Settings(kafka=f"127.0.0.1:{free_port()}"))
    follower.start()
    wait_for(lambda: "the catalogue cannot be followed, next try in 1.0 s: no broker answers at" in caplog.text)
    follower.stop()
    assert not follower.ready


def test_a_follower_rests_while_the_brokers_address_takes_connections_and_closes_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(World(tmp_path, proxied=True)) as world:
        assert world.proxy is not None
        with following(world.settings) as follower:
            world.proxy.cut()
            wait_for(lambda: "next try in 0.5 s: connections to the broker are taken and closed again" in caplog.text)
            world.proxy.mend()
            with Producer(world.settings) as producer:
                producer.send_item(FULL)
            wait_for(lambda: list(follower.catalogue) == [FULL], timeout_s=60.0)


def test_a_follower_begins_again_when_the_broker_comes_back_with_another_log(tmp_path: Path) -> None:
    with following_old_titles(tmp_path, 50) as (servers, settings, follower):
        servers.kill("broker")
        wait_for(lambda: servers.restarts("broker") > 0)
        wait_for(lambda: _created(settings))
        with Producer(settings) as producer:
            producer.send_item(FULL)
        wait_for(lambda: list(follower.catalogue) == [FULL], timeout_s=60.0)


def test_a_follower_begins_again_when_the_topic_was_made_anew_with_more_titles(tmp_path: Path) -> None:
    with following_old_titles(tmp_path, 5) as (_, settings, follower):
        admin = KafkaAdminClient(bootstrap_servers=settings.kafka)
        admin.delete_topics([ITEMS])
        admin.close()
        create_topics(settings)
        with Producer(settings) as producer:
            producer.send_items(Item(item_id=f"new-{number}", title="New") for number in range(9))
        wait_for(lambda: {item.title for item in follower.catalogue} == {"New"})
        assert len(follower.catalogue) == 9


def _created(settings: Settings) -> bool:
    try:
        create_topics(settings)
    except BrokerUnavailable:
        return False
    return True
