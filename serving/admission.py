"""Admission control: a ranking that could not be answered soon is refused at once, so that the others are.

Enters: calls of `POST /rank`. Leaves: the same, or a problem with status 503 before the body is read. Wrapped around
the routes by `api.py`.

All scoring happens in the event loop's thread, one request after the other. So a new request waits for the loop to turn
to it at all, and then as long as the loop is busy with the unfinished ones before it. The first is known when it is its
turn, from the server's time stamp; the second is their number times the mean.
"""

from collections.abc import Coroutine, Generator
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.clock import monotonic_s
from infra.metrics import Metrics
from serving.problems import make_problem, problem_response

# Where the server says when a request's headers, or all of it, were there (`infra.clock.monotonic_s`).
ARRIVED_S = "nowrank.arrived_s"
# The mean forgets half of what it knows within seven requests: a slow start or a pause of the machine is soon over.
SMOOTHING = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """How many requests may be unfinished at once, and how long one may wait for those before it."""

    unfinished: int
    queue_s: float


class Gate:
    """Counts the unfinished requests, and knows how long the loop is busy with one of them."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.unfinished = 0
        self.busy_s = 0.0
        self._entered_s = 0.0
        self._limits = limits
        self._metrics = metrics

    def refusal(self, arrived_s: float | None = None) -> str | None:
        """Why a request that arrived then is refused now: `full`, `queue`; None: it may come in.

        What it waited counts only when another came in meanwhile: a pause of the machine, or a new model that is warmed
        up, refuses nobody who is alone. For the same reason the mean refuses nobody who finds at most one other; so a
        mean that was measured in a bad moment is measured again.
        """
        waited_s = 0.0 if arrived_s is None or arrived_s > self._entered_s else monotonic_s() - arrived_s
        if self.unfinished >= self._limits.unfinished:
            return "full"
        if waited_s + max(0, self.unfinished - 1) * self.busy_s > self._limits.queue_s:
            return "queue"
        return None

    def enter(self) -> None:
        """One more is unfinished."""
        self.unfinished += 1
        self._entered_s = monotonic_s()
        self._metrics.set("nowrank_scorer_unfinished_requests", self.unfinished)

    def leave(self, busy_s: float) -> None:
        """One has ended, after it had the loop to itself for `busy_s`."""
        self.unfinished -= 1
        self.busy_s = busy_s if self.busy_s == 0.0 else self.busy_s + SMOOTHING * (busy_s - self.busy_s)
        self._metrics.set("nowrank_scorer_unfinished_requests", self.unfinished)


class Admission:
    """Pure ASGI middleware.

    A request takes its place when its body is complete, so that a caller who sends slowly takes nobody's place.
    """

    def __init__(self, app: ASGIApp, gate: Gate, metrics: Metrics) -> None:
        self._app = app
        self._gate = gate
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/rank" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        visit = _Visit(self._gate, scope, receive)
        try:
            visit.check()
            await _Timed(self._app(scope, visit.receive, send), visit)
        except _Refused as refused:
            self._metrics.count("nowrank_scorer_refused_total", reason=refused.reason)
            response = problem_response(make_problem("overloaded", "more is asked than can be answered; try again"))
            await response(scope, receive, send)
        finally:
            visit.end()


class _Refused(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Visit:
    """One request at the gate."""

    def __init__(self, gate: Gate, scope: Scope, receive: Receive) -> None:
        self.busy_s = 0.0
        self._gate = gate
        self._scope = scope
        self._receive = receive
        self._is_in = False

    def check(self) -> None:
        if (reason := self._gate.refusal(self._scope.get(ARRIVED_S))) is not None:
            raise _Refused(reason)

    async def receive(self) -> Message:
        """The app's next message; the body's last part is handed over only to a request that may come in."""
        message = await self._receive()
        if not self._is_in and message["type"] == "http.request" and not message.get("more_body", False):
            self.check()
            self._is_in = True
            self._gate.enter()
        return message

    def end(self) -> None:
        if self._is_in:
            self._gate.leave(self.busy_s)


class _Timed:
    """Awaits a coroutine and adds up how long it holds the event loop, its waits left out."""

    def __init__(self, work: Any, visit: _Visit) -> None:
        self._work: Coroutine[Any, Any, None] = work
        self._visit = visit

    def __await__(self) -> Generator[Any, Any, None]:
        step, given = self._work.send, None
        while True:
            begin_s = monotonic_s()
            try:
                waits_for = step(given)
            except StopIteration:
                return
            finally:
                self._visit.busy_s += monotonic_s() - begin_s
            try:
                given = yield waits_for
                step = self._work.send
            except BaseException as error:  # noqa: BLE001 - a cancellation, which is the coroutine's to see
                step, given = self._work.throw, error
