"""Broker and store alone, tied to the calling process.

Enters: a folder. Leaves: the addresses of two running servers, gone when the block ends or its process does. Called by
tests and benchmarks.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.embedded.servers import broker_part, redis_part
from infra.embedded.supervisor import Supervisor
from infra.errors import StackError


class EmbeddedServers:
    """`with EmbeddedServers(folder) as servers:` gives `servers.kafka` and `servers.redis`; a server that crashes is
    restarted.

    The topics are not created, and the store is as `folder` holds it.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda line: None) -> None:
        log_dir = folder / "logs"
        self._broker = broker_part(log_dir / "broker.log")
        self._redis = redis_part(folder / "redis", log_dir / "redis.log")
        self.kafka = self._broker.address
        self.redis = self._redis.address
        self.log_dir = log_dir
        self._supervisor = Supervisor(say)
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._started: Future[None] = Future()
        # One thread for as long as the servers live: Linux ends the children with the thread that started them.
        self._thread = threading.Thread(target=self._run, name="embedded-servers", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._started.result()
        except StackError:
            self._thread.join()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def pid(self, name: str) -> int:
        """The process id of `broker` or `redis`, for tests that kill it; raises `StackError` while it has none."""
        process = self._supervisor.parts[name].process
        if process is None:
            raise StackError(f"{name} has no process now")
        return process.pid

    def kill(self, name: str) -> None:
        """End `broker` or `redis` with SIGKILL; the supervisor starts it again on the same port, the broker with an
        empty log.
        """
        os.kill(self.pid(name), signal.SIGKILL)

    def restarts(self, name: str) -> int:
        """How often `broker` or `redis` was started again."""
        return self._supervisor.parts[name].restarts

    def _run(self) -> None:
        self._loop.run_until_complete(self._live())
        self._loop.close()

    async def _live(self) -> None:
        try:
            await self._supervisor.start([self._broker, self._redis])
        except StackError as error:
            await self._supervisor.stop()
            self._started.set_exception(error)
            return
        self._started.set_result(None)
        await self._stopping.wait()
        await self._supervisor.stop()
