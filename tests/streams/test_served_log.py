"""The served log on a real broker: whose label holds when the topic and the log do not say the same."""

import pytest

from infra.clock import now_ms
from infra.settings import Settings
from streams.events import Click, Ranking, ServedItem, Thumb
from streams.producer import Producer, new_event_id
from streams.served_log import BOTH, JOINED, TOPIC, ServedLog, read_served_log
from streams.shown_labels import ItemLabel, RankingLabels, encode_labels
from streams.topics import LABELS

pytestmark = pytest.mark.slow

ITEMS = [ServedItem(item_id=item_id, score=0.0) for item_id in ("a", "b")]


class World:
    """Answers of an hour ago to one member each, what the members did, and what the stage `labels` wrote."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.begin_ms = now_ms() - 3_600_000

    def show(self, *ranking_ids: str) -> None:
        with Producer(self._settings) as producer:
            producer.deliver(
                Ranking(ranking_id=name, user_id=f"u-{name}", event_ts_ms=self.begin_ms, task="pre_query", items=ITEMS)
                for name in ranking_ids
            )

    def click(self, ranking_id: str, item_id: str) -> None:
        at_ms = self.begin_ms + 1000
        with Producer(self._settings) as producer:
            producer.deliver(
                [Click(event_id=new_event_id(), user_id=f"u-{ranking_id}", item_id=item_id, event_ts_ms=at_ms)]
            )

    def thumb_down(self, ranking_id: str, item_id: str) -> None:
        ids = {"event_id": new_event_id(), "user_id": f"u-{ranking_id}", "item_id": item_id}
        with Producer(self._settings) as producer:
            producer.deliver([Thumb(**ids, event_ts_ms=self.begin_ms + 2000, value="down")])

    def write(self, ranking_id: str, version: int, *clicked: str) -> None:
        """A label as the stage writes it."""
        labels = RankingLabels(
            ranking_id=ranking_id,
            user_id=f"u-{ranking_id}",
            event_ts_ms=self.begin_ms,
            version=version,
            items=[ItemLabel(item_id=item_id, clicked=True) for item_id in clicked],
        )
        with Producer(self._settings) as producer:
            producer.send_record(LABELS, encode_labels(labels), ranking_id.encode())
            producer.flush()

    def read(self) -> ServedLog:
        return read_served_log(self._settings)


def positives(served: ServedLog) -> dict[str, set[str]]:
    return {one.ranking.ranking_id: one.labels.positives for one in served.rankings}


def test_what_the_stage_has_not_read_yet_is_joined_from_the_log(empty_log: Settings) -> None:
    world = World(empty_log)
    world.show("read", "lagging", "unseen")
    for ranking_id in ("read", "lagging"):
        world.write(ranking_id, 1)
    for ranking_id in ("read", "lagging", "unseen"):
        world.click(ranking_id, "a")
    world.write("read", 2, "a")
    served = world.read()
    assert positives(served) == {"read": {"a"}, "lagging": {"a"}, "unseen": {"a"}}
    assert served.labels_from == BOTH
    assert not served.left_out
    for ranking_id in ("lagging", "unseen"):
        world.write(ranking_id, 2, "a")
    assert world.read().labels_from == TOPIC
    for ranking_id in ("read", "lagging", "unseen"):
        world.thumb_down(ranking_id, "a")
    again = world.read()
    assert positives(again) == {"read": set(), "lagging": set(), "unseen": set()}
    assert again.labels_from == JOINED


def test_what_the_log_has_lost_is_known_from_the_topic(empty_log: Settings) -> None:
    world = World(empty_log)
    world.show("old")
    world.write("old", 3, "b")
    world.click("old", "a")
    served = world.read()
    assert positives(served) == {"old": {"b"}}
    assert served.labels_from == TOPIC
