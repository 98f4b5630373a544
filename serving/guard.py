"""The guard around the API: counts every request, and turns whatever went wrong into a problem without a stack trace.

Enters: ASGI calls. Leaves: the same, with a metric for each. Wrapped around every route by `api.py`.
"""

import logging

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.metrics import Metrics
from infra.redaction import describe_failure
from serving.problems import http_problem, problem_response

CLIENT_GONE = 499
# Where a route that takes a body puts the ids of the users whom it concerns; without them the log does not hear what an
# exception says, which may be anything that was sent.
USER_IDS = "nowrank.user_ids"

log = logging.getLogger(__name__)


class Guard:
    """Pure ASGI middleware; `routes` are the paths that a metric may name."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: frozenset[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        code = 0

        async def send_and_note(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        route = scope["path"] if scope["path"] in self._routes else "unknown"
        try:
            await self._app(scope, receive, send_and_note)
        except ClientDisconnect:
            code = CLIENT_GONE
        except Exception as error:  # noqa: BLE001 - a process must outlive any one request
            user_ids = scope.get(USER_IDS, None if scope["method"] == "POST" else ())
            log.error("a request to %s failed\n%s", route, describe_failure(error, user_ids))
            if code == 0:
                response = problem_response(http_problem(500, "the scorer failed to answer; its log says why"))
                await response(scope, receive, send_and_note)
        self._metrics.count("nowrank_scorer_requests_total", route=route, code=str(code))
