"""One connection to Redis that every request shares: commands go out as they come, answers come back in order.

Enters: Redis commands and a deadline. Leaves: their replies, `StoreTimeout` or `StoreUnavailable`. Called by
`store_reader.py` in the event loop.

Why not redis-py's asyncio client: it costs more CPU for the same reads, and must close a connection for each request
that gives up. Here the replies of such a request are dropped, so that a slow store costs no connection.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import hiredis

from features.online_store import WRONG_TYPE, parse_address
from infra.clock import monotonic_s
from infra.errors import StoreTimeout, StoreUnavailable

Command = tuple[Any, ...]

CONNECT_TIMEOUT_S = 2.0
STALLED_S = 1.0
RETRY_S = 0.1
MAX_WAITING = 2_000


class _Waiting(NamedTuple):
    expected: int
    replies: list[Any]
    done: "asyncio.Future[list[Any]]"
    sent_s: float


class _Protocol(asyncio.Protocol):
    """Pairs replies with the calls that wait for them, first come first served."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._waiting: deque[_Waiting] = deque()
        self._transport: asyncio.Transport | None = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if not self._waiting:
                self.abort()
                return
            first = self._waiting[0]
            first.replies.append(reply)
            if len(first.replies) == first.expected:
                self._waiting.popleft()
                if not first.done.done():
                    first.done.set_result(first.replies)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        for waiting in self._waiting:
            if not waiting.done.done():
                waiting.done.set_exception(StoreUnavailable(f"the connection to the online store was lost: {error}"))
        self._waiting.clear()

    def call(self, commands: Sequence[Command]) -> "asyncio.Future[list[Any]]":
        if self._waiting and monotonic_s() - self._waiting[0].sent_s > STALLED_S:
            self.abort()
        if self._transport is None or len(self._waiting) >= MAX_WAITING:
            raise StoreUnavailable("the online store has stopped answering")
        done: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(len(commands), [], done, monotonic_s()))
        self._transport.write(b"".join(map(hiredis.pack_command, commands)))
        return done

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self.connection_lost(None)


class RedisLink:
    """Connects when first used and again after a loss; between tries it fails at once."""

    def __init__(self, connection_string: str) -> None:
        self._address = parse_address(connection_string)
        self._protocol: _Protocol | None = None
        self._connecting: asyncio.Task[_Protocol] | None = None
        self._next_try_s = 0.0

    async def execute(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        """One reply per command, in one round trip; for a key of another type than the command's, an exception.

        Raises `StoreTimeout` or `StoreUnavailable`, never anything else.
        """
        try:
            async with asyncio.timeout(timeout_s):
                protocol = self._protocol
                if protocol is None or not protocol.is_open:
                    protocol = await self._connect()
                replies = await protocol.call(commands)
        except TimeoutError as error:
            raise StoreTimeout(f"the online store did not answer within {1000 * timeout_s:.0f} ms") from error
        for reply in replies:
            if isinstance(reply, Exception) and not str(reply).startswith(WRONG_TYPE):
                raise StoreUnavailable(f"the online store answered with an error: {reply}")
        return replies

    async def close(self) -> None:
        """Let go of the connection."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._protocol is not None:
            self._protocol.abort()

    async def _connect(self) -> _Protocol:
        """The new connection; calls that come meanwhile wait for the same one."""
        if self._connecting is None:
            if monotonic_s() < self._next_try_s:
                raise StoreUnavailable("the online store could not be reached a moment ago")
            self._next_try_s = monotonic_s() + RETRY_S
            self._connecting = asyncio.create_task(self._open())
            self._connecting.add_done_callback(self._connected)
        return await asyncio.shield(self._connecting)

    def _connected(self, task: "asyncio.Task[_Protocol]") -> None:
        self._connecting = None
        if not task.cancelled() and task.exception() is None:
            self._protocol = task.result()

    async def _open(self) -> _Protocol:
        where = self._address
        secure = ssl.create_default_context() if where.get("ssl") else None
        protocol = None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                loop = asyncio.get_running_loop()
                _, protocol = await loop.create_connection(_Protocol, where["host"], where["port"], ssl=secure)
                if greeting := _greeting(where):
                    for reply in await protocol.call(greeting):
                        if isinstance(reply, Exception):
                            raise StoreUnavailable(f"the online store refused the connection: {reply}")
        except (OSError, TimeoutError, StoreUnavailable) as error:
            if protocol is not None:
                protocol.abort()
            raise StoreUnavailable(
                f"the online store at {where['host']}:{where['port']} cannot be reached: {error}"
            ) from error
        return protocol


def _greeting(where: dict[str, Any]) -> list[Command]:
    commands: list[Command] = []
    if "password" in where:
        user = (where["username"],) if "username" in where else ()
        commands.append(("AUTH", *user, where["password"]))
    if where.get("db"):
        commands.append(("SELECT", str(where["db"])))
    return commands
