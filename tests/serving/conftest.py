"""A scorer with a model, rows and titles, shared by the tests that only ask; one without a model beside it.

Enters: the shared servers. Leaves: running scorers. Called by pytest. The rows live in Redis' database 1, which no
other test empties.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from infra.settings import Settings
from serving.process import ScorerProcess
from streams.producer import Producer
from tests.serving.untrained import save_untrained_artifact
from tests.serving.world import World, fill, make_items, running_scorer, wait_until


@pytest.fixture(scope="session")
def artifact_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of an untrained model over the world's titles."""
    path = tmp_path_factory.mktemp("models") / "artifact"
    save_untrained_artifact(path, make_items())
    return path


@pytest.fixture(scope="session")
def world_settings(topics: Settings, artifact_dir: Path) -> Settings:
    """Settings of a filled store, the shared broker with the world's titles, and the artifact.

    The deadline suits a busy machine.
    """
    settings = replace(topics, redis=f"{topics.redis},db=1", artifact_dir=str(artifact_dir), rank_deadline_ms=2_000)
    world = World(settings)
    fill(world)
    world.close()
    with Producer(settings) as producer:
        producer.send_items(make_items())
    return settings


@pytest.fixture
def world(world_settings: Settings) -> Iterator[World]:
    """The hand that writes rows."""
    world = World(world_settings)
    yield world
    world.close()


@pytest.fixture(scope="session")
def scorer(world_settings: Settings) -> Iterator[tuple[ScorerProcess, httpx.Client]]:
    """A scorer with everything, warm."""
    with running_scorer(world_settings) as (process, client):
        wait_until(lambda: process.library.titles_count >= len(make_items()))
        yield process, client


@pytest.fixture
def client(scorer: tuple[ScorerProcess, httpx.Client]) -> httpx.Client:
    """An HTTP client of the scorer with everything."""
    return scorer[1]


@pytest.fixture
def lonely_settings(tmp_path: Path) -> Settings:
    """No store, no broker, no model."""
    return Settings(state_dir=tmp_path, rank_deadline_ms=50)
