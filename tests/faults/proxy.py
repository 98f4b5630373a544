"""A TCP proxy that can be slow or cut.

Enters: the address of a server. Leaves: another address that leads there, `delay_s` later each way. Called by the
fault tests.
"""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from infra.embedded.servers import LOOPBACK, free_port

CHUNK_BYTES = 64 * 1024


class TcpProxy:
    """Forwards to `target` (`host:port`) from `address`, in a thread of its own, while its block lasts."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._port = free_port()
        self.address = f"{LOOPBACK}:{self._port}"
        self.delay_s = 0.0
        self._is_cut = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, LOOPBACK, self._port))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Break every connection, and every one that is tried from now on."""
        self._call(self._cut(True))

    def mend(self) -> None:
        """Forward again what connects from now on."""
        self._call(self._cut(False))

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _cut(self, is_cut: bool) -> None:
        self._is_cut = is_cut
        for writer in list(self._writers) if is_cut else ():
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        try:
            onward_reader, onward_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(self._forward(reader, onward_writer), self._forward(onward_reader, writer))

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one direction; each chunk leaves `delay_s` after it came, and none overtakes another."""
        self._writers.add(writer)
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sending = asyncio.create_task(self._send(chunks, writer))
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                chunks.put_nowait((self._loop.time() + self.delay_s, chunk))
            chunks.put_nowait((self._loop.time() + self.delay_s, b""))
            await sending
        except OSError:
            pass
        finally:
            sending.cancel()
            self._writers.discard(writer)
            writer.transport.abort()

    async def _send(self, chunks: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while True:
                due_s, chunk = await chunks.get()
                await asyncio.sleep(max(0.0, due_s - self._loop.time()))
                if not chunk:
                    return
                writer.write(chunk)
                await writer.drain()
