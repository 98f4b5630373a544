"""Under more load than it can bear the scorer refuses what it could not answer soon, and answers the rest in time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple, cast

import httpx
import msgspec
import pytest
from starlette.applications import Starlette

from infra.clock import monotonic_s, thread_cpu_s
from infra.metrics import Metrics
from infra.settings import Settings
from serving import admission
from serving.admission import ARRIVED_S, Gate, Limits
from serving.api import Api, build_app
from serving.contract import Health, RankAnswer, Status
from serving.intake import Intake
from tests.serving.world import metric, running_app

pytestmark = pytest.mark.slow

WORK_S = 0.005
QUEUE_MS = 100
RECOVERY_S, ROUND_S = 5.0, 0.5
QUESTION = {"user_id": "ann", "task": "pre_query"}
BODY = msgspec.json.encode(QUESTION)


@contextlib.asynccontextmanager
async def no_lifespan(app: Starlette) -> AsyncIterator[None]:
    yield


class BusyRanker:
    """Holds the event loop for WORK_S at each request, as scoring does."""

    def __init__(self, store_s: float | None = 0.002) -> None:
        self._store_s = store_s
        self.underway = 0
        self.most_underway = 0

    async def rank(self, request: object) -> RankAnswer:
        self.underway += 1
        self.most_underway = max(self.most_underway, self.underway)
        if self._store_s is not None:
            await asyncio.sleep(self._store_s)
        end_s = thread_cpu_s() + WORK_S
        while thread_cpu_s() < end_s:
            pass
        self.underway -= 1
        status = Status(level="full", store="ok", model="ok", user="fresh")
        return RankAnswer(ranking_id="r", model="m", took_ms=1.0, items=[], status=status, candidates=0)


def make_api(ranker: object, **changes: Any) -> Api:
    settings, metrics = Settings(**changes), Metrics("scorer")
    return Api(cast(Any, ranker), Intake(settings, metrics), metrics, lambda: Health(status="ready"), settings)


def make_app(ranker: object, **changes: Any) -> Starlette:
    return build_app(make_api(ranker, **changes), no_lifespan)


class Outcome(NamedTuple):
    """One request: what it got, and how long after it was due."""

    code: int
    seconds: float
    headers: dict[bytes, bytes]
    body: bytes


async def call(app: Starlette, body: bytes, arrived_s: float | None = None) -> tuple[int, dict[bytes, bytes], bytes]:
    """One request without a network between; a client would need as much of the machine as the scorer."""
    sent: list[Any] = []
    scope = {"type": "http", "method": "POST", "path": "/rank", "headers": [], "query_string": b"", "app": app}
    if arrived_s is not None:
        scope[ARRIVED_S] = arrived_s

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    await cast(Any, app)(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


async def arrive(app: Starlette, rate: float, seconds: float) -> list[Outcome]:
    """Requests arrive at a steady rate, whether those before have been answered or not.

    By the clock of this thread's work, which stands still while the machine does: a loop that spins has no other waits.
    """
    begin_s = thread_cpu_s()
    outcomes: list[Outcome] = []

    async def one(due_s: float, arrived_s: float) -> None:
        code, headers, body = await call(app, BODY, arrived_s)
        outcomes.append(Outcome(code, thread_cpu_s() - due_s, headers, body))

    async with asyncio.TaskGroup() as group:
        number = 0
        while number < rate * seconds:
            while number < (thread_cpu_s() - begin_s) * rate:  # all that came while the loop was busy
                group.create_task(one(begin_s + number / rate, thread_cpu_s()))
                number += 1
            await asyncio.sleep(0)
    return outcomes


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


@pytest.mark.parametrize("store_s", [0.002, None], ids=["each waits for the store", "none waits for anything"])
def test_at_three_times_capacity_some_are_refused_quickly_and_the_admitted_are_in_time(
    store_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "monotonic_s", thread_cpu_s)
    ranker = BusyRanker(store_s)
    app = make_app(ranker, rank_queue_ms=QUEUE_MS, rank_max_unfinished=64)

    async def overload() -> tuple[list[Outcome], bool]:
        under_load = await arrive(app, rate=3 / WORK_S, seconds=1.0)
        for _ in range(round(RECOVERY_S / ROUND_S)):
            afterwards = await arrive(app, rate=0.3 / WORK_S, seconds=ROUND_S)
            if [one.code for one in afterwards[-10:]] == [200] * 10:
                return under_load, True
        return under_load, False

    under_load, recovers = asyncio.run(overload())
    admitted = [one for one in under_load if one.code == 200]
    refused = [one for one in under_load if one.code == 503]
    assert len(admitted) + len(refused) == len(under_load)
    assert len(admitted) > 20
    assert len(refused) > 20
    assert percentile([one.seconds for one in admitted], 0.99) < 4 * QUEUE_MS / 1000
    assert percentile([one.seconds for one in refused], 0.99) < 4 * QUEUE_MS / 1000
    assert ranker.most_underway <= 64
    assert {one.headers[b"retry-after"] for one in refused} == {b"1"}
    assert {msgspec.json.decode(one.body)["type"] for one in refused} == {"urn:nowrank:problem:overloaded"}
    assert recovers, f"within {RECOVERY_S} s after the load nobody is refused"


@pytest.mark.parametrize("store_s", [0.002, None], ids=["each waits for the store", "none waits for anything"])
def test_over_http_a_crowd_gets_answers_and_refusals_and_nothing_else(store_s: float | None) -> None:
    api = make_api(BusyRanker(store_s), rank_max_unfinished=2, rank_queue_ms=20)

    async def crowd(url: str) -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=url, timeout=30.0, trust_env=False) as http:
            return await asyncio.gather(*(http.post("/rank", json=QUESTION) for _ in range(60)))

    with running_app(build_app(api, no_lifespan), api.settings, api.metrics) as client:
        codes = [answer.status_code for answer in asyncio.run(crowd(str(client.base_url)))]
        assert set(codes) == {200, 503}
        counted = [metric(client, f'nowrank_scorer_refused_total{{reason="{why}"}}') for why in ("full", "queue")]
        assert sum(counted) == codes.count(503)
        assert metric(client, "nowrank_scorer_unfinished_requests") == 0
        assert client.post("/rank", json=QUESTION).status_code == 200


def test_number_of_unfinished_requests_is_bounded() -> None:
    async def flood() -> list[int]:
        let_go = asyncio.Event()

        class StuckRanker(BusyRanker):
            async def rank(self, request: object) -> RankAnswer:
                await let_go.wait()
                return await super().rank(request)

        transport = httpx.ASGITransport(app=make_app(StuckRanker(), rank_max_unfinished=5))
        async with httpx.AsyncClient(transport=transport, base_url="http://scorer") as http:
            asked = [asyncio.create_task(http.post("/rank", json=QUESTION)) for _ in range(12)]
            done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            while len(done) < 7:
                more, _ = await asyncio.wait(set(asked) - done, return_when=asyncio.FIRST_COMPLETED)
                done |= more
            assert {task.result().status_code for task in done} == {503}
            other = await http.get("/health/live")
            assert other.status_code == 200, "only rankings wait in this queue"
            let_go.set()
            return [answer.status_code for answer in await asyncio.gather(*asked)]

    codes = asyncio.run(flood())
    assert (codes.count(200), codes.count(503)) == (5, 7)


def gate(**changes: Any) -> Gate:
    return Gate(Limits(**({"unfinished": 10, "queue_s": 0.1} | changes)), Metrics("scorer"))


def test_slow_rankings_make_a_short_queue_and_quick_ones_a_long_one() -> None:
    def length(busy_s: float) -> int:
        queue = gate(unfinished=1000)
        queue.enter()
        queue.leave(busy_s)
        while queue.refusal() is None:
            queue.enter()
        return queue.unfinished

    assert length(0.010) == pytest.approx(12, abs=1)
    assert length(0.001) == pytest.approx(102, abs=1)
    assert length(10.0) == 2, "two always may: a bad moment must not shut the gate for ever"


def test_one_slow_ranking_is_forgotten_after_some_quick_ones() -> None:
    queue = gate()
    for busy_s in [1.0] + 60 * [0.001]:
        queue.enter()
        queue.leave(busy_s)
    assert queue.busy_s < 0.01


def test_who_waited_too_long_behind_others_is_refused_and_who_waited_alone_is_not() -> None:
    long_ago_s = monotonic_s() - 1.0
    queue = gate()
    assert queue.refusal(long_ago_s) is None, "the machine paused; nobody was before it"
    queue.enter()
    queue.leave(0.001)
    assert queue.refusal(long_ago_s) == "queue"
    assert queue.refusal(monotonic_s()) is None


def test_refused_request_is_refused_before_its_body_is_read() -> None:
    app = make_app(BusyRanker(), rank_max_unfinished=0)
    code, _, _ = asyncio.run(call(app, b"this is not JSON: it would be 400 if it were read"))
    assert code == 503


def test_caller_who_sends_slowly_takes_nobodys_place() -> None:
    app = make_app(BusyRanker(), rank_max_unfinished=1)

    async def slow_and_quick() -> int:
        scope = {"type": "http", "method": "POST", "path": "/rank", "headers": [], "query_string": b"", "app": app}

        async def never() -> Any:
            await asyncio.Event().wait()

        async with asyncio.TaskGroup() as group:
            slow = [group.create_task(cast(Any, app)(scope, never, never)) for _ in range(5)]
            await asyncio.sleep(0)
            code, _, _ = await call(app, BODY)
            for task in slow:
                task.cancel()
        return code

    assert asyncio.run(slow_and_quick()) == 200
