"""A client's call is sent again when that may help, never longer than its deadline; both clients do the same."""

import asyncio
import contextlib
import json
import math
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, cast

import httpx
import msgspec
import pytest

from features.user import SEEN_CAPACITY
from infra.errors import InvalidRequest, ScorerUnavailable, SettingsError
from serving.calls import Call, events_calls, health_call, rank_call
from serving.client import AsyncScorer, Scorer
from serving.contract import RankAnswer, Status, Taken
from serving.deadline_transport import DeadlineTransport
from serving.retries import Outcome, RetryPolicy, Send, Terms, Wait, converse, converse_in_turn
from streams.events import Click, Play
from tests.running_time import running_s

ANSWER = RankAnswer(
    ranking_id="r",
    model="m",
    took_ms=1.0,
    items=[],
    status=Status(level="full", store="ok", model="ok", user="fresh"),
    candidates=0,
)
AT_ONCE = RetryPolicy(first_wait_s=0.0)
DRIP_S = 0.02
CLICK = Click(event_id=str(uuid.uuid4()), user_id="ann", item_id="t1", event_ts_ms=1)
OK = msgspec.json.encode(ANSWER)


Network = Callable[[httpx.Request], httpx.Response]


class Scripted:
    """A network that gives one prepared outcome after the other, and remembers what was sent."""

    def __init__(self, *outcomes: httpx.Response | Exception) -> None:
        self._outcomes = iter(outcomes)
        self.sent: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.sent.append(request)
        outcome = next(self._outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def ask_blocking(network: Network, method: str, *args: Any, retry: RetryPolicy = AT_ONCE, **more: Any) -> Any:
    with Scorer("http://scorer", retry=retry, transport=httpx.MockTransport(network)) as scorer:
        return getattr(scorer, method)(*args, **more)


def ask_awaiting(network: Network, method: str, *args: Any, retry: RetryPolicy = AT_ONCE, **more: Any) -> Any:
    async def once() -> Any:
        async with AsyncScorer("http://scorer", retry=retry, transport=httpx.MockTransport(network)) as scorer:
            return await getattr(scorer, method)(*args, **more)

    return asyncio.run(once())


@pytest.fixture(params=[ask_blocking, ask_awaiting], ids=["blocking", "awaiting"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """One call through either client."""
    asking: Callable[..., Any] = request.param
    return asking


@pytest.mark.parametrize(
    "first",
    [httpx.ConnectError("refused"), httpx.RemoteProtocolError("gone"), 429, 503],
    ids=["refused", "broken off", "429", "503"],
)
def test_ranking_is_asked_for_again_and_is_still_one_ranking(ask: Callable[..., Any], first: int | Exception) -> None:
    network = Scripted(httpx.Response(first) if isinstance(first, int) else first, httpx.Response(200, content=OK))
    assert ask(network, "rank", "ann") == ANSWER
    bodies = [json.loads(request.content) for request in network.sent]
    assert bodies[0]["id"] == bodies[1]["id"]


def test_events_are_sent_again_with_the_same_ids(ask: Callable[..., Any]) -> None:
    taken = Taken(accepted=1, rejected=[])
    network = Scripted(httpx.Response(503), httpx.Response(200, content=msgspec.json.encode(taken)))
    assert ask(network, "send_events", [CLICK]) == taken
    assert network.sent[0].content == network.sent[1].content


def clicks(count: int, user_id: str = "ann") -> list[Click]:
    return [Click(event_id=str(uuid.uuid4()), user_id=user_id, item_id="t1", event_ts_ms=1) for _ in range(count)]


def nested(depth: int) -> list[Any]:
    """A list of a list of a list ..."""
    made: list[Any] = []
    for _ in range(depth):
        made = [made]
    return made


class Window:
    """A scorer that takes every line, and remembers as many ids of each user and type as a row does.

    Its answer to the sending that `lost` counts (from 0) is lost.
    """

    def __init__(self, lost: int) -> None:
        self.counted = 0
        self.sendings: list[int] = []
        self._lost = lost
        self._seen: dict[tuple[str, str], deque[str]] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        events = [json.loads(line) for line in request.content.splitlines()]
        for event in events:
            seen = self._seen.setdefault((event["user_id"], event["type"]), deque(maxlen=SEEN_CAPACITY))
            if event["event_id"] not in seen:
                self.counted += 1
                seen.append(event["event_id"])
        self.sendings.append(len(events))
        if len(self.sendings) == self._lost + 1:
            raise httpx.RemoteProtocolError("gone")
        return httpx.Response(200, json={"accepted": len(events), "rejected": []})


@pytest.mark.parametrize("lost", range(3))
def test_events_whose_answer_was_lost_count_once(ask: Callable[..., Any], lost: int) -> None:
    scorer, batch = Window(lost), clicks(2 * SEEN_CAPACITY + 10)
    assert ask(scorer, "send_events", batch) == Taken(accepted=len(batch), rejected=[])
    assert scorer.counted == len(batch)


def test_events_of_many_users_and_types_go_together(ask: Callable[..., Any]) -> None:
    plays = [
        Play(event_id=str(uuid.uuid4()), user_id="ann", item_id="t1", event_ts_ms=1, watched_ms=1, duration_ms=2)
    ] * SEEN_CAPACITY
    scorer, batch = Window(-1), [*clicks(SEEN_CAPACITY), *clicks(SEEN_CAPACITY, "bob"), *plays]
    ask(scorer, "send_events", batch)
    assert scorer.sendings == [len(batch)]


def test_rejected_events_are_named_by_their_place_in_the_whole_batch(ask: Callable[..., Any]) -> None:
    def first_is_bad(request: httpx.Request) -> httpx.Response:
        count = len(request.content.splitlines())
        return httpx.Response(
            200,
            json={"accepted": count - 1, "rejected": [{"index": 0, "reason": "invalid_field", "message": "bad"}]},
        )

    taken = ask(first_is_bad, "send_events", clicks(SEEN_CAPACITY + 2))
    assert (taken.accepted, [one.index for one in taken.rejected]) == (SEEN_CAPACITY, [0, SEEN_CAPACITY])


def test_batch_that_is_all_rejected_is_named_by_its_places_too(ask: Callable[..., Any]) -> None:
    def all_bad(request: httpx.Request) -> httpx.Response:
        rejected = [
            {"index": index, "reason": "invalid_field", "message": "bad"}
            for index, _ in enumerate(request.content.splitlines())
        ]
        problem = {"type": "x", "title": "x", "status": 422, "detail": "x", "rejected": rejected}
        return httpx.Response(422, json=problem)

    taken = ask(all_bad, "send_events", clicks(SEEN_CAPACITY + 2))
    assert (taken.accepted, [one.index for one in taken.rejected]) == (0, list(range(SEEN_CAPACITY + 2)))


def test_batch_that_ends_midway_says_what_went_before(ask: Callable[..., Any]) -> None:
    done = httpx.Response(200, json={"accepted": SEEN_CAPACITY, "rejected": []})
    network = Scripted(done, httpx.Response(500))
    with pytest.raises(ScorerUnavailable, match=f"answered 500.*the first {SEEN_CAPACITY} events"):
        ask(network, "send_events", clicks(SEEN_CAPACITY + 1))


def test_sendings_of_one_batch_share_its_deadline() -> None:
    now_s = 100.0
    terms = Terms("http://scorer", RetryPolicy(), 3.0, lambda: now_s)
    talk = converse_in_turn(events_calls(clicks(SEEN_CAPACITY + 1)), terms)
    first = next(talk)
    now_s += 2.0
    second = talk.send(httpx.Response(200, json={"accepted": 1, "rejected": []}, request=GET))
    assert [cast(Send, step).timeout_s for step in (first, second)] == [3.0, 1.0]


@pytest.mark.parametrize("code", [400, 422, 500, 504])
def test_other_answers_are_final(ask: Callable[..., Any], code: int) -> None:
    network = Scripted(httpx.Response(code))
    with pytest.raises(InvalidRequest if code < 500 else ScorerUnavailable):
        ask(network, "rank", "ann")
    assert len(network.sent) == 1


def test_scorer_that_is_slow_is_not_asked_again(ask: Callable[..., Any]) -> None:
    network = Scripted(httpx.ReadTimeout("slow"))
    with pytest.raises(ScorerUnavailable, match="in time"):
        ask(network, "rank", "ann")
    assert len(network.sent) == 1


def test_attempts_are_limited_and_the_last_answer_is_told(ask: Callable[..., Any]) -> None:
    network = Scripted(httpx.ConnectError("refused"), httpx.Response(503), httpx.Response(429))
    with pytest.raises(ScorerUnavailable, match="answered 429"):
        ask(network, "rank", "ann")
    assert len(network.sent) == 3


def test_health_is_asked_for_once(ask: Callable[..., Any]) -> None:
    network = Scripted(httpx.Response(503, content=b'{"status": "warming_up"}'))
    assert ask(network, "health").status == "warming_up"


def test_answer_of_something_else_is_no_answer(ask: Callable[..., Any]) -> None:
    with pytest.raises(ScorerUnavailable, match="no scorer of this version"):
        ask(Scripted(httpx.Response(200, content=b"<html>")), "rank", "ann")


@pytest.mark.parametrize("code", [200, 503])
@pytest.mark.parametrize(
    "body",
    [b'{"type": "\xff"}', b"[" * 100_000, b'{"more": ' + b"[" * 100_000],
    ids=["not UTF-8", "deep", "deep in a field"],
)
def test_answer_that_cannot_be_read_is_no_answer(ask: Callable[..., Any], body: bytes, code: int) -> None:
    network = Scripted(*[httpx.Response(code, content=body) for _ in range(3)])
    with pytest.raises(ScorerUnavailable, match=f"HTTP {code}"):
        ask(network, "rank", "ann")


@pytest.mark.parametrize("wrong", ["\ud800", object(), pytest.param(nested(100_000), id="deep")])
@pytest.mark.parametrize("field", ["query", "items", "user_id"])
def test_question_that_cannot_be_written_is_refused(ask: Callable[..., Any], field: str, wrong: object) -> None:
    with pytest.raises(InvalidRequest, match="the request cannot be written"):
        ask(Scripted(), "rank", **({"user_id": "ann"} | {field: [wrong] if field == "items" else wrong}))


@pytest.mark.parametrize("wrong", ["\ud800", object()])
def test_event_that_cannot_be_written_is_refused_before_any_is_sent(ask: Callable[..., Any], wrong: Any) -> None:
    spoilt = Click(event_id=str(uuid.uuid4()), user_id=wrong, item_id="t1", event_ts_ms=1)
    network = Scripted()
    with pytest.raises(InvalidRequest, match=f"event {SEEN_CAPACITY + 1} cannot be written"):
        ask(network, "send_events", [*clicks(SEEN_CAPACITY + 1), spoilt])
    assert not network.sent


@pytest.mark.parametrize("timeout_s", [math.nan, -1.0, -math.inf, 0])
def test_deadline_that_cannot_be_kept_is_refused_by_name(ask: Callable[..., Any], timeout_s: float) -> None:
    with pytest.raises(InvalidRequest, match="timeout_s") as refused:
        ask(Scripted(), "rank", "ann", timeout_s=timeout_s)
    assert refused.value.field == "timeout_s"
    for kind in (Scorer, AsyncScorer):
        with pytest.raises(InvalidRequest, match="timeout_s"):
            kind("http://scorer", timeout_s=timeout_s)


@pytest.mark.parametrize("timeout_s", [math.inf, 1e12, 1e300])
def test_deadline_may_be_as_far_as_one_likes(timeout_s: float) -> None:
    async def awaited(url: str) -> RankAnswer:
        async with AsyncScorer(url, timeout_s=timeout_s) as scorer:
            return await scorer.rank("ann")

    with server(answer_once) as url:
        with Scorer(url, timeout_s=timeout_s) as scorer:
            assert scorer.rank("ann") == ANSWER
        assert asyncio.run(awaited(url)) == ANSWER


def test_closed_client_says_so() -> None:
    async def awaited() -> None:
        other = AsyncScorer("http://scorer", transport=httpx.MockTransport(Scripted()))
        await other.close()
        for call in (other.rank("ann"), other.health(), other.send_events([CLICK])):
            with pytest.raises(ScorerUnavailable, match="closed"):
                await call

    scorer = Scorer("http://scorer", transport=httpx.MockTransport(Scripted()))
    scorer.close()
    for call in (lambda: scorer.rank("ann"), scorer.health, lambda: scorer.send_events([CLICK])):
        with pytest.raises(ScorerUnavailable, match="closed"):
            call()
    asyncio.run(awaited())


def test_deadline_of_the_call_goes_before_the_clients(ask: Callable[..., Any]) -> None:
    network = Scripted(httpx.Response(200, content=OK), httpx.Response(200, content=OK))
    ask(network, "rank", "ann", timeout_s=0.5)
    ask(network, "rank", "ann")
    own, usual = (request.extensions["timeout"]["read"] for request in network.sent)
    assert own <= 0.5 < usual <= 2.0


def test_awaiting_client_ends_at_its_deadline() -> None:
    async def never(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async def scenario() -> None:
        async with AsyncScorer("http://scorer", transport=httpx.MockTransport(never)) as scorer:
            await scorer.rank("ann", timeout_s=0.05)

    with pytest.raises(ScorerUnavailable, match="in time"):
        asyncio.run(scenario())


@contextlib.contextmanager
def server(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """The URL of a server that does this with each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve_one(one: socket.socket) -> None:
            with contextlib.suppress(OSError), one:
                serve(one)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve_one, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def answer_once(one: socket.socket) -> None:
    one.recv(65536)
    one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(OK), OK))


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\nX-Long: ", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"],
    ids=["headers", "body"],
)
def test_server_that_answers_byte_by_byte_does_not_outlive_the_deadline(head: bytes) -> None:
    def drip(one: socket.socket) -> None:
        one.recv(65536)
        one.sendall(head)
        for _ in range(1_000):
            one.sendall(b" ")
            time.sleep(DRIP_S)

    async def awaited(url: str) -> None:
        async with AsyncScorer(url) as scorer:
            await scorer.rank("ann", timeout_s=10 * DRIP_S)

    with server(drip) as url, Scorer(url) as scorer:
        for ask_once in (lambda: scorer.rank("ann", timeout_s=10 * DRIP_S), lambda: asyncio.run(awaited(url))):
            begin_s = running_s()
            with pytest.raises(ScorerUnavailable, match="in time"):
                ask_once()
            assert running_s() - begin_s < 100 * DRIP_S


def test_server_that_reads_slowly_does_not_outlive_the_deadline() -> None:
    def sip(one: socket.socket) -> None:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        for _ in range(1_000):
            one.recv(65536)
            time.sleep(DRIP_S)

    limits = httpx.Limits(max_connections=1)
    with server(sip) as url, httpx.Client(transport=DeadlineTransport(limits)) as client:
        begin_s = running_s()
        with pytest.raises(httpx.WriteTimeout):
            client.post(url, content=bytes(64 * 1024 * 1024), timeout=10 * DRIP_S)
        assert running_s() - begin_s < 100 * DRIP_S


class Hand:
    """Takes the steps of a call without a network and without time passing by itself."""

    def __init__(self, policy: RetryPolicy, timeout_s: float, chance: float = 0.0) -> None:
        self.now_s = 100.0
        self.steps: list[Send | Wait] = []
        self._policy, self._timeout_s, self._chance = policy, timeout_s, chance

    def take(self, call: Call[Any], outcomes: Iterator[Outcome], each_s: float = 0.0) -> Any:
        terms = Terms("http://scorer", self._policy, self._timeout_s, lambda: self.now_s, lambda: self._chance)
        talk = converse(call, terms)
        outcome: Outcome | None = None
        try:
            while True:
                step = talk.send(outcome)
                self.steps.append(step)
                self.now_s += each_s if isinstance(step, Send) else step.wait_s
                outcome = next(outcomes) if isinstance(step, Send) else None
        except StopIteration as end:
            return end.value


RANK = rank_call("ann", "pre_query", None, 10, {})
GET = httpx.Request("POST", "http://scorer/rank")


def busy(**headers: str) -> httpx.Response:
    return httpx.Response(503, headers={name.replace("_", "-"): value for name, value in headers.items()}, request=GET)


def good() -> httpx.Response:
    return httpx.Response(200, content=OK, request=GET)


def test_waits_double_up_to_the_longest_and_are_spread() -> None:
    policy = RetryPolicy(attempts=5, total_s=60, first_wait_s=1.0, longest_wait_s=3.0)
    for chance, expected in ((0.0, [0.5, 1.0, 1.5, 1.5]), (0.5, [0.75, 1.5, 2.25, 2.25])):
        hand = Hand(policy, 60, chance)
        assert hand.take(RANK, iter([busy(), busy(), busy(), busy(), good()])) == ANSWER
        assert [step.wait_s for step in hand.steps if isinstance(step, Wait)] == expected


def test_retry_after_is_kept_when_the_deadline_allows_it() -> None:
    hand = Hand(RetryPolicy(), 3.0)
    assert hand.take(RANK, iter([busy(Retry_After="2"), good()]), each_s=0.25) == ANSWER
    assert hand.steps == [Send(RANK, 3.0), Wait(2.0), Send(RANK, 0.75)]


@pytest.mark.parametrize(("timeout_s", "total_s"), [(2.0, 60.0), (60.0, 2.0)], ids=["deadline", "total time"])
def test_call_ends_at_once_when_the_wait_would_end_too_late(timeout_s: float, total_s: float) -> None:
    hand = Hand(RetryPolicy(total_s=total_s), timeout_s)
    with pytest.raises(ScorerUnavailable, match="answered 503"):
        hand.take(RANK, iter([busy(Retry_After="2")]))
    assert hand.steps == [Send(RANK, timeout_s)]


@pytest.mark.parametrize("asked", ["Wed, 21 Oct 2026 07:28:00 GMT", "-1", "soon", "", "²"])
def test_retry_after_that_is_no_number_of_seconds_is_left_aside(asked: str) -> None:
    hand = Hand(RetryPolicy(first_wait_s=0.5), 3.0)
    headers = [(b"Retry-After", asked.encode())]
    assert hand.take(RANK, iter([httpx.Response(503, headers=headers, request=GET), good()])) == ANSWER
    assert hand.steps[1] == Wait(0.25)


def test_one_attempt_is_no_repetition() -> None:
    hand = Hand(RetryPolicy(attempts=1), 3.0)
    with pytest.raises(ScorerUnavailable):
        hand.take(RANK, iter([httpx.ConnectError("refused")]))
    assert hand.steps == [Send(RANK, 3.0)]
    assert not health_call().is_repeatable


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"total_s": math.nan},
        {"total_s": 0.0},
        {"first_wait_s": math.nan},
        {"first_wait_s": -0.1},
        {"longest_wait_s": math.nan},
        {"longest_wait_s": -0.1},
    ],
    ids=str,
)
def test_policy_that_cannot_be_kept_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="at least 1 attempt"):
        RetryPolicy(**wrong)


def test_policy_may_have_any_number_of_attempts() -> None:
    hand = Hand(RetryPolicy(attempts=10**6, total_s=math.inf, longest_wait_s=0.001), 60.0)
    assert hand.take(RANK, chain([busy()] * 2_000, [good()])) == ANSWER
