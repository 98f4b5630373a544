"""Every kind of bad input gets a precise problem, and the scorer goes on."""

from typing import Any

import httpx
import msgspec
import pytest

from serving.bodies import MAX_EVENTS, MAX_RANK_BYTES
from serving.contract import MAX_CANDIDATES
from serving.problems import PROBLEM_TYPE

GOOD = {"user_id": "ann", "task": "pre_query"}
LONG = "x" * 10_240


def without(*fields: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name not in fields}


BAD_RANKINGS: list[tuple[str, Any, int, str, str | None]] = [
    ("no user", without("user_id"), 422, "missing-field", "user_id"),
    ("no task", without("task"), 422, "missing-field", "task"),
    ("empty user", GOOD | {"user_id": ""}, 422, "invalid-field", "user_id"),
    ("user of 10 kB", GOOD | {"user_id": LONG}, 422, "invalid-field", "user_id"),
    ("control character in the user", GOOD | {"user_id": "a\nb"}, 422, "invalid-field", "user_id"),
    ("line feed in a candidate", GOOD | {"items": ["a", "b\n"]}, 422, "invalid-field", "items[1]"),
    ("delete in a pinned title", GOOD | {"pinned": ["\x7f"]}, 422, "invalid-field", "pinned[0]"),
    ("null character in a blocked title", GOOD | {"blocked": ["a", "b", "\x00"]}, 422, "invalid-field", "blocked[2]"),
    ("empty candidate", GOOD | {"items": ["a", ""]}, 422, "invalid-field", "items[1]"),
    ("user is a number", GOOD | {"user_id": 7}, 422, "invalid-field", "user_id"),
    ("user is null", GOOD | {"user_id": None}, 422, "invalid-field", "user_id"),
    ("unknown task", GOOD | {"task": "guess"}, 422, "invalid-field", "task"),
    ("unknown field", GOOD | {"querry": "x"}, 422, "unknown-field", "querry"),
    ("country in small letters", GOOD | {"country": "de"}, 422, "invalid-field", "country"),
    ("country of three letters", GOOD | {"country": "DEU"}, 422, "invalid-field", "country"),
    ("country with a line feed", GOOD | {"country": "DE\n"}, 422, "invalid-field", "country"),
    ("oversized query", {"user_id": "a", "task": "search", "query": "q" * 257}, 422, "invalid-field", "query"),
    ("search without a query", GOOD | {"task": "search"}, 422, "missing-field", "query"),
    ("search with a blank query", {"user_id": "a", "task": "search", "query": " \t"}, 422, "missing-field", "query"),
    (
        "search for control characters",
        {"user_id": "a", "task": "search", "query": "\x00\x01"},
        422,
        "missing-field",
        "query",
    ),
    ("more like nothing", GOOD | {"task": "more_like_this"}, 422, "missing-field", "source_item_id"),
    ("no candidates", GOOD | {"items": []}, 422, "invalid-field", "items"),
    ("an empty candidate", GOOD | {"items": ["t1", ""]}, 422, "invalid-field", "items[1]"),
    ("a candidate of 10 kB", GOOD | {"items": [LONG]}, 422, "invalid-field", "items[0]"),
    ("a candidate that is a number", GOOD | {"items": [1]}, 422, "invalid-field", "items[0]"),
    (
        "too many candidates",
        GOOD | {"items": [f"t{n}" for n in range(MAX_CANDIDATES + 1)]},
        422,
        "invalid-field",
        "items",
    ),
    ("limit 0", GOOD | {"limit": 0}, 422, "invalid-field", "limit"),
    ("limit too large", GOOD | {"limit": MAX_CANDIDATES + 1}, 422, "invalid-field", "limit"),
    ("limit is text", GOOD | {"limit": "ten"}, 422, "invalid-field", "limit"),
    ("too much to explain", GOOD | {"explain": True, "limit": 101}, 422, "invalid-field", "limit"),
    ("explain is a number", GOOD | {"explain": 1}, 422, "invalid-field", "explain"),
    (
        "groups of more like this",
        GOOD | {"task": "more_like_this", "source_item_id": "t1", "groups": True},
        422,
        "invalid-field",
        "groups",
    ),
    ("no time for the store", GOOD | {"deadline_ms": 0}, 422, "invalid-field", "deadline_ms"),
    ("too much time for the store", GOOD | {"deadline_ms": 1_001}, 422, "invalid-field", "deadline_ms"),
    ("groups is text", GOOD | {"groups": "yes"}, 422, "invalid-field", "groups"),
    ("no rows", GOOD | {"groups": True, "rows": 0}, 422, "invalid-field", "rows"),
    ("too many rows", GOOD | {"groups": True, "rows": 21}, 422, "invalid-field", "rows"),
    ("rows without titles", GOOD | {"groups": True, "per_row": 0}, 422, "invalid-field", "per_row"),
    ("rows that are too long", GOOD | {"groups": True, "per_row": 51}, 422, "invalid-field", "per_row"),
    ("an array", [GOOD], 422, "invalid-field", None),
    ("a string", "rank", 422, "invalid-field", None),
    ("null", None, 422, "invalid-field", None),
]
BAD_BODIES: list[tuple[str, bytes, int, str]] = [
    ("empty", b"", 400, "empty"),
    ("white space", b" \n ", 400, "empty"),
    ("not JSON", b"{user_id: ann}", 400, "malformed-json"),
    ("cut off", b'{"user_id": "ann", "task": "pre_q', 400, "malformed-json"),
    ("NaN", b'{"user_id": "ann", "task": "pre_query", "limit": NaN}', 400, "malformed-json"),
    ("Infinity", b'{"user_id": "ann", "task": "pre_query", "limit": Infinity}', 400, "malformed-json"),
    ("not UTF-8", b'{"user_id": "\xff\xfe", "task": "pre_query"}', 400, "malformed-json"),
    ("two documents", b'{"user_id": "a", "task": "pre_query"}{}', 400, "malformed-json"),
]


def problem_of(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == PROBLEM_TYPE, response.text
    problem: dict[str, Any] = response.json()
    assert problem["status"] == response.status_code
    assert problem["title"]
    assert problem["detail"]
    assert "Traceback" not in response.text
    assert 'File "' not in response.text
    return problem


@pytest.mark.parametrize(
    ("body", "status", "kind", "field"), [case[1:] for case in BAD_RANKINGS], ids=[case[0] for case in BAD_RANKINGS]
)
def test_bad_ranking_request_names_the_field_and_the_rule(
    client: httpx.Client, body: Any, status: int, kind: str, field: str | None
) -> None:
    response = client.post("/rank", content=msgspec.json.encode(body))
    problem = problem_of(response)
    assert (response.status_code, problem["type"], problem.get("field")) == (
        status,
        f"urn:nowrank:problem:{kind}",
        field,
    )
    assert client.get("/health/live").status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "kind"), [case[1:] for case in BAD_BODIES], ids=[case[0] for case in BAD_BODIES]
)
@pytest.mark.parametrize("route", ["/rank", "/events", "/items"])
def test_body_that_is_no_json_is_refused_everywhere(
    client: httpx.Client, route: str, body: bytes, status: int, kind: str
) -> None:
    response = client.post(route, content=body)
    assert (response.status_code, problem_of(response)["type"]) == (status, f"urn:nowrank:problem:{kind}")


def test_100_000_candidates_are_refused_with_the_rule(client: httpx.Client) -> None:
    small = client.post("/rank", json=GOOD | {"items": [str(number) for number in range(100_000)]})
    assert small.status_code == 422
    assert str(MAX_CANDIDATES) in problem_of(small)["detail"]
    large = client.post("/rank", json=GOOD | {"items": [f"item-{number:08d}" for number in range(100_000)]})
    assert large.status_code == 413
    assert str(MAX_RANK_BYTES) in problem_of(large)["detail"]


@pytest.mark.parametrize("route", ["/rank", "/events", "/items"])
def test_body_of_50_mb_is_refused_by_its_declared_length(client: httpx.Client, route: str) -> None:
    response = client.post(route, content=b" " * 50_000_000)
    assert (response.status_code, problem_of(response)["type"]) == (413, "urn:nowrank:problem:oversized")
    assert client.get("/health/live").status_code == 200


def test_body_without_a_length_is_refused_once_it_is_too_long(client: httpx.Client) -> None:
    sent = 0

    def chunks():  # type: ignore[no-untyped-def]
        nonlocal sent
        for _ in range(1_000):
            sent += 65_536
            yield b" " * 65_536

    response = client.post("/rank", content=chunks())
    assert (response.status_code, problem_of(response)["type"]) == (413, "urn:nowrank:problem:oversized")
    assert client.get("/health/live").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"user_id": "ann", "task": "pre_query", "limit": 1e999}',
        b'{"user_id": {"a": [[[[]]]]}}',
    ],
)
@pytest.mark.parametrize("route", ["/rank", "/events", "/items"])
def test_depth_and_huge_numbers_are_the_callers_error(client: httpx.Client, route: str, body: bytes) -> None:
    response = client.post(route, content=body)
    problem_of(response)
    assert response.status_code in (400, 422)


def test_unknown_route_and_method_are_problems(client: httpx.Client) -> None:
    missing = client.get("/nowhere")
    assert (missing.status_code, problem_of(missing)["type"]) == (404, "urn:nowrank:problem:not-found")
    wrong = client.get("/rank")
    assert (wrong.status_code, problem_of(wrong)["type"]) == (405, "urn:nowrank:problem:method-not-allowed")
    assert wrong.headers["allow"] == "POST"


@pytest.mark.parametrize("route", ["/rank/", "/admin/reload/", "/health/live/"])
def test_a_slash_at_the_end_leads_nowhere(client: httpx.Client, route: str) -> None:
    missing = client.post(route, json=GOOD, headers={"Host": "elsewhere.example"})
    assert (missing.status_code, problem_of(missing)["type"]) == (404, "urn:nowrank:problem:not-found")


def test_too_many_events_in_one_body_are_refused(client: httpx.Client) -> None:
    response = client.post("/events", content=b"{}\n" * (MAX_EVENTS + 1))
    assert (response.status_code, problem_of(response)["type"]) == (413, "urn:nowrank:problem:oversized")


def test_unicode_is_no_bad_input(client: httpx.Client) -> None:
    for query in ("Ночной поезд", "夜行列車", "🎬🎬", "ﬁlm noir", "e\u0301te\u0301", "\u202etrain"):
        answer = client.post("/rank", json={"user_id": "ann-ß-🎬", "task": "search", "query": query})
        assert answer.status_code == 200, answer.text


def test_detail_never_repeats_an_id_that_was_sent(client: httpx.Client) -> None:
    response = client.post("/rank", json=GOOD | {"user_id": "canary@example.org\n"})
    assert response.status_code == 422
    assert "canary" not in response.text
