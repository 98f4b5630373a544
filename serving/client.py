"""The Python clients: ask for rankings and send events, with one pool of connections and a deadline for each call.

Enters: the fields of a `RankRequest`, wire events. Leaves: `RankAnswer`, `Taken`, `Health`; or `InvalidRequest`,
`ScorerUnavailable`. Called by other teams' services (`from nowrank import Scorer, AsyncScorer`), the demo and `nowrank
rank`. What is sent and read stands in `calls.py`, when it is sent again in `retries.py`.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from infra.errors import ScorerUnavailable
from infra.settings import load_settings
from serving.calls import events_calls, health_call, rank_call
from serving.contract import DEFAULT_LIMIT, Health, RankAnswer, Taken
from serving.deadline_transport import DeadlineTransport
from serving.retries import Outcome, RetryPolicy, Send, Steps, Terms, converse, converse_in_turn
from streams.events import Event, TaskName

DEFAULT_TIMEOUT_S = 2.0
DEFAULT_CONNECTIONS = 20
T = TypeVar("T")


class Scorer:
    """A client of one scorer, usable as a context manager and from several threads.

    Close it when it is no longer needed.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        connections: int = DEFAULT_CONNECTIONS,
        retry: RetryPolicy | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`url` None means the settings' `scorer_url`, or the running embedded stack's; `token` None their first one.

        `timeout_s` is the deadline of a call with all its repetitions; each sending gets what is left of it. Only a
        look-up of the host's name ends when the system says so. `transport` stands in for the network in tests. Raises
        `ScorerUnavailable` when no scorer is known, `InvalidRequest` for a `timeout_s` that is not above 0.
        """
        self.url = _known_url(url)
        self._terms = Terms(self.url, retry or RetryPolicy(), timeout_s)
        options = _options(self.url, connections, token)
        self._http = httpx.Client(transport=transport or DeadlineTransport(options["limits"]), **options)

    def rank(
        self,
        user_id: str,
        task: TaskName = "pre_query",
        *,
        items: Sequence[str] | None = None,
        limit: int = DEFAULT_LIMIT,
        timeout_s: float | None = None,
        **more: Any,
    ) -> RankAnswer:
        """Titles for a member, the best first.

        `more` are the other fields of `RankRequest`: `query`, `source_item_id`, `country`, `session_id`, `explain`,
        `include_seen`, `pinned`, `blocked`, `groups`, `rows`, `per_row`, `deadline_ms`, `log`, `id`. Raises
        `InvalidRequest` for what the scorer refuses or cannot be sent, `ScorerUnavailable` when it does not answer or
        this client is closed.
        """
        return self._take(converse(rank_call(user_id, task, items, limit, more), self._terms.within(timeout_s)))

    def send_events(self, events: Iterable[Event], *, timeout_s: float | None = None) -> Taken:
        """Publish plays, clicks and thumbs through the scorer.

        Returns what was accepted and what was not, once Kafka has it. A user's row remembers the last 64 ids of each
        type of event, so a batch with more of one user and type goes in several sendings, one after the other and each
        repeated by itself; `timeout_s` is for all of them. Raises as `rank` does: `ScorerUnavailable` says how many
        events had been answered before, and only the others may be given again.
        """
        return self._take(converse_in_turn(events_calls(events), self._terms.within(timeout_s)))

    def health(self, *, timeout_s: float | None = None) -> Health:
        """What the scorer can answer with, warm or not."""
        return self._take(converse(health_call(), self._terms.within(timeout_s)))

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self, steps: Steps[T]) -> T:
        outcome: Outcome | None = None
        try:
            while True:
                step = steps.send(outcome)
                if isinstance(step, Send):
                    outcome = self._send(step)
                else:
                    outcome = None
                    time.sleep(step.wait_s)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    def _send(self, step: Send) -> Outcome:
        try:
            return self._http.request(**_request(step))
        except httpx.HTTPError as error:
            return error
        except RuntimeError as error:
            raise _unsendable(error, self._http.is_closed) from error


class AsyncScorer:
    """A client of one scorer for an event loop, usable as an asynchronous context manager by many tasks at once.

    Everything else is as in `Scorer`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        connections: int = DEFAULT_CONNECTIONS,
        retry: RetryPolicy | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """As `Scorer`'s."""
        self.url = _known_url(url)
        self._terms = Terms(self.url, retry or RetryPolicy(), timeout_s)
        self._http = httpx.AsyncClient(transport=transport, **_options(self.url, connections, token))

    async def rank(
        self,
        user_id: str,
        task: TaskName = "pre_query",
        *,
        items: Sequence[str] | None = None,
        limit: int = DEFAULT_LIMIT,
        timeout_s: float | None = None,
        **more: Any,
    ) -> RankAnswer:
        """As `Scorer.rank`."""
        return await self._take(converse(rank_call(user_id, task, items, limit, more), self._terms.within(timeout_s)))

    async def send_events(self, events: Iterable[Event], *, timeout_s: float | None = None) -> Taken:
        """As `Scorer.send_events`."""
        return await self._take(converse_in_turn(events_calls(events), self._terms.within(timeout_s)))

    async def health(self, *, timeout_s: float | None = None) -> Health:
        """As `Scorer.health`."""
        return await self._take(converse(health_call(), self._terms.within(timeout_s)))

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _take(self, steps: Steps[T]) -> T:
        outcome: Outcome | None = None
        try:
            while True:
                step = steps.send(outcome)
                if isinstance(step, Send):
                    outcome = await self._send(step)
                else:
                    outcome = None
                    await asyncio.sleep(step.wait_s)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    async def _send(self, step: Send) -> Outcome:
        try:
            async with asyncio.timeout(step.timeout_s):
                return await self._http.request(**_request(step))
        except TimeoutError as error:
            return httpx.ReadTimeout(str(error))
        except httpx.HTTPError as error:
            return error
        except RuntimeError as error:
            raise _unsendable(error, self._http.is_closed) from error


def _known_url(url: str | None) -> str:
    known = (load_settings().scorer_url if url is None else url).rstrip("/")
    if not known:
        raise ScorerUnavailable(
            "no scorer is known: start one with `nowrank up`, or set NOWRANK_SCORER_URL=http://host:port"
        )
    return known


def _unsendable(error: RuntimeError, is_closed: bool) -> Exception:
    """What to raise for httpx's only error outside of its tree, with which a closed client answers."""
    return ScorerUnavailable("this client is closed; make another one") if is_closed else error


def _request(step: Send) -> dict[str, Any]:
    """What both kinds of HTTP clients send for a step."""
    call = step.call
    return {
        "method": call.method,
        "url": call.path,
        "content": call.body,
        "headers": call.headers,
        "timeout": step.timeout_s,
    }


def _options(url: str, connections: int, token: str | None) -> dict[str, Any]:
    """What both kinds of HTTP clients are given; `token` None means the settings' first one, if they have one."""
    token = load_settings().api_token.partition(",")[0].strip() if token is None else token
    return {
        "base_url": url,
        "limits": httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        "trust_env": False,  # a proxy of the environment is for the internet, not for a scorer next door
        "headers": {"Authorization": f"Bearer {token}"} if token else {},
    }
