"""One test's own world: a broker, a Redis, workers, and the question whether every row is right.

Enters: a folder. Leaves: settings, processes, `World.check_exact`. Called by the fault tests through the fixture
`world`.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import redis

from features.online_store import connect
from infra.embedded.servers import broker_part, redis_part
from infra.embedded.supervisor import PartSpec
from infra.settings import Settings
from streams.topics import create_topics
from tests.faults import exactness
from tests.faults.processes import Server, Worker
from tests.faults.proxy import TcpProxy
from tests.faults.workload import Workload

SHOWN_LOG_CHARS = 1_500


class World:
    """Servers of the test's own; workers find them as servers that somebody else runs. When `proxied`, the broker sends
    its clients to `proxy`.
    """

    def __init__(self, folder: Path, *, proxied: bool = False) -> None:
        self.folder = folder
        self._open = contextlib.ExitStack()
        self._workers: list[Worker] = []
        broker = broker_part(folder / "broker.log")
        self.proxy = TcpProxy(broker.address) if proxied else None
        if self.proxy is not None:
            broker = _advertise(broker, self._open.enter_context(self.proxy).address)
        self.broker = Server(broker).start()
        self.redis = Server(redis_part(folder / "redis", folder / "redis.log")).start()
        kafka = self.broker.address if self.proxy is None else self.proxy.address
        self.settings = Settings(state_dir=folder, kafka=kafka, redis=self.redis.address)
        create_topics(self.settings)

    def close(self) -> None:
        """End every process."""
        for worker in self._workers:
            worker.end()
        self.redis.kill()
        self.broker.kill()
        self._open.close()

    def restart_broker(self) -> None:
        """Another, empty log at the same address, with the topics."""
        self.broker.kill()
        self.broker.start()
        create_topics(self.settings)

    def worker(self, name: str = "worker-0", faults: Sequence[str] = (), **settings: Any) -> Worker:
        """A worker, not started yet; `settings` replace those of the world."""
        worker = Worker(replace(self.settings, **settings), name, self.folder, faults)
        self._workers.append(worker)
        return worker

    @contextlib.contextmanager
    def client(self) -> Iterator[redis.Redis]:
        """A client of the store, straight to it."""
        with connect(self.redis.address) as client:
            yield client

    def next_offsets(self, stage: str = "session") -> dict[str, int]:
        """Where each log of a stage goes on, by its checkpoints."""
        with self.client() as client:
            return exactness.next_offsets(client, stage)

    def settle(self) -> None:
        """Wait until every event and every delta in the log is folded."""
        exactness.settle(self.settings, self._tails)

    def check_exact(self, workload: Workload) -> str:
        """Every row is right; see `exactness.check_exact`."""
        return exactness.check_exact(self.settings, workload, self._tails)

    def _tails(self) -> str:
        return "\n".join(f"{worker.name}: {worker.log()[-SHOWN_LOG_CHARS:]}" for worker in self._workers)


def _advertise(broker: PartSpec, address: str) -> PartSpec:
    """The same broker, which names another address as its own."""
    option = broker.command.index("--advertised-listener-url") + 1
    return replace(broker, command=(*broker.command[:option], f"tcp://{address}", *broker.command[option + 1 :]))
