"""A model is picked up when it appears, replaced while requests run, and refused when it is damaged."""

import asyncio
import json
import logging
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from infra.metrics import Metrics
from infra.settings import Settings
from model.artifact import CARD, FILES
from serving.artifact_watch import ArtifactWatch
from serving.experiments import DEFAULT
from serving.library import Library
from serving.reproduce import reproduce_logged
from serving.scorer import Scorer
from tests.serving.untrained import save_untrained_artifact
from tests.serving.world import make_items, running_scorer, wait_for_ranking, wait_until

pytestmark = pytest.mark.slow


def version(client: httpx.Client) -> str:
    answer = client.post("/rank", json={"user_id": "ann", "task": "pre_query", "items": ["t1", "t2"]})
    assert answer.status_code == 200
    return str(answer.json()["model"])


def test_model_appears_is_replaced_and_a_damaged_one_is_refused(
    world_settings: Settings, artifact_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = tmp_path / "artifact"
    settings = replace(world_settings, kafka="", artifact_dir=str(folder))
    with running_scorer(settings) as (_, client):
        assert version(client) == "popularity"
        shutil.copytree(artifact_dir, folder)
        first = json.loads((artifact_dir / "card.json").read_text())["version"]
        wait_until(lambda: version(client) == first)
        assert client.get("/health/ready").json()["model"] == first

        second = save_untrained_artifact(folder, make_items(), seed=1).version
        assert second != first
        wait_until(lambda: version(client) == second)

        graph = folder / "rank.onnx"
        graph.write_bytes(graph.read_bytes()[:-10])
        (folder / "card.json").touch()
        wait_until(lambda: "is refused" in caplog.text)
        assert version(client) == second

        card = json.loads((folder / "card.json").read_text())
        (folder / "card.json").write_text(json.dumps(card | {"schema_hash": "another"}))
        wait_until(lambda: "another" in caplog.text)
        assert version(client) == second


def test_an_artifact_that_is_whole_only_after_its_card_is_loaded_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, new = tmp_path / "artifact", tmp_path / "new"
    old_version = save_untrained_artifact(folder, make_items()).version
    version = save_untrained_artifact(new, make_items()[1:], seed=1).version
    metrics = Metrics("scorer")
    scorer = Scorer(Library(metrics))
    watch = ArtifactWatch(folder, scorer, metrics)

    async def versions_while_it_is_copied() -> list[str]:
        await watch.look()
        found = [scorer.models[DEFAULT].artifact.version]
        for name in (CARD, *FILES):
            shutil.copyfile(new / name, folder / name)
            for _ in range(2):
                await watch.look()
            found.append(scorer.models[DEFAULT].artifact.version)
        return found

    assert asyncio.run(versions_while_it_is_copied()) == [old_version] * (1 + len(FILES)) + [version]
    assert caplog.text.count("is refused") == len(FILES), "once for each of its states, not at every look"


def test_a_good_artifact_is_not_read_again_before_its_card_changes(tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    save_untrained_artifact(folder, make_items())
    metrics = Metrics("scorer")
    scorer = Scorer(Library(metrics))
    watch = ArtifactWatch(folder, scorer, metrics)
    asyncio.run(watch.look())
    loaded = scorer.models[DEFAULT]
    (folder / FILES[0]).touch()
    asyncio.run(watch.look())
    assert scorer.models[DEFAULT] is loaded


def test_answers_during_swaps_are_all_given_and_each_by_one_model(world_settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    kept = [tmp_path / f"kept-{seed}" for seed in range(3)]
    versions = [save_untrained_artifact(path, make_items(), seed=seed).version for seed, path in enumerate(kept)]
    shutil.copytree(kept[0], folder)
    answers: list[tuple[int, str, str]] = []
    stop = threading.Event()

    def ask(url: str) -> None:
        with httpx.Client(base_url=url, trust_env=False, timeout=30) as own:
            while not stop.is_set():
                answer = own.post("/rank", json={"user_id": "ann", "task": "pre_query", "limit": 5})
                body = answer.json()
                answers.append((answer.status_code, body.get("ranking_id", ""), body.get("model", "")))

    patient = replace(
        world_settings, artifact_dir=str(folder), rank_queue_ms=60_000
    )  # nobody is shed on a busy machine
    with running_scorer(patient) as (_, client):
        wait_until(lambda: version(client) == versions[0])
        askers = [threading.Thread(target=ask, args=(str(client.base_url),)) for _ in range(3)]
        for asker in askers:
            asker.start()
        for seed in (1, 2):
            save_untrained_artifact(folder, make_items(), seed=seed)
            wait_until(lambda seed=seed: answers[-1][2] == versions[seed])  # type: ignore[misc]
        stop.set()
        for asker in askers:
            asker.join()
    assert {code for code, _, _ in answers} == {200}
    assert {model for _, _, model in answers} == set(versions)
    for model, path in zip(versions, kept, strict=True):
        last = next(ranking_id for _, ranking_id, by in reversed(answers) if by == model)
        wait_for_ranking(world_settings, last)
        _, scores = reproduce_logged(world_settings, last, path)
        assert all(one.is_equal for one in scores)


def test_popularity_ranks_by_what_is_played_and_asked_for(world_settings: Settings, tmp_path: Path) -> None:
    with running_scorer(replace(world_settings, artifact_dir=str(tmp_path / "none"))) as (_, client):
        trending = client.post("/rank", json={"user_id": "nobody", "task": "pre_query", "limit": 3}).json()
        assert trending["status"] == {"level": "popularity", "store": "ok", "model": "missing", "user": "default"}
        assert {item["item_id"] for item in trending["items"]} == {"t0", "t1", "t2"}
        searched = client.post(
            "/rank", json={"user_id": "nobody", "task": "search", "query": "far signal 3", "limit": 3, "explain": True}
        ).json()
        assert searched["items"][0]["item_id"] == "t3"
        assert searched["items"][0]["parts"]["context"] == searched["items"][0]["score"]
