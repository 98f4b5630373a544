"""Members of one cluster share scores where the model knows no more of them than that."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.settings import Settings
from model.config import Personalisation, UnicornConfig
from serving.contract import MAX_CANDIDATES
from tests.serving.untrained import save_untrained_artifact
from tests.serving.world import World, make_items, metric, running_scorer, wait_for_ranking, wait_until

pytestmark = pytest.mark.slow

CLUSTERS = UnicornConfig(personalisation=Personalisation.CLUSTERS, clusters=1)


@pytest.fixture
def client(world_settings: Settings, tmp_path: Path) -> Iterator[httpx.Client]:
    """A scorer whose model knows clusters only, of which there is one, and which shares scores for a minute."""
    save_untrained_artifact(tmp_path / "artifact", make_items(), config=CLUSTERS)
    settings = replace(
        world_settings, artifact_dir=str(tmp_path / "artifact"), answer_cache_s=60.0, rank_deadline_ms=5_000
    )
    world = World(settings)
    for user_id, item_id in (("kim", "t40"), ("lee", "t41")):
        world.engage(user_id, item_id)
    world.close()
    with running_scorer(settings) as (_, client):
        wait_until(lambda: client.get("/health/ready").json()["model"] != "")
        yield client


def ask(client: httpx.Client, user_id: str, **more: Any) -> dict[str, float]:
    """Every title found: with a limit, one of a test before this one in the shared catalogue takes another's place."""
    asked = {"user_id": user_id, "task": "pre_query", "limit": MAX_CANDIDATES, "log": False, **more}
    answer = client.post("/rank", json=asked)
    assert answer.status_code == 200, answer.text
    return {item["item_id"]: item["score"] for item in answer.json()["items"]}


def counted(client: httpx.Client, result: str) -> float:
    return metric(client, f'nowrank_scorer_answer_cache_total{{result="{result}"}}')


def test_the_second_member_of_a_cluster_gets_the_scores_of_the_first_without_what_they_have_seen(
    client: httpx.Client,
) -> None:
    kim, lee = ask(client, "kim"), ask(client, "lee")
    assert (counted(client, "miss"), counted(client, "hit")) == (1, 1)
    assert kim.keys() - lee.keys() == {"t41"}
    assert lee.keys() - kim.keys() == {"t40"}
    assert all(kim[item_id] == lee[item_id] for item_id in kim.keys() & lee.keys())


def test_a_shared_answer_says_so_in_the_log(client: httpx.Client, world_settings: Settings) -> None:
    for asked, is_shared in (({}, True), ({"explain": True}, False)):
        answer = client.post("/rank", json={"user_id": "kim", "task": "pre_query", **asked})
        assert wait_for_ranking(world_settings, answer.json()["ranking_id"]).shared is is_shared


def test_another_question_is_another_answer(client: httpx.Client) -> None:
    ask(client, "kim")
    ask(client, "kim", items=["t1", "t3"])
    ask(client, "kim", task="search", query="moon")
    ask(client, "kim", country="DE")
    assert (counted(client, "miss"), counted(client, "hit")) == (4, 0)
    assert ask(client, "lee", items=["t1", "t3"], blocked=["t3"]).keys() == {"t1"}
    assert counted(client, "hit") == 1


def test_pinned_and_explained_answers_are_nobody_elses(client: httpx.Client) -> None:
    ask(client, "kim", pinned=["t5"])
    ask(client, "kim", explain=True, limit=5)
    assert (counted(client, "miss"), counted(client, "hit")) == (0, 0)


def test_scores_are_shared_for_as_long_as_the_setting_says(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1_000.0
    monkeypatch.setattr("serving.shared_scores.monotonic_s", lambda: now_s)
    ask(client, "kim")
    now_s += 59
    ask(client, "lee")
    now_s += 2
    ask(client, "lee")
    assert (counted(client, "miss"), counted(client, "hit")) == (2, 1)


def test_a_model_that_knows_members_shares_nothing(world_settings: Settings, tmp_path: Path) -> None:
    save_untrained_artifact(tmp_path / "artifact", make_items())
    settings = replace(world_settings, artifact_dir=str(tmp_path / "artifact"), answer_cache_s=60.0)
    with running_scorer(settings) as (process, client):
        wait_until(lambda: process.scorer.model is not None)
        ask(client, "kim")
        assert (counted(client, "miss"), counted(client, "hit")) == (0, 0)


def test_the_least_recently_asked_question_makes_room(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.shared_scores.CAPACITY", 2)
    for country in ("DE", "FR", "DE", "IT", "DE", "FR"):
        ask(client, "kim", country=country)
    assert (counted(client, "miss"), counted(client, "hit")) == (4, 2)
