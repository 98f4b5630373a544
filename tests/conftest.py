"""Fixtures that every room's tests share: a real broker and a real Redis, one pair for each test process.

Enters: nothing. Leaves: servers on free ports in a fresh folder, settings that point at them. Called by pytest; works
under `-n`.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import hypothesis
import pytest
import redis

from infra.embedded import EmbeddedServers
from infra.settings import Settings
from streams.topics import create_topics
from tests.running_time import paused_s

# A busy machine is no failure.
hypothesis.settings.register_profile("nowrank", deadline=None)
hypothesis.settings.load_profile("nowrank")

# A test that fails while the machine stands still this long in all, in seconds, says nothing about the code: timeouts
# of servers and clients ran out meanwhile. It is run again, twice at most, and listed as RERUN.
TOLD_PAUSE_S = 1.0
_paused_before_s = pytest.StashKey[float]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.flaky(reruns=2, condition=partial(_stood_still, item)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[_paused_before_s] = paused_s()


def _stood_still(item: pytest.Item, error: BaseException | None) -> bool:
    """Whether the machine stood still while this test failed; one that hung is not tried again: its time is up."""
    hung = isinstance(error, pytest.fail.Exception) and str(error).startswith("Timeout")
    return error is not None and not hung and paused_s() - item.stash[_paused_before_s] >= TOLD_PAUSE_S


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


@pytest.fixture
def empty_log(tmp_path: Path) -> Iterator[Settings]:
    """Settings of a broker for one test alone: for what reads everything that a log holds."""
    with EmbeddedServers(tmp_path / "servers") as running:
        settings = Settings(state_dir=tmp_path / "state", kafka=running.kafka, redis=running.redis)
        create_topics(settings)
        yield settings
