"""The HTTP API: one small function per route.

Enters: HTTP requests. Leaves: JSON from the contract's types; every error is a problem (RFC 9457). Built by
`process.py`.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files

import msgspec
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Lifespan

from infra.errors import BadInput, BrokerUnavailable
from infra.metrics import Metrics
from infra.settings import Settings
from serving.access import Access, RateLimit, Tokens
from serving.admin import Admin
from serving.admission import Admission, Gate, Limits
from serving.bodies import MAX_EVENTS_BYTES, MAX_RANK_BYTES, BodyReader
from serving.contract import Health, Live, Taken, decode_rank_request
from serving.guard import USER_IDS, Guard
from serving.intake import Intake
from serving.openapi import openapi_document
from serving.problems import http_problem, input_problem, make_problem, problem_response
from serving.rank import Ranker

log = logging.getLogger(__name__)

JSON_TYPE = "application/json"
NDJSON_TYPES = {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"}
UNREAD = {"oversized", "slow_body", "overloaded"}
# The documentation page is one file of ours: it may run its own script and talk to this scorer, and nothing else.
DOCS_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
}
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Api:
    """The routes and what they need."""

    ranker: Ranker
    intake: Intake
    metrics: Metrics
    health: Callable[[], Health]
    settings: Settings = field(default_factory=Settings)
    reload: Callable[[], Awaitable[None]] | None = None

    @cached_property
    def bodies(self) -> BodyReader:
        """Reads every request's body."""
        return BodyReader(self.settings.transfer_timeout_s)

    async def rank(self, request: Request) -> Response:
        """POST /rank"""
        question = decode_rank_request(await self.bodies.read(request, MAX_RANK_BYTES))
        request.scope[USER_IDS] = [question.user_id]
        answer = await self.ranker.rank(question)
        return Response(_encode(answer), media_type=JSON_TYPE)

    async def events(self, request: Request) -> Response:
        """POST /events"""
        body = await self.bodies.read(request, MAX_EVENTS_BYTES)
        return _taken(await self.intake.take_events(body, is_lines=_is_ndjson(request)))

    async def items(self, request: Request) -> Response:
        """POST /items"""
        body = await self.bodies.read(request, MAX_EVENTS_BYTES)
        return _taken(await self.intake.take_items(body, is_lines=_is_ndjson(request)))

    async def reload_model(self) -> Health:
        """Look for a new model now; what answers afterwards."""
        if self.reload is not None:
            await self.reload()
        return self.health()

    async def live(self, request: Request) -> Response:
        """GET /health/live: the process answers."""
        return Response(_encode(Live()), media_type=JSON_TYPE)

    async def ready(self, request: Request) -> Response:
        """GET /health/ready: 200 once it is warm, 503 before."""
        health = self.health()
        return Response(_encode(health), 200 if health.status == "ready" else 503, media_type=JSON_TYPE)

    async def expose_metrics(self, request: Request) -> Response:
        """GET /metrics"""
        return Response(self.metrics.expose(), media_type=CONTENT_TYPE_LATEST)

    async def openapi(self, request: Request) -> Response:
        """GET /openapi.json"""
        return Response(_encode(openapi_document()), media_type=JSON_TYPE)

    async def docs(self, request: Request) -> Response:
        """GET /docs"""
        return Response((files("serving") / "docs.html").read_bytes(), headers=DOCS_HEADERS, media_type="text/html")


def build_app(api: Api, lifespan: Lifespan[Starlette]) -> Starlette:
    """The ASGI application."""
    admin = Admin(Tokens(api.settings.admin_token), api.bodies, api.reload_model)
    endpoints: dict[str, tuple[str, Callable[[Request], Awaitable[Response]]]] = {
        "/rank": ("POST", api.rank),
        "/events": ("POST", api.events),
        "/items": ("POST", api.items),
        "/health/live": ("GET", api.live),
        "/health/ready": ("GET", api.ready),
        "/metrics": ("GET", api.expose_metrics),
        "/openapi.json": ("GET", api.openapi),
        "/docs": ("GET", api.docs),
        "/admin/log-level": ("POST", admin.log_level),
        "/admin/reload": ("POST", admin.reload),
    }
    tokens = Tokens(api.settings.api_token)
    gate = Gate(Limits(api.settings.rank_max_unfinished, api.settings.rank_queue_ms / 1000), api.metrics)
    app = Starlette(
        routes=[Route(path, endpoint, methods=[method]) for path, (method, endpoint) in endpoints.items()],
        middleware=[
            Middleware(Guard, metrics=api.metrics, routes=frozenset(endpoints)),
            Middleware(Access, tokens=tokens, rate_limit=RateLimit(api.settings.rate_limit), metrics=api.metrics),
            Middleware(Admission, gate=gate, metrics=api.metrics),
        ],
        exception_handlers={
            HTTPException: _http_error,
            BadInput: _bad_input,
            BrokerUnavailable: _no_broker,
        },
        lifespan=lifespan,
    )
    # A redirect would name whatever host the caller named, past tokens and limits.
    app.router.redirect_slashes = False
    return app


def _is_ndjson(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() in NDJSON_TYPES


def _taken(taken: Taken) -> Response:
    """200 when anything was accepted; else a problem that carries the same lists."""
    if taken.accepted:
        return Response(_encode(taken), media_type=JSON_TYPE)
    is_lost = any(rejected.reason == "not_acknowledged" for rejected in taken.rejected)
    first = taken.rejected[0]
    problem = make_problem(
        "unavailable" if is_lost else "all_rejected",
        f"{first.reason}: {first.message}; see `rejected` for each",
        first.field,
    )
    return problem_response(msgspec.structs.replace(problem, accepted=0, rejected=taken.rejected))


async def _bad_input(request: Request, error: Exception) -> Response:
    assert isinstance(error, BadInput)
    # What was not read of such a body would be taken for the next request.
    return problem_response(input_problem(error), {"Connection": "close"} if error.reason in UNREAD else None)


async def _no_broker(request: Request, error: Exception) -> Response:
    log.warning("input could not be taken: %s", error)  # names addresses, which are nothing for the caller
    return problem_response(
        make_problem("unavailable", "nothing was taken: the broker cannot be reached or is too busy; send it again")
    )


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    details = {
        404: "there is no such route; GET /docs lists them",
        405: "the route is there, but not for this method; GET /docs lists them",
    }
    return problem_response(
        http_problem(error.status_code, details.get(error.status_code, error.detail)), dict(error.headers or {})
    )
