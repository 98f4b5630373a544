"""What a worker knows of the catalogue: which ids it holds, and nothing that could hold a fold up."""

import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from features.catalogue import Item
from features.probe import probe_id
from infra.clock import monotonic_s
from infra.embedded import EmbeddedServers
from infra.embedded.servers import free_port
from infra.settings import Settings
from streams import known_items
from streams.known_items import KnownItems
from streams.producer import Producer
from streams.topics import create_topics

pytestmark = pytest.mark.slow


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline_s = monotonic_s() + timeout_s
    pause = threading.Event()
    while not condition():
        assert monotonic_s() < deadline_s, "the condition did not come true in time"
        pause.wait(0.01)


def test_ids_of_the_catalogue_are_known_and_others_counted(topics: Settings) -> None:
    known, gone, later = (f"item-{uuid.uuid4()}" for _ in range(3))
    items = KnownItems(topics)
    with Producer(topics) as producer:
        producer.send_items([Item(item_id=known, title="T", deleted=True), Item(item_id=gone, title="T")])
        producer.flush()
        assert items.count_unknown([known, "nobody's"]) == 0, "it has not read the catalogue yet"
        items.start()
        until(lambda: items.ready)
        assert items.count_unknown([known, gone]) == 0
        assert items.count_unknown([known, "nobody's", later, "nobody's"]) == 3
        producer.send_item(Item(item_id=later, title="T"))
        producer.send_record("items", None, gone.encode())
        producer.flush()
        until(lambda: items.count_unknown([later]) == 0 and items.count_unknown([gone]) == 1)
    items.stop()
    assert items.count_unknown(["nobody's"]) == 1, "it goes on with what it has read"


def test_a_canarys_titles_are_not_counted(topics: Settings) -> None:
    items = KnownItems(topics)
    with Producer(topics) as producer:
        producer.send_item(Item(item_id=f"item-{uuid.uuid4()}", title="T"))
    items.start()
    until(lambda: items.ready)
    assert items.count_unknown([probe_id("canary-0", 1), "nobody's"]) == 1
    items.stop()


def test_nothing_is_counted_without_a_catalogue_or_a_broker(tmp_path: Path) -> None:
    nowhere = KnownItems(Settings(kafka=f"127.0.0.1:{free_port()}"))
    nowhere.start()
    with EmbeddedServers(tmp_path) as servers:
        settings = Settings(kafka=servers.kafka)
        items = KnownItems(settings)
        items.start()
        assert items.count_unknown(["nobody's"]) == 0
        create_topics(settings)
        until(lambda: items.ready)
        assert items.count_unknown(["nobody's"]) == 0, "an empty catalogue knows no title, so that none is unknown"
        items.stop()
    nowhere.stop()
    assert not nowhere.ready


def test_a_catalogue_that_is_too_long_switches_the_count_off(topics: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_items, "MAX_ITEMS", 1)
    with Producer(topics) as producer:
        producer.send_items(Item(item_id=f"item-{uuid.uuid4()}", title="T") for _ in range(3))
    items = KnownItems(topics)
    items.start()
    until(lambda: items._follower.ready)
    assert items.count_unknown(["nobody's"]) == 0
    assert len(items._follower.titles.ids) == 1
    items.stop()


def test_a_long_catalogue_is_read_in_small_bites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedServers(tmp_path) as servers:
        settings = Settings(kafka=servers.kafka)
        create_topics(settings)
        with Producer(settings) as producer:
            producer.send_items(Item(item_id=str(number), title="T") for number in range(3_000))
        monkeypatch.setattr(known_items, "PAUSE_S", 0.05)
        items = KnownItems(settings)
        began_s = monotonic_s()
        items.start()
        until(lambda: items.ready)
        assert monotonic_s() - began_s > 3_000 / 500 * 0.05, "it paused after each bite"
        assert items.count_unknown(map(str, range(3_001))) == 1
        items.stop()
