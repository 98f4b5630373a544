"""The scorer answers whatever breaks behind it, and says what is missing."""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from infra.embedded import EmbeddedServers
from infra.metrics import Metrics
from infra.settings import Settings
from serving.contract import RankRequest
from serving.rankings_log import RankingsLog
from serving.store_reader import RowKeys, RowsRead, StoreReader
from tests.running_time import running_s
from tests.serving.world import World, bare_ranker, fill, metric, running_scorer, wait_until

PRE_QUERY = {"user_id": "ann", "task": "pre_query"}
NOBODY_THERE = "127.0.0.1:1"


def ask(client: httpx.Client, **fields: object) -> dict:  # type: ignore[type-arg]
    response = client.post("/rank", json=PRE_QUERY | fields)
    assert response.status_code == 200, response.text
    return response.json()  # type: ignore[no-any-return]


def test_without_store_broker_and_model_it_still_answers(lonely_settings: Settings) -> None:
    with running_scorer(lonely_settings) as (_, client):
        answer = ask(client, items=["b", "a"])
        assert answer["status"] == {"level": "popularity", "store": "missing", "model": "missing", "user": "default"}
        assert [item["item_id"] for item in answer["items"]] == ["a", "b"]
        assert ask(client)["items"] == []
        assert metric(client, 'nowrank_scorer_degraded_total{status="store_missing"}') == 2


def test_wrong_store_address_is_a_poorer_answer(lonely_settings: Settings, artifact_dir: Path) -> None:
    settings = replace(lonely_settings, redis=NOBODY_THERE, artifact_dir=str(artifact_dir))
    with running_scorer(settings) as (_, client):
        answer = ask(client)
        assert answer["status"] == {"level": "popularity", "store": "missing", "model": "ok", "user": "default"}
        assert answer["items"], "the titles that came with the model can be ranked"
        assert metric(client, "nowrank_scorer_store_up") == 0


@pytest.mark.slow
def test_absent_broker_does_not_touch_rankings(lonely_settings: Settings, world_settings: Settings) -> None:
    settings = replace(world_settings, kafka=NOBODY_THERE, state_dir=lonely_settings.state_dir)
    with running_scorer(settings) as (_, client):
        assert ask(client)["status"]["level"] == "full"
        click = {"type": "click", "event_id": "0123456789abcdef", "user_id": "ann", "item_id": "t1", "event_ts_ms": 1}
        refused = client.post("/events", json=click)
        assert refused.status_code == 503
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["retry-after"] == "1"
        assert ask(client)["status"]["level"] == "full"


def test_wedged_store_costs_one_deadline_and_history_is_remembered(
    servers: EmbeddedServers, world_settings: Settings, lonely_settings: Settings
) -> None:
    settings = replace(world_settings, kafka="", state_dir=lonely_settings.state_dir, rank_deadline_ms=300)
    with running_scorer(settings) as (_, client):
        wait_until(lambda: ask(client)["status"]["level"] == "full")
        os.kill(servers.pid("redis"), signal.SIGSTOP)
        try:
            begin_s = running_s()
            known, unknown = ask(client, explain=True), ask(client, user_id="bob")
            waited_s = running_s() - begin_s
        finally:
            os.kill(servers.pid("redis"), signal.SIGCONT)
        assert known["status"] == {"level": "long_term_only", "store": "timeout", "model": "ok", "user": "remembered"}
        assert any(item["parts"]["long_term"] != 0 for item in known["items"])
        assert all(item["parts"]["short_term"] == 0 for item in known["items"])
        features = known["items"][0]["features"]
        assert features["user_genres"]["status"] == "stale"
        assert features["session_genres"] == {"value": 0.0, "part": "short", "status": "default"}
        assert unknown["status"]["level"] == "popularity"
        assert waited_s < 2 * 0.3 + 1.0
        wait_until(lambda: ask(client)["status"]["level"] == "full")


@pytest.mark.parametrize(
    ("scorers_ms", "own_ms", "longest_s", "is_hurried"),
    [(1_000, None, 1.0, False), (1_000, 20, 0.02, True), (50, 1_000, 0.05, False), (50, 50, 0.05, False)],
)
def test_a_request_may_give_the_store_less_time_but_not_more(
    lonely_settings: Settings, scorers_ms: int, own_ms: int | None, longest_s: float, is_hurried: bool
) -> None:
    asked: list[tuple[float, bool]] = []

    class Store(StoreReader):
        async def read(self, keys: RowKeys, now_ms: int, timeout_s: float, *, is_hurried: bool = False) -> RowsRead:
            asked.append((timeout_s, is_hurried))
            return RowsRead(store="timeout")

    rankings = RankingsLog(lonely_settings, Metrics("scorer"))
    ranker = bare_ranker(rankings, Store("", "nowrank"), scorers_ms / 1000)
    request = RankRequest(user_id="ann", task="pre_query", items=["t1"], deadline_ms=own_ms)
    answer = asyncio.run(ranker.rank(request))
    assert answer.status.store == "timeout"
    assert asked == [(longest_s, is_hurried)]


@pytest.fixture
def own_servers(tmp_path: Path) -> EmbeddedServers:
    return EmbeddedServers(tmp_path / "servers")


def test_store_that_comes_back_is_used_again(
    own_servers: EmbeddedServers, lonely_settings: Settings, artifact_dir: Path
) -> None:
    with own_servers as servers:
        settings = replace(lonely_settings, redis=servers.redis, artifact_dir=str(artifact_dir), rank_deadline_ms=2_000)
        world = World(settings)
        fill(world)
        with running_scorer(settings) as (process, client):
            assert ask(client)["status"]["level"] == "full"
            rows = process.library.rows_count
            servers.kill("redis")
            wait_until(lambda: ask(client)["status"]["store"] != "ok")
            wait_until(
                lambda: ask(client)["status"] == {"level": "full", "store": "ok", "model": "ok", "user": "fresh"}
            )
            again = World(settings)
            again.engage("gil", "t59")
            wait_until(lambda: process.library.rows_count == rows + 1)  # the near cache follows the new process
            again.close()
