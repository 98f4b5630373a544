"""The protocol of the scorer's clients: what is sent for each call, and what is read from the answer.

Enters: the fields of a `RankRequest`, wire events, HTTP responses. Leaves: `Call`s; `RankAnswer`, `Taken`, `Health`, or
`InvalidRequest`, `ScorerUnavailable`. Called by both clients of `client.py`, which only send. Pure but for the ids that
it makes.
"""

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import httpx
import msgspec

from features.user import SEEN_CAPACITY
from infra.errors import InvalidRequest, ScorerUnavailable
from serving.contract import Health, Problem, RankAnswer, RankRequest, Taken
from streams.events import Event, TaskName, encode_event

JSON_TYPE = "application/json"
NDJSON_TYPE = "application/x-ndjson"
# Beside its own errors msgspec raises these: for lone surrogates, bytes that are no UTF-8, objects of no JSON, depth.
UNWRITABLE = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
TRY_AGAIN = (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call: what to send, how to read the answer, if it may be sent again; `first` of its batch went before."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    is_repeatable: bool = False
    first: int = 0


def rank_call(
    user_id: str, task: TaskName, items: Sequence[str] | None, limit: int, more: dict[str, Any]
) -> Call[RankAnswer]:
    """A question; raises `InvalidRequest` for a field that `RankRequest` does not have, or that JSON cannot hold.

    A ranking without an id gets one here, so that a repeated question is the same ranking: its impressions count once.
    """
    try:
        request = RankRequest(
            user_id=user_id, task=task, items=None if items is None else list(items), limit=limit, **more
        )
    except TypeError as error:
        raise InvalidRequest(
            "unknown_field", f"{error}; known are {', '.join(RankRequest.__struct_fields__)}"
        ) from error
    if request.id is None:
        request = msgspec.structs.replace(request, id=str(uuid.uuid4()))
    body = _written(msgspec.json.encode, request, "the request")
    return Call("POST", "/rank", _read_answer, body, {"Content-Type": JSON_TYPE}, True)


def events_calls(events: Iterable[Event]) -> list[Call[Taken]]:
    """The events as lines: calls to be made one after the other, none when there are no events.

    Each may be repeated, because none holds more events of one user and type than a user's row remembers the ids of.
    Raises `InvalidRequest` for an event that JSON cannot hold.
    """
    calls: list[Call[Taken]] = []
    lines: list[bytes] = []
    counts: Counter[tuple[str, str]] = Counter()
    first = 0
    for index, event in enumerate(events):
        line = _written(encode_event, event, f"event {index}")
        log = type(event).__name__, str(getattr(event, "user_id", None))
        if counts[log] == SEEN_CAPACITY:
            calls.append(_events_call(lines, first))
            lines, first = [], index
            counts.clear()
        counts[log] += 1
        lines.append(line)
    return [*calls, _events_call(lines, first)] if lines else calls


def _events_call(lines: list[bytes], first: int) -> Call[Taken]:
    """Events of which the first is number `first` (from 0) of its batch."""
    read = partial(_read_taken, first=first)
    return Call("POST", "/events", read, b"\n".join(lines), {"Content-Type": NDJSON_TYPE}, True, first)


def health_call() -> Call[Health]:
    """The question whether the scorer is ready; "not yet" is an answer too, so it is not repeated."""
    return Call("GET", "/health/ready", _read_health)


def _written(encode: Callable[[T], bytes], value: T, name: str) -> bytes:
    try:
        return encode(value)
    except UNWRITABLE as error:
        raise InvalidRequest("invalid_field", f"{name} cannot be written as JSON: {error}") from error


def _read_answer(response: httpx.Response) -> RankAnswer:
    if response.status_code != httpx.codes.OK:
        raise _refusal(response)
    return _decode(response, RankAnswer)


def _read_taken(response: httpx.Response, first: int) -> Taken:
    if response.status_code == httpx.codes.OK:
        taken = _decode(response, Taken)
    else:
        rejected = _problem(response).rejected
        if rejected is None or not response.is_client_error:
            raise _refusal(response)
        taken = Taken(accepted=0, rejected=rejected)
    placed = [msgspec.structs.replace(one, index=first + one.index) for one in taken.rejected]
    return Taken(accepted=taken.accepted, rejected=placed)


def _read_health(response: httpx.Response) -> Health:
    return _decode(response, Health)


def _decode(response: httpx.Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(response.content, type=kind)
    except UNREADABLE as error:
        raise ScorerUnavailable(
            f"what answers at {response.url} is no scorer of this version: HTTP {response.status_code}, {error}"
        ) from error


def _refusal(response: httpx.Response) -> InvalidRequest | ScorerUnavailable:
    """What an answer other than 200 means: the caller's mistake, or a scorer that cannot (408, 429 and 5xx)."""
    problem = _problem(response)
    if response.is_client_error and response.status_code not in TRY_AGAIN:
        return InvalidRequest(problem.type.rpartition(":")[2].replace("-", "_"), problem.detail, problem.field)
    return ScorerUnavailable(f"the scorer at {_origin(response)} answered {response.status_code}: {problem.detail}")


def _origin(response: httpx.Response) -> str:
    return f"{response.url.scheme}://{response.url.netloc.decode()}"


def _problem(response: httpx.Response) -> Problem:
    try:
        return msgspec.json.decode(response.content, type=Problem)
    except UNREADABLE:
        return Problem(
            type="",
            title="",
            status=response.status_code,
            detail=f"HTTP {response.status_code}, not a problem document",
        )
