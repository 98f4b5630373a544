"""The HTTP server's connections: how many there may be, and how long one may keep the scorer waiting.

Enters: settings. Leaves: the configuration of a uvicorn server whose connections are bounded. Called by `nowrank
scorer` and the tests.

| a client that | meets |
| --- | --- |
| sends its headers slowly, or too many | 408 or 431, and the connection is closed |
| sends what is not HTTP, or asks for a tunnel | 400, and the connection is closed |
| asks for another protocol (`Upgrade`) | its answer, in HTTP/1.1 |
| sends its body slowly | 408 from `bodies.py` |
| does not take its answer | the connection is cut |
| opens one connection too many | the oldest one that waits for its client is cut; 503 when there is none |
"""

import asyncio
from functools import partial
from typing import Any, cast

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from infra.clock import monotonic_s
from infra.metrics import Metrics
from infra.settings import Settings
from serving.admission import ARRIVED_S
from serving.problems import http_problem, problem_response

KEEP_ALIVE_S = 30
MAX_HEAD_BYTES = 64 * 1024


def server_config(app: ASGIApp, settings: Settings, metrics: Metrics, **address: Any) -> uvicorn.Config:
    """What uvicorn needs; `address` is its `host` and `port`, where no socket is handed over."""
    protocol = partial(_Connection, bounds=_Bounds(settings, metrics))
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=cast(Any, protocol),
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=5,
        **address,
    )


class _Bounds:
    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.connections = settings.max_connections
        self.timeout_s = settings.transfer_timeout_s
        self._metrics = metrics

    def refused(self, reason: str) -> None:
        self._metrics.count("nowrank_scorer_refused_total", reason=reason)

    def note(self, connections: int) -> None:
        self._metrics.set("nowrank_scorer_connections", connections)


class _Connection(HttpToolsProtocol):
    """uvicorn's own, with a clock running whenever it waits for its client."""

    def __init__(self, *args: Any, bounds: _Bounds, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bounds = bounds
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self.since_s = monotonic_s()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > self._bounds.connections:
            self._make_room()
        self._bounds.note(len(self.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._stop_timers()
        self._bounds.note(len(self.connections))

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse(400, "this is not an HTTP request", "malformed")
        if self._has_request() or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, f"the headers go on; they may have {MAX_HEAD_BYTES} bytes", "large_headers")
        elif self._head_timer is None:
            self._await_head()

    def _parse(self, data: bytes) -> None:
        """Feed the parser; raises `HttpParserError` for a line, a length or a chunk that breaks the rules, or a tunnel.

        The parser takes a request that asks for another protocol to end with its head. A server may ignore the wish
        (RFC 9110, 7.8): the parser is given the head again without it, and then reads the body as one.
        """
        rest = memoryview(data)
        while rest:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as end:
                if self.parser.get_method() == b"CONNECT":
                    raise httptools.HttpParserError("no tunnel begins here") from end
                self.parser.feed_data(self._head_without_upgrade())
                rest = rest[end.args[0] :]

    def _head_without_upgrade(self) -> bytes:
        version = b"HTTP/" + self.parser.get_http_version().encode()
        lines = [b" ".join((self.parser.get_method(), self.url, version))]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self.scope[ARRIVED_S] = monotonic_s()  # type: ignore[literal-required]
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self.scope[ARRIVED_S] = monotonic_s()  # type: ignore[literal-required]
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.since_s = monotonic_s()
        if self.transport.is_closing():
            self._cut_later()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._cut_later()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self._bounds.timeout_s, self._cut_reader)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def waits_for_client(self) -> bool:
        """Whether the next move is the client's."""
        return not self._has_request() or self.cycle.more_body

    def _has_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self._bounds.timeout_s, self._give_up_head)

    def _give_up_head(self) -> None:
        self._head_timer = None
        if self._has_request() or self.transport.is_closing():
            return
        if self._head_bytes:
            self._refuse(408, f"the headers did not come within {self._bounds.timeout_s:g} s", "slow_headers")
        else:
            self.transport.abort()

    def _make_room(self) -> None:
        waiting = [
            other
            for other in self.connections
            if isinstance(other, _Connection) and other is not self and other.waits_for_client()
        ]
        if not waiting:
            self._refuse(503, "there are too many connections; try again", "connections")
            return
        self._bounds.refused("connections")
        # One that has not had an answer yet goes before one that a client keeps for its next question.
        min(waiting, key=lambda other: (other.cycle is not None and other.cycle.response_complete, other.since_s)).cut()

    def cut(self) -> None:
        """End the connection without another word."""
        self.transport.abort()
        self.connections.discard(self)

    def _cut_reader(self) -> None:
        self._bounds.refused("slow_reader")
        self.cut()

    def _cut_later(self) -> None:
        """A closed connection still waits for its client to take what was written; not for ever."""
        self.loop.call_later(self._bounds.timeout_s, self.transport.abort)

    def _refuse(self, status: int, detail: str, reason: str) -> None:
        """Answer without a request, and close."""
        self._bounds.refused(reason)
        response = problem_response(http_problem(status, detail), {"Connection": "close"})
        lines = [f"HTTP/1.1 {status} {http_problem(status, detail).title}".encode("latin-1")]
        lines += [name + b": " + value for name, value in response.raw_headers]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        self.transport.close()
        self._cut_later()

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._write_timer = None
