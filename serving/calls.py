"""The protocol of the scorer's clients: what is sent for each call, and what is read from the answer.

Enters: the fields of a `RankRequest`, wire events, HTTP responses. Leaves: `Call`s; `RankAnswer`, `Taken`, `Health`, or
`InvalidRequest`, `ScorerUnavailable`. Called by both clients of `client.py`, which only send. Pure but for the ids that
it makes.
"""

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx
import msgspec

from infra.errors import InvalidRequest, ScorerUnavailable
from serving.contract import Health, Problem, RankAnswer, RankRequest, Taken
from streams.events import Event, TaskName, encode_event

JSON_TYPE = "application/json"
NDJSON_TYPE = "application/x-ndjson"
TRY_AGAIN = (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call: what to send, how to read the answer, and whether it may be sent again."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    is_repeatable: bool = False


def rank_call(
    user_id: str, task: TaskName, items: Sequence[str] | None, limit: int, more: dict[str, Any]
) -> Call[RankAnswer]:
    """A question; raises `InvalidRequest` for a field that `RankRequest` does not have.

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
    return Call("POST", "/rank", _read_answer, msgspec.json.encode(request), {"Content-Type": JSON_TYPE}, True)


def events_call(events: Iterable[Event]) -> Call[Taken] | None:
    """The events as lines, None when there are none. It may be repeated: an event id counts once."""
    body = b"\n".join(encode_event(event) for event in events)
    return Call("POST", "/events", _read_taken, body, {"Content-Type": NDJSON_TYPE}, True) if body else None


def health_call() -> Call[Health]:
    """The question whether the scorer is ready; "not yet" is an answer too, so it is not repeated."""
    return Call("GET", "/health/ready", _read_health)


def _read_answer(response: httpx.Response) -> RankAnswer:
    if response.status_code != httpx.codes.OK:
        raise _refusal(response)
    return _decode(response, RankAnswer)


def _read_taken(response: httpx.Response) -> Taken:
    if response.status_code == httpx.codes.OK:
        return _decode(response, Taken)
    rejected = _problem(response).rejected
    if rejected is not None and response.is_client_error:
        return Taken(accepted=0, rejected=rejected)
    raise _refusal(response)


def _read_health(response: httpx.Response) -> Health:
    return _decode(response, Health)


def _decode(response: httpx.Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(response.content, type=kind)
    except msgspec.MsgspecError as error:
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
    except msgspec.MsgspecError:
        return Problem(
            type="",
            title="",
            status=response.status_code,
            detail=f"HTTP {response.status_code}, not a problem document",
        )
