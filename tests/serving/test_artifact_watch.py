"""A model is picked up when it appears, replaced while requests run, and refused when it is damaged."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from infra.settings import Settings
from tests.serving.untrained import save_untrained_artifact
from tests.serving.world import make_items, running_scorer, wait_until


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
