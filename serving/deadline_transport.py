"""httpx's transport for blocking calls, with one deadline for a whole exchange instead of a timeout for each read.

Enters: requests with httpx's timeouts. Leaves: responses, or httpx's errors. Used by `Scorer` of `client.py`; an event
loop has its own deadlines.

httpcore hands the timeouts of a request unchanged to each operation on its connection, so they carry the instant at
which all must be over, and the connection asks the clock what is left.
"""

import ssl
from collections.abc import Iterable

import httpcore
import httpx

from infra.clock import monotonic_s

WRITE_BYTES = 64 * 1024


class DeadlineTransport(httpx.HTTPTransport):
    """The read timeout of a request is the time for everything, from the free connection to the answer's last byte."""

    def __init__(self, limits: httpx.Limits) -> None:
        tls = httpx.create_ssl_context(trust_env=False)
        super().__init__(verify=tls)
        self._pool = httpcore.ConnectionPool(
            ssl_context=tls,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=_Network(),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """As httpx's; raises `httpx.TimeoutException` at the deadline."""
        timeouts = request.extensions["timeout"]
        end_s = monotonic_s() + timeouts["read"]
        instants = {"connect": end_s, "read": end_s, "write": end_s, "pool": timeouts["pool"]}
        request.extensions = {**request.extensions, "timeout": instants}
        return super().handle_request(request)


class _Network(httpcore.SyncBackend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        left_s = _left_s(timeout, httpcore.ConnectTimeout)
        return _Stream(super().connect_tcp(host, port, left_s, local_address, socket_options))


class _Stream(httpcore.NetworkStream):
    """A connection whose timeouts are instants of `monotonic_s`."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left_s(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for begin in range(0, len(buffer), WRITE_BYTES):
            self._stream.write(buffer[begin : begin + WRITE_BYTES], _left_s(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left_s = _left_s(timeout, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left_s))

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


def _left_s(end_s: float | None, late: type[httpcore.TimeoutException]) -> float | None:
    """The seconds until an instant, None when there is none; raises `late` after it."""
    if end_s is None:
        return None
    left_s = end_s - monotonic_s()
    if left_s <= 0:
        raise late("the deadline is over")
    return left_s
