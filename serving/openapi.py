"""The OpenAPI 3.1 document, generated from the contract's types.

Enters: the types of `contract.py`, the wire events, the catalogue's item. Leaves: one document, at `/openapi.json` and
behind `/docs`. Called by the API.
"""

from functools import cache
from importlib.metadata import version
from typing import Any

import msgspec

from features.catalogue import Item
from serving.admin import LogLevel
from serving.bodies import MAX_EVENTS, MAX_EVENTS_BYTES, MAX_RANK_BYTES
from serving.contract import Health, Live, Problem, RankAnswer, RankRequest, Taken
from streams.events import Click, Play, Thumb

_TYPES = (RankRequest, RankAnswer, Play, Click, Thumb, Item, Taken, Live, Health, Problem, LogLevel)
# `{}`: a scorer whose settings hold no token takes everybody's requests.
_CALLER: list[dict[str, list[str]]] = [{"caller": []}, {}]
_OPERATOR: list[dict[str, list[str]]] = [{"operator": []}]
_SECURITY_SCHEMES = {
    "caller": {"type": "http", "scheme": "bearer", "description": "one of `NOWRANK_API_TOKEN`, where it is set"},
    "operator": {"type": "http", "scheme": "bearer", "description": "`NOWRANK_ADMIN_TOKEN`"},
}
_EXAMPLES: dict[str, Any] = {
    "rank": {"user_id": "u1", "task": "search", "query": "star w", "country": "DE", "limit": 10},
    "events": {
        "type": "play", "event_id": "01890a5d-ac96-774b-bcce-b302099a8057", "user_id": "u1", "item_id": "50",
        "event_ts_ms": 1764000000000, "watched_ms": 5400000, "duration_ms": 7260000,
    },
    "items": {"item_id": "50", "title": "Star Wars (1977)", "genres": ["Action", "Sci-Fi"], "year": 1977},
}  # fmt: skip


@cache
def openapi_document() -> dict[str, Any]:
    """The document as plain data."""
    _, components = msgspec.json.schema_components(_TYPES, ref_template="#/components/schemas/{name}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Nowrank scorer",
            "version": version("nowrank"),
            "summary": "Puts titles in order for a member, at this moment.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": "ranking"}, {"name": "input"}, {"name": "operation"}],
        "paths": {
            "/rank": {"post": _rank()},
            "/events": {"post": _intake("events", "Publish events, for producers without Kafka", [Play, Click, Thumb])},
            "/items": {"post": _intake("items", "Put titles into the catalogue", [Item])},
            "/health/live": {"get": _get("live", "Does the process answer?", {"200": _json("It does", Live)})},
            "/health/ready": {
                "get": _get("ready", "Is it warm?", {"200": _json("It is", Health), "503": _json("Not yet", Health)})
            },
            "/metrics": {
                "get": _get("metrics", "Prometheus metrics", {"200": _text("Prometheus' text format", "text/plain")})
            },
            "/openapi.json": {
                "get": _get("openapi", "This document", {"200": _text("OpenAPI 3.1", "application/json")})
            },
            "/docs": {"get": _get("docs", "This document for people", {"200": _text("A page", "text/html")})},
            "/admin/log-level": {"post": _log_level()},
            "/admin/reload": {"post": _reload()},
        },
        "components": {"schemas": components, "securitySchemes": _SECURITY_SCHEMES},
    }


def _rank() -> dict[str, Any]:
    return {
        "operationId": "rank",
        "tags": ["ranking"],
        "summary": "Put titles in order",
        "description": (
            "Ranks the given `items`, or finds candidates itself. Always answers: without the store or the model "
            "the answer is poorer and `status` says so. Unknown titles are scored with default features. A body has at "
            f"most {MAX_RANK_BYTES} bytes. `search` needs a `query` that is not blank, `more_like_this` a "
            "`source_item_id` and no `groups`; no title can be both pinned and blocked: else 422. Whole numbers are "
            "written without a decimal point."
        ),
        "requestBody": _body({"application/json": {"schema": _ref(RankRequest), "example": _EXAMPLES["rank"]}}),
        "responses": {
            "200": _json("Titles, the best first", RankAnswer),
            **_problems(400, 401, 408, 413, 422, 429, 500, 503),
        },
        "security": _CALLER,
    }


def _intake(name: str, summary: str, types: list[type]) -> dict[str, Any]:
    one = (
        _ref(types[0])
        if len(types) == 1
        else {"oneOf": [_ref(kind) for kind in types], "discriminator": {"propertyName": "type"}}
    )
    schema = {"oneOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_EVENTS}]}
    return {
        "operationId": f"post_{name}",
        "tags": ["input"],
        "summary": summary,
        "description": (
            "One, an array, or one per line (NDJSON; a broken line spoils only itself). Answers when Kafka has "
            "acknowledged what was accepted; what was rejected is named with its place and its reason; when nothing is "
            "accepted the answer is 422. Whole numbers are written without a decimal point, and no time is more than "
            f"`NOWRANK_FUTURE_LIMIT_S` ahead. At most {MAX_EVENTS} and {MAX_EVENTS_BYTES} bytes."
        ),
        "requestBody": _body(
            {
                "application/json": {"schema": schema, "example": _EXAMPLES[name]},
                "application/x-ndjson": {"schema": {"type": "string"}},
            }
        ),
        "responses": {
            "200": _json("What was accepted and what was not", Taken),
            **_problems(400, 401, 408, 413, 422, 429, 500, 503),
        },
        "security": _CALLER,
    }


def _log_level() -> dict[str, Any]:
    return {
        "operationId": "log_level",
        "tags": ["operation"],
        "summary": "Change how much the scorer logs, until it ends",
        "requestBody": _body({"application/json": {"schema": _ref(LogLevel), "example": {"level": "DEBUG"}}}),
        "responses": {"200": _json("What is in force", LogLevel), **_problems(400, 401, 403, 404, 408, 413, 422)},
        "security": _OPERATOR,
    }


def _reload() -> dict[str, Any]:
    return {
        "operationId": "reload",
        "tags": ["operation"],
        "summary": "Look for a new model now",
        "responses": {"200": _json("What answers from now on", Health), **_problems(401, 403, 404)},
        "security": _OPERATOR,
    }


def _get(name: str, summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {"operationId": name, "tags": ["operation"], "summary": summary, "responses": responses}


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": content}


def _json(description: str, kind: type) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _ref(kind)}}}


def _text(description: str, media_type: str) -> dict[str, Any]:
    return {"description": description, "content": {media_type: {}}}


def _problems(*codes: int) -> dict[str, Any]:
    descriptions = {
        400: "Not JSON, or empty",
        401: "The token is missing or wrong",
        403: "The token is not the operator's",
        404: "The operator's routes are off",
        408: "The body did not come in time",
        413: "Too large",
        422: "A field is missing or breaks its rule",
        429: "More requests than this caller may send; try again after `Retry-After`",
        500: "The scorer failed",
        503: "The scorer is overloaded, or the broker does not answer; try again after `Retry-After`",
    }
    content = {"application/problem+json": {"schema": _ref(Problem)}}
    return {str(code): {"description": descriptions[code], "content": content} | _headers(code) for code in codes}


def _headers(code: int) -> dict[str, Any]:
    """The headers that come with a problem, beside those that every answer has."""
    header: tuple[str, str, dict[str, Any]]
    if code == 401:
        header = "WWW-Authenticate", "how to ask: `Bearer`", {"type": "string"}
    elif code in (429, 503):
        header = "Retry-After", "seconds until it is worth asking again", {"type": "integer", "minimum": 1}
    else:
        return {}
    name, description, schema = header
    return {"headers": {name: {"description": description, "required": True, "schema": schema}}}


def _ref(kind: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}
