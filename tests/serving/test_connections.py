"""Clients that send or read slowly, or open too many connections, harm nobody else."""

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serving.api import build_app
from serving.contract import RankAnswer, RankedItem
from tests.running_time import running_s
from tests.serving.test_admission import BusyRanker, make_api, no_lifespan
from tests.serving.world import metric, running_app, wait_until

pytestmark = pytest.mark.slow

TIMEOUT_S = 0.4
QUESTION = {"user_id": "ann", "task": "pre_query"}
BODY = json.dumps(QUESTION).encode()
HEAD = b"POST /rank HTTP/1.1\r\nHost: scorer\r\nContent-Length: %d\r\n\r\n" % len(BODY)


class LongRanker(BusyRanker):
    """Answers with more than the buffers of a connection take."""

    async def rank(self, request: object) -> RankAnswer:
        answer = await super().rank(request)
        answer.items.extend(RankedItem(item_id=f"t{n}", score=1.0, title="x" * 100) for n in range(2_000))
        return answer


@contextlib.contextmanager
def scorer(ranker: object | None = None, **changes: Any) -> Iterator[httpx.Client]:
    api = make_api(BusyRanker() if ranker is None else ranker, **({"transfer_timeout_s": TIMEOUT_S} | changes))
    with running_app(build_app(api, no_lifespan), api.settings, api.metrics) as client:
        yield client


@contextlib.contextmanager
def connections(
    client: httpx.Client, count: int = 1, receive_bytes: int | None = None
) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            one = stack.enter_context(socket.socket())
            if receive_bytes is not None:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            one.settimeout(10.0)
            one.connect((client.base_url.host, client.base_url.port))
            opened.append(one)
        yield opened


def read_to_end(one: socket.socket) -> bytes:
    """Everything until the server closes; a reset is an end too."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := one.recv(65536):
            received += part
    return received


def refused(client: httpx.Client, reason: str) -> float:
    return metric(client, f'nowrank_scorer_refused_total{{reason="{reason}"}}')


def trickle(one: socket.socket, data: bytes) -> bytes:
    """Send byte by byte until the server has had enough; what it said."""
    with contextlib.suppress(OSError):
        for byte in data:
            one.sendall(bytes([byte]))
            one.settimeout(0.02)
            with contextlib.suppress(TimeoutError):
                return read_to_end_after(one)
    one.settimeout(10.0)
    return read_to_end(one)


def read_to_end_after(one: socket.socket) -> bytes:
    first = one.recv(65536)
    one.settimeout(10.0)
    return first + read_to_end(one)


def test_headers_byte_by_byte_are_cut_off_with_408() -> None:
    with scorer() as client, connections(client) as (one,):
        begin_s = running_s()
        said = trickle(one, b"POST /rank HTTP/1.1\r\nHost: scorer\r\nX-Long: " + b"x" * 1_000)
        assert said.startswith(b"HTTP/1.1 408 Request Timeout")
        assert b"application/problem+json" in said
        assert b"urn:nowrank:problem:request-timeout" in said
        assert running_s() - begin_s < 5.0
        assert refused(client, "slow_headers") == 1


@pytest.mark.parametrize("nothing", [b"", b"\r\n" * 200], ids=["silence", "empty lines"])
def test_connection_without_a_request_is_closed(nothing: bytes) -> None:
    with scorer() as client, connections(client) as (one,):
        trickle(one, nothing)
        one.settimeout(5.0)
        with contextlib.suppress(OSError):
            assert one.recv(1) == b""


def test_body_byte_by_byte_is_408_and_closes() -> None:
    with scorer() as client, connections(client) as (one,):
        one.sendall(HEAD.replace(b"%d" % len(BODY), b"5000"))
        said = trickle(one, b" " * 5_000)
        assert said.startswith(b"HTTP/1.1 408")
        assert b"urn:nowrank:problem:slow-body" in said
        assert b"connection: close" in said.lower()


def test_endless_headers_are_431() -> None:
    with scorer(transfer_timeout_s=10.0) as client, connections(client) as (one,):
        with contextlib.suppress(OSError):
            one.sendall(b"GET /health/live HTTP/1.1\r\n")
            for number in range(5_000):
                one.sendall(b"X-%d: %s\r\n" % (number, b"y" * 100))
        wait_until(lambda: refused(client, "large_headers") == 1)


@pytest.mark.parametrize(
    "malformed",
    [
        b"what is this\r\n\r\n",
        HEAD.replace(b"%d" % len(BODY), b"-5"),
        HEAD.replace(b"Content-Length: %d" % len(BODY), b"Transfer-Encoding: chunked") + b"oops\r\n",
    ],
    ids=["request line", "length", "chunk"],
)
def test_what_is_not_http_is_a_problem(malformed: bytes) -> None:
    with scorer() as client, connections(client) as (one,):
        one.sendall(malformed)
        said = read_to_end(one)
        assert said.startswith(b"HTTP/1.1 400")
        assert b"content-type: application/problem+json" in said.lower()
        assert b"urn:nowrank:problem:bad-request" in said
        assert b"connection: close" in said.lower()
        wait_until(lambda: refused(client, "malformed") == 1)


def test_many_slow_senders_do_not_keep_others_waiting() -> None:
    with (
        scorer(transfer_timeout_s=10.0, rank_max_unfinished=8) as client,
        connections(client, 60) as slow_headers,
        connections(client, 60) as slow_bodies,
    ):
        for one in slow_headers:
            one.sendall(HEAD[:30])
        for one in slow_bodies:
            one.sendall(HEAD + BODY[:5])
        for _ in range(20):
            begin_s = running_s()
            assert client.post("/rank", json=QUESTION).status_code == 200
            assert running_s() - begin_s < 5.0  # half of what a slow sender is given
        for one in slow_bodies:
            one.sendall(BODY[5:])
            assert one.recv(1000).startswith((b"HTTP/1.1 200", b"HTTP/1.1 503"))


def test_client_that_does_not_take_its_answers_is_cut_and_the_others_are_served() -> None:
    with scorer(LongRanker(), rank_queue_ms=60_000) as client, connections(client, 3, receive_bytes=4096) as readers:
        for one in readers:
            with contextlib.suppress(OSError):
                one.sendall((HEAD + BODY) * 40)
        for _ in range(10):
            assert client.post("/rank", json=QUESTION).status_code == 200
        wait_until(lambda: refused(client, "slow_reader") == 3)
        wait_until(lambda: metric(client, "nowrank_scorer_unfinished_requests") == 0)


def test_one_connection_too_many_costs_the_oldest_one_that_waits() -> None:
    with scorer(max_connections=5, transfer_timeout_s=10.0) as client, connections(client, 40) as many:
        for _ in range(3):
            with httpx.Client(base_url=client.base_url, trust_env=False) as other:
                assert other.post("/rank", json=QUESTION).status_code == 200
        assert read_to_end(many[0]) == b""
        assert refused(client, "connections") >= 35
        assert metric(client, "nowrank_scorer_connections") <= 5


def test_connection_is_kept_for_many_requests() -> None:
    with scorer() as client, connections(client) as (one,):
        for together in (*[1] * 20, 2):
            one.sendall((HEAD + BODY) * together)
            received = b""
            while received.count(b"HTTP/1.1 200") < together or not received.endswith(b"}"):
                part = one.recv(65536)
                assert part, "the connection was closed"
                received += part


# What `curl --http2` and Java's HttpClient send on their first question.
UPGRADE = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
    b"User-Agent: curl/8.5.0\r\nAccept: */*\r\nContent-Type: application/json\r\n"
)
LAST = b"GET /health/live HTTP/1.1\r\nHost: scorer\r\nConnection: close\r\n\r\n"


def asks_for_another_protocol(is_chunked: bool, body: bytes = BODY) -> tuple[bytes, bytes]:
    """The head and the body of a question."""
    head = b"POST /rank HTTP/1.1\r\nHost: scorer\r\n" + UPGRADE
    if is_chunked:
        return head + b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (
            body[:5],
            len(body) - 5,
            body[5:],
        )
    return head + b"Content-Length: %d\r\n\r\n" % len(body), body


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunks"])
@pytest.mark.parametrize("packet_bytes", [1, 100, 65536], ids=["byte by byte", "a few packets", "one packet"])
def test_request_that_asks_for_another_protocol_is_answered_with_its_body(packet_bytes: int, is_chunked: bool) -> None:
    head, body = asks_for_another_protocol(is_chunked)
    sent = (head + body) * 2 + LAST
    with scorer(transfer_timeout_s=10.0) as client, connections(client) as (one,):
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for begin in range(0, len(sent), packet_bytes):
            one.sendall(sent[begin : begin + packet_bytes])
        said = read_to_end(one)
        assert (said.count(b"HTTP/1.1 "), said.count(b"HTTP/1.1 200 OK")) == (3, 3)
        assert said.count(b'"ranking_id"') == 2


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunks"])
def test_body_after_an_upgrade_is_no_request_of_its_own(is_chunked: bool) -> None:
    head, body = asks_for_another_protocol(is_chunked, body=b"GET /metrics HTTP/1.1\r\nHost: scorer\r\n\r\n")
    with scorer(transfer_timeout_s=10.0) as client, connections(client) as (one,):
        one.sendall(head[:-2] + b"Expect: 100-continue\r\n\r\n")
        assert one.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"  # so that the body is a packet of its own
        one.sendall(body + LAST)
        said = read_to_end(one)
        assert b"urn:nowrank:problem:malformed-json" in said
        assert (said.count(b"HTTP/1.1 "), said.count(b"HTTP/1.1 200 OK")) == (2, 1)


@pytest.mark.parametrize("target", [b"/rank", b"scorer:80"])
def test_tunnel_is_refused_and_what_follows_is_not_read(target: bytes) -> None:
    with scorer() as client, connections(client) as (one,):
        one.sendall(b"CONNECT " + target + b" HTTP/1.1\r\nHost: scorer\r\n\r\n" + LAST)
        said = read_to_end(one)
        assert said.startswith(b"HTTP/1.1 400")
        assert said.count(b"HTTP/1.1 ") == 1
