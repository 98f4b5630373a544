"""Servers of a measurement's own: an empty broker with all topics, and an empty store.

Enters: a folder. Leaves: settings that point at them, until the block ends. Called by `streams.py` and `freshness.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.embedded import EmbeddedServers
from infra.settings import Settings
from streams.topics import create_topics

PARTITIONS = Settings().partitions


@contextmanager
def running_servers(folder: Path, partitions: int = PARTITIONS) -> Iterator[tuple[Settings, EmbeddedServers]]:
    """An empty broker with all topics and an empty store, and settings that point at them; gone with the block."""
    with EmbeddedServers(folder) as servers:
        settings = Settings(state_dir=folder, kafka=servers.kafka, redis=servers.redis, partitions=partitions)
        create_topics(settings)
        yield settings, servers
