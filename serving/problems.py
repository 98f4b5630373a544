"""Problem details (RFC 9457): every error as the same JSON, without a stack trace.

Enters: errors. Leaves: `Problem`s and the responses that carry them. Called by the API.
"""

from http import HTTPStatus

import msgspec
from starlette.responses import Response

from infra.errors import BadInput
from serving.contract import Problem

PROBLEM_TYPE = "application/problem+json"
RETRY_AFTER_S = 1

# reason -> (status, title); every other reason of bad input is a field that breaks its rule
_REASONS = {
    "malformed_json": (HTTPStatus.BAD_REQUEST, "The body is not JSON"),
    "empty": (HTTPStatus.BAD_REQUEST, "The body is empty"),
    "oversized": (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is too large"),
    "missing_field": (HTTPStatus.UNPROCESSABLE_ENTITY, "A field is missing"),
    "unknown_field": (HTTPStatus.UNPROCESSABLE_ENTITY, "A field is unknown"),
    "all_rejected": (HTTPStatus.UNPROCESSABLE_ENTITY, "Nothing was accepted"),
    "unavailable": (HTTPStatus.SERVICE_UNAVAILABLE, "The broker does not answer"),
    "slow_body": (HTTPStatus.REQUEST_TIMEOUT, "The body did not come in time"),
    "unauthorized": (HTTPStatus.UNAUTHORIZED, "The request carries no token, or a wrong one"),
    "rate_limited": (HTTPStatus.TOO_MANY_REQUESTS, "The caller asks too often"),
    "overloaded": (HTTPStatus.SERVICE_UNAVAILABLE, "The scorer is overloaded"),
}
_FIELD_RULE = (HTTPStatus.UNPROCESSABLE_ENTITY, "A field breaks its rule")


def make_problem(reason: str, detail: str, field: str | None = None) -> Problem:
    """The problem of a reason code."""
    status, title = _REASONS.get(reason, _FIELD_RULE)
    return Problem(type=problem_type(reason), title=title, status=status, detail=detail, field=field)


def http_problem(status: int, detail: str) -> Problem:
    """The problem of a bare HTTP status."""
    phrase = HTTPStatus(status).phrase
    return Problem(type=problem_type(phrase.lower().replace(" ", "_")), title=phrase, status=status, detail=detail)


def problem_type(reason: str) -> str:
    """The URI that names a kind of problem."""
    return f"urn:nowrank:problem:{reason.replace('_', '-')}"


def input_problem(error: BadInput) -> Problem:
    """The problem of input that breaks a rule."""
    return make_problem(error.reason, error.message, error.field)


def problem_response(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    """The response that carries a problem."""
    extra = dict(headers or {})
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        extra.setdefault("Retry-After", str(RETRY_AFTER_S))
    return Response(msgspec.json.encode(problem), problem.status, extra, media_type=PROBLEM_TYPE)
