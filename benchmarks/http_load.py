"""Requests over kept-alive connections, each timed by the client's clock.

Enters: a port, bodies. Leaves: answers and milliseconds. Called by `serving.py`. One write and, as a rule, one read a
request: a client that costs more would be measured with the scorer.
"""

import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Self

import msgspec

from infra.clock import monotonic_s
from infra.embedded.servers import LOOPBACK
from infra.errors import NowrankError

TIMEOUT_S = 30.0
READ_BYTES = 1 << 16


class Connection:
    """One kept-alive connection to `/rank`."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((LOOPBACK, port), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, body: bytes) -> bytes:
        """The body of the answer; raises `NowrankError` unless it is 200."""
        head = (
            f"POST /rank HTTP/1.1\r\nHost: benchmark\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        self._socket.sendall(head.encode() + b"\r\n\r\n" + body)
        answer = b""
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer += self._receive()
        head_bytes, answer = answer[:end], answer[end + 4 :]
        missing = content_length(head_bytes) - len(answer)
        parts = [answer]
        while missing > 0:
            parts.append(self._receive())
            missing -= len(parts[-1])
        whole = b"".join(parts)
        if not head_bytes.startswith(b"HTTP/1.1 200"):
            raise NowrankError(f"a scorer answered {head_bytes.splitlines()[0]!r}: {whole[:300]!r}")
        return whole

    def ask_json(self, body: bytes) -> Any:
        """The answer, decoded."""
        return msgspec.json.decode(self.ask(body))

    def time(self, body: bytes) -> float:
        """Milliseconds from before the first byte out to behind the last byte in."""
        began_s = monotonic_s()
        self.ask(body)
        return 1000 * (monotonic_s() - began_s)

    def _receive(self) -> bytes:
        received = self._socket.recv(READ_BYTES)
        if not received:
            raise NowrankError("a scorer closed its connection in the middle of an answer")
        return received

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def content_length(head: bytes) -> int:
    """The declared length of a body; 0 when there is none."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


@dataclass(slots=True)
class Timed:
    """Milliseconds of each request, and how long all of them took together."""

    ms: list[float] = field(default_factory=list)
    took_s: float = 0.0

    @property
    def per_s(self) -> float:
        """Requests/s."""
        return len(self.ms) / self.took_s


def keep_asking(port: int, bodies: Sequence[bytes], concurrency: int, seconds: float) -> Timed:
    """Ask on `concurrency` connections at once, each the next question as soon as the last is answered."""
    timed, numbers = Timed(), count()
    errors: list[Exception] = []

    def ask() -> None:
        try:
            with Connection(port) as connection:
                while monotonic_s() < until_s:
                    timed.ms.append(connection.time(bodies[next(numbers) % len(bodies)]))
        except (OSError, NowrankError) as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(concurrency)]
    began_s = monotonic_s()
    until_s = began_s + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    timed.took_s = monotonic_s() - began_s
    if errors:
        raise NowrankError(f"a scorer did not answer under {concurrency} requests at once: {errors[0]}")
    return timed
