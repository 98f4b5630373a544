"""Fixtures that every room's tests share: a real broker and a real Redis, one pair for each test process.

Enters: nothing. Leaves: servers on free ports in a fresh folder, settings that point at them. Called by pytest; works
under `-n`.
"""

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import redis

from infra.embedded import EmbeddedServers
from infra.settings import Settings
from streams.topics import create_topics

# A busy machine is no failure.
hypothesis.settings.register_profile("nowrank", deadline=None)
hypothesis.settings.load_profile("nowrank")


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    """A running broker and Redis, shared by the tests of this process; a test that kills one starts its own."""
    with EmbeddedServers(tmp_path_factory.mktemp("servers")) as running:
        yield running


@pytest.fixture(scope="session")
def settings(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings that point at `servers`; the environment plays no part."""
    state_dir: Path = tmp_path_factory.mktemp("state")
    return Settings(state_dir=state_dir, kafka=servers.kafka, redis=servers.redis)


@pytest.fixture
def redis_client(settings: Settings) -> Iterator[redis.Redis]:
    """A client of an empty Redis."""
    host, _, port = settings.redis.partition(":")
    with redis.Redis(host, int(port)) as client:
        client.flushdb()
        yield client


@pytest.fixture(scope="session")
def topics(settings: Settings) -> Settings:
    """The settings, once every topic exists; all tests of this process share them: tell your records by their ids."""
    create_topics(settings)
    return settings
