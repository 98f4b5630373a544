"""Who may ask, and how often: bearer tokens and a rate limit for each caller.

Enters: calls of the routes that answer or take something. Leaves: the same, or a problem with status 401 or 429 before
the body is read. Wrapped around the routes by `api.py`. A token is compared as a digest, in constant time, and never
kept, logged or shown.
"""

import hashlib
import hmac
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from infra.clock import monotonic_s
from infra.metrics import Metrics
from serving.problems import make_problem, problem_response

GUARDED = frozenset({"/rank", "/events", "/items"})
MAX_CALLERS = 10_000


class Tokens:
    """The tokens of one setting, separated by commas: several callers, or an old and a new one of the same caller."""

    def __init__(self, setting: str) -> None:
        self._digests = [_digest(token.strip().encode()) for token in setting.split(",") if token.strip()]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def caller(self, scope: Scope) -> str | None:
        """Which token a request carries, as a name for its bearer; None: none of these."""
        token = bearer_token(scope)
        if token is None:
            return None
        digest = _digest(token)
        same = [hmac.compare_digest(digest, known) for known in self._digests]
        return f"token {same.index(True)}" if any(same) else None


def bearer_token(scope: Scope) -> bytes | None:
    """What stands after `Bearer` in the request's `Authorization`; None: nothing does."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            return token.strip() if scheme.lower() == b"bearer" else None
    return None


def unauthorized() -> Response:
    """What a request without a token of its route gets: status 401, and how to ask."""
    problem = make_problem("unauthorized", "this route needs the header `Authorization: Bearer TOKEN`")
    return problem_response(problem, {"WWW-Authenticate": 'Bearer realm="nowrank"'})


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_s: float


class RateLimit:
    """A token bucket for each caller: `rate` a second, and one second's worth at once.

    It remembers the callers seen last; one who was forgotten begins anew with a full bucket.
    """

    def __init__(self, rate: float, max_callers: int = MAX_CALLERS, clock_s: Callable[[], float] = monotonic_s) -> None:
        self._rate = rate
        self._burst = max(1.0, rate)
        self._max_callers = max_callers
        self._clock_s = clock_s
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def wait_s(self, caller: str) -> float:
        """0: the request may come, and counts; else how long until the next one may. A rate of 0 limits nobody."""
        if self._rate <= 0:
            return 0.0
        at_s = self._clock_s()
        bucket = self._buckets.get(caller)
        if bucket is None:
            bucket = self._buckets[caller] = _Bucket(self._burst, at_s)
            if len(self._buckets) > self._max_callers:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(caller)
            bucket.tokens = min(self._burst, bucket.tokens + (at_s - bucket.filled_s) * self._rate)
            bucket.filled_s = at_s
        if bucket.tokens < 1.0:
            return (1.0 - bucket.tokens) / self._rate
        bucket.tokens -= 1.0
        return 0.0


class Access:
    """Pure ASGI middleware. Without a token a caller is the address; wrong tokens count against it too."""

    def __init__(self, app: ASGIApp, tokens: Tokens, rate_limit: RateLimit, metrics: Metrics) -> None:
        self._app = app
        self._tokens = tokens
        self._rate_limit = rate_limit
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in GUARDED:
            await self._app(scope, receive, send)
            return
        bearer = self._tokens.caller(scope)
        wait_s = self._rate_limit.wait_s(f"address {_address(scope)}" if bearer is None else bearer)
        if wait_s > 0:
            self._metrics.count("nowrank_scorer_refused_total", reason="rate_limit")
            problem = make_problem("rate_limited", "more requests a second than this caller may send; wait and go on")
            response = problem_response(problem, {"Retry-After": str(max(1, math.ceil(wait_s)))})
        elif self._tokens and bearer is None:
            self._metrics.count("nowrank_scorer_refused_total", reason="token")
            response = unauthorized()
        else:
            await self._app(scope, receive, send)
            return
        await response(scope, receive, send)


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


def _digest(token: bytes) -> bytes:
    return hashlib.blake2b(token, digest_size=32).digest()
