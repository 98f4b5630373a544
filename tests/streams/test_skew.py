"""`nowrank skew` on a real broker, Redis, worker and scorer: what was served is what the log gives, or it says so."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import httpx
import pytest

from features.catalogue import Item
from features.online_store import connect
from features.rows import COUNTRY, ITEM, USER
from features.vector import COLUMN_NAMES
from infra.clock import now_ms
from infra.settings import Settings
from nowrank.cli import main
from serving.skew_command import artifact_similarities
from streams.audit import skew_catalogue
from streams.audit.skew import compare_served
from streams.audit.skew_report import SkewReport
from streams.events import Click, Ranking, ServedItem
from streams.producer import Producer, new_event_id
from streams.progress import Advance
from tests.faults.workload import Load, Workload, send
from tests.faults.world import World
from tests.serving.untrained import save_untrained_artifact
from tests.serving.world import metric, running_scorer, wait_until

pytestmark = pytest.mark.slow
GENRES = ("Drama", "Comedy", "Thriller")
LOGGED = 'nowrank_scorer_rankings_total{result="logged"}'


class Served:
    """A scorer over a world whose worker goes on."""

    def __init__(self, settings: Settings, world: World, client: httpx.Client) -> None:
        self.settings, self.world, self.client = settings, world, client

    def rank(self, user_id: str, task: str = "search", **more: Any) -> None:
        """One ranking, which is in the log when this returns."""
        before = metric(self.client, LOGGED)
        answer = self.client.post("/rank", json={"user_id": user_id, "task": task, **more})
        assert answer.status_code == 200, answer.text
        wait_until(lambda: metric(self.client, LOGGED) > before)

    def compare(self, last: int) -> SkewReport:
        return compare_served(self.settings, last, artifact_similarities(self.settings), quiet)


def quiet(_what: str, _total: int) -> AbstractContextManager[Advance]:
    return nullcontext(lambda _count: None)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    world = World(tmp_path_factory.mktemp("skew"))
    try:
        items = [
            Item(item_id=f"i{number}", title=f"Space title {number}", genres=(GENRES[number % 3],))
            for number in range(30)
        ]
        with Producer(world.settings) as producer:
            producer.send_items(items)
        workload = Workload(seed=31)
        send(world.settings, workload.take(1_000))
        settings = replace(world.settings, artifact_dir=str(world.folder / "artifact"), rank_deadline_ms=2_000)
        save_untrained_artifact(settings.artifact_path, items)
        world.worker().keep()
        world.settle()
        with running_scorer(settings) as (_, client), Load(world.settings, workload, events_per_s=60):
            yield Served(settings, world, client)
    finally:
        world.close()


@pytest.fixture(autouse=True)
def _settled_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scorer was ready only when it had read the titles."""
    monkeypatch.setattr(skew_catalogue, "FOLLOWED_WITHIN_MS", 0)


def test_what_was_served_under_load_is_what_the_log_gives(served: Served) -> None:
    for number in range(12):
        task = ("search", "more_like_this", "pre_query")[number % 3]
        context = {"search": {"query": "Space"}, "more_like_this": {"source_item_id": f"s{number % 8}"}}.get(task, {})
        served.rank(f"u{number}", task, country="DE", **context)  # type: ignore[arg-type]
    served.rank("nobody", "pre_query")
    report = served.compare(13)
    assert report.rankings == 13
    assert report.examples == []
    assert report.exit_code == 0
    assert dict(report.not_compared) == {}
    assert all(column.compared > 100 for column in report.columns)


def test_rows_that_lie_are_found_by_their_columns(served: Served) -> None:
    """Of a member and a country that the load leaves alone: the worker would write a row that it changes anew."""
    project = served.settings.feast_project
    publish(served, user_id="calm", item_id="calm", country="FR")
    with connect(served.settings.redis) as client:
        for family, value, other in ((USER, "calm", "u21"), (COUNTRY, "FR", "US")):
            wait_until(lambda family=family, value=value: client.exists(family.key(value, project)))  # type: ignore[misc]
            lie: Any = client.hgetall(family.key(other, project))
            lie.pop(b"_in")
            client.hset(family.key(value, project), mapping=lie)
    served.rank("calm", "pre_query", country="FR")
    report = served.compare(1)
    lying = {column.name for column in report.columns if column.differing}
    assert {"user_title_weight", "country_plays"} <= lying
    assert not any(name.startswith(("item_", "title_", "query_", "source_item_")) for name in lying)
    assert report.exit_code == 1
    assert {example.column for example in report.examples} <= lying


def publish(served: Served, **more: Any) -> None:
    """One click, a second ago."""
    with Producer(served.settings) as producer:
        producer.deliver([Click(event_id=new_event_id(), event_ts_ms=now_ms() - 1_000, **more)])


def test_an_item_row_that_lies_is_found_by_its_columns(served: Served) -> None:
    """Of a title that the load leaves alone. What is logged counts as an impression, and the row is written anew."""
    project, packed = served.settings.feast_project, ITEM.packed_fields[0]
    quiet_row = ITEM.key("quiet", project)
    publish(served, user_id="u1", item_id="quiet")
    with connect(served.settings.redis) as client:
        wait_until(lambda: client.exists(quiet_row))
        wait_until(lambda: impressions_seen(served) == 0.0)
        other: Any = client.hget(ITEM.key("i4", project), packed)
        client.hset(quiet_row, packed, other)
        wait_until(lambda: impressions_seen(served) > 0.0)
    served.rank("u23", items=["quiet", "i5"], query="space")
    report = served.compare(1)
    assert {(one.item_id, one.column[:5]) for one in report.examples} == {("quiet", "item_")}
    assert report.exit_code == 1


def impressions_seen(served: Served) -> float:
    """What the near cache knows of the quiet title, by a question that leaves no trace."""
    request = {"user_id": "u23", "task": "pre_query", "items": ["quiet"], "log": False, "explain": True}
    [item] = served.client.post("/rank", json=request).json()["items"]
    return float(item["features"]["item_impressions_14d"]["value"])


def test_without_the_model_its_similarities_are_not_compared(served: Served) -> None:
    served.rank("u24", "pre_query")
    report = compare_served(served.settings, 1, None, quiet)
    assert report.exit_code == 0
    assert {column.name for column in report.columns if not column.compared} == {
        "source_similarity",
        "user_similarity",
        "session_similarity",
        "source_ease",
        "user_ease",
        "session_ease",
    }
    [reason] = report.not_compared
    assert "is not at hand" in reason


def test_scores_that_a_cluster_shares_are_not_compared(served: Served) -> None:
    features = bytes(4 * len(COLUMN_NAMES))
    shared = Ranking(
        ranking_id=new_event_id(), user_id="u1", event_ts_ms=now_ms(), task="pre_query", shared=True,
        items=[ServedItem(item_id="i1", score=0.0, features=features)],
    )  # fmt: skip
    with Producer(served.settings) as producer:
        producer.deliver([shared])
    report = served.compare(1)
    assert (report.rankings, report.exit_code) == (0, 1)
    assert report.not_compared == {"rankings whose scores a cluster shares": 1}


def test_a_title_that_changed_since_is_not_compared_by_its_words(served: Served) -> None:
    served.rank("u25", "search", query="space", items=["i7", "i8"])
    with Producer(served.settings) as producer:
        producer.send_items([Item(item_id="i7", title="Another name", genres=("Drama",))])
    report = served.compare(1)
    assert report.exit_code == 0
    columns = {column.name: column.compared for column in report.columns}
    assert columns["title_exact"] == 1
    assert columns["item_clicks_1d"] == 2
    assert set(report.not_compared) == {"the title has changed since"}
    wait_until(lambda: title_of(served, "i7") == "Another name")  # what follows is ranked by the new title


def title_of(served: Served, item_id: str) -> str:
    """How the scorer calls a title, by a question that leaves no trace."""
    request = {"user_id": "u23", "task": "pre_query", "items": [item_id], "log": False}
    [item] = served.client.post("/rank", json=request).json()["items"]
    return str(item["title"])


def test_the_command_prints_a_table(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NOWRANK_KAFKA", served.settings.kafka)
    monkeypatch.setenv("NOWRANK_REDIS", served.settings.redis)
    monkeypatch.setenv("NOWRANK_ARTIFACT_DIR", served.settings.artifact_dir)
    served.rank("u26", "pre_query")
    assert main(["skew", "--last", "1"]) == 0
    printed = capsys.readouterr().out
    assert "1 rankings" in printed
    assert printed.endswith("equal\n")
    assert main(["skew", "--last", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rankings"] == 1
