"""The scorer's contract: what callers send and what they get, as types with their rules.

Enters: JSON bodies. Leaves: `RankRequest`, or `InvalidRequest` with the field and the rule; `RankAnswer` and the other
answers. Read by the API, the client and `openapi.py`, which turns these types into the published document.
"""

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from features.bounds import ID_PATTERN, MAX_ID_CHARS, Country, Id
from features.text import MAX_QUERY_CHARS, normalise_query
from infra.errors import InvalidRequest
from serving.experiments import DEFAULT
from streams.events import Query, TaskName

MAX_CANDIDATES = 2_000
MAX_EXPLAINED = 100
MAX_PINNED = 50
MAX_DEADLINE_MS = 1_000
DEFAULT_LIMIT = 20
MAX_ROWS, DEFAULT_ROWS = 20, 6
MAX_PER_ROW, DEFAULT_PER_ROW = 50, 10
MAX_DETAIL_CHARS = 400

# An `Id` in a long list: msgspec would try the pattern on one id after the other, for longer than it takes to read the
# whole body, so `_check_ids` looks at all of them at once.
ListedId = Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS, extra_json_schema={"pattern": ID_PATTERN})]
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")


class RankRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One question: which titles, in which order, for this member at this moment."""

    user_id: Annotated[Id, Meta(description="whom to rank for; an unknown one gets an answer that is not personal")]
    task: Annotated[TaskName, Meta(description="`search` needs `query`, `more_like_this` needs `source_item_id`")]
    id: (
        Annotated[
            Id, Meta(description="your own id for this ranking, returned as `ranking_id`; one is made when missing")
        ]
        | None
    ) = None
    session_id: Id | None = None
    query: (
        Annotated[
            Query, Meta(description=f"what was typed so far, at most {MAX_QUERY_CHARS} characters; it is normalised")
        ]
        | None
    ) = None
    source_item_id: Annotated[Id, Meta(description="the title that the member is looking at")] | None = None
    country: Annotated[Country, Meta(description="ISO 3166-1 alpha-2, in capitals")] | None = None
    items: (
        Annotated[
            list[ListedId],
            Meta(
                min_length=1,
                max_length=MAX_CANDIDATES,
                description="the titles to put in order; of a repeated one the first counts; "
                "without it the scorer finds candidates itself",
            ),
        ]
        | None
    ) = None
    limit: Annotated[int, Meta(ge=1, le=MAX_CANDIDATES, description="how many titles to return")] = DEFAULT_LIMIT
    explain: Annotated[bool, Meta(description=f"say why, title by title; `limit` is then at most {MAX_EXPLAINED}")] = (
        False
    )
    include_seen: (
        Annotated[
            bool,
            Meta(
                description="whether titles that were played or got a thumb may be found; "
                "false unless the task is `search`; given `items` always stay"
            ),
        ]
        | None
    ) = None
    pinned: Annotated[
        list[ListedId],
        Meta(
            max_length=MAX_PINNED,
            description="titles that stand first, in this order, whatever their scores; "
            "with `groups` also at the head of the first row",
        ),
    ] = []
    blocked: Annotated[
        list[ListedId], Meta(max_length=MAX_CANDIDATES, description="titles that must not be in the answer")
    ] = []
    groups: Annotated[
        bool, Meta(description="organise the answer in labelled rows too; for `search` and `pre_query`")
    ] = False
    rows: Annotated[int, Meta(ge=1, le=MAX_ROWS, description="with `groups`: how many rows at most")] = DEFAULT_ROWS
    per_row: Annotated[
        int, Meta(ge=1, le=MAX_PER_ROW, description="with `groups`: how many titles in a row at most")
    ] = DEFAULT_PER_ROW
    deadline_ms: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=MAX_DEADLINE_MS,
                description="the longest wait for the online store, where it is less than the scorer's own; "
                "the answer then goes without what did not come, and `status` says so",
            ),
        ]
        | None
    ) = None
    log: Annotated[
        bool, Meta(description="false: nobody will see this answer, so that it must not count as impressions")
    ] = True


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What made the score: `context + long_term + short_term` is `score`.

    `long_term` is the score less the score without the member's history, `short_term` the score less the score without
    the session, `context` the rest: title, query, source, country, and what history and session say alike. `gate` is
    the session's share of the blend.
    """

    context: float
    long_term: float
    short_term: float
    gate: float | None = None


FeatureStatus = Literal["fresh", "stale", "default"]


class FeatureValue(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One input of the model. `default`: there was no row to take it from; `stale`: the row is older than its limit, or
    of a member who is remembered from an earlier request.
    """

    value: float
    part: Literal["context", "long", "short"]
    status: FeatureStatus
    age_ms: int | None = None


class RankedItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One returned position. Rank by `score` (log-odds).

    `probability` is the calibrated chance of an engagement, absent without a model.
    """

    item_id: str
    score: float
    title: str | None = None
    probability: float | None = None
    team: (
        Annotated[str, Meta(description="in an interleaved answer: the variant whose pick it is, and whose score")]
        | None
    ) = None
    parts: Parts | None = None
    features: dict[str, FeatureValue] | None = None


GroupKind = Literal["match", "related", "because", "country", "trending", "genre", "decade"]


class GroupedItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One place in a row."""

    item_id: str
    score: float
    title: str | None = None


class Group(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One labelled row. `kind` says what its titles have in common, `reason_item_id` the title that it comes of."""

    kind: GroupKind
    label: str
    items: list[GroupedItem]
    reason_item_id: str | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What the answer could use.

    `level`: `full`, also when the store stopped answering once the member's own rows were read; `long_term_only` when
    the store did not answer and the member's history was remembered from an earlier request; `popularity` when nothing
    about the member was used or there is no model. `user`: `default` means that there is no row of this member.
    """

    level: Literal["full", "long_term_only", "popularity"]
    store: Literal["ok", "missing", "timeout"]
    model: Literal["ok", "missing"]
    user: Literal["fresh", "stale", "remembered", "default"]


class RankAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Titles, the best first. Send `ranking_id` and the position (counted from 1) with the events that come of it.

    `variant` is the model variant that answered, left out when it is `default`; `a+b` where two were interleaved, and
    then each title's `team` is one of them, and scores of different teams cannot be compared.

    `groups` is there when it was asked for: no title twice, the rows in the order in which to show them. The positions
    are then those of reading, row by row, and these titles are the impressions. No row at all: show `items`.
    """

    ranking_id: str
    model: str
    took_ms: float
    items: list[RankedItem]
    status: Status
    candidates: int
    variant: str = DEFAULT
    groups: list[Group] | None = None


class Rejected(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event or title that was not taken: its place in the body (from 0), a reason code, the rule."""

    index: int
    reason: str
    message: str
    field: str | None = None


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """How many events or titles the broker has acknowledged, and which were rejected."""

    accepted: int
    rejected: list[Rejected]


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """The process answers; whether it can rank, and with what, is for `Health`."""

    status: Literal["live"] = "live"


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the scorer can answer, and with what."""

    status: Literal["warming_up", "ready"]
    model: str = ""
    items: int = 0
    item_rows: int = 0
    store: Literal["ok", "missing"] = "missing"


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error in the form of RFC 9457. `field` names the place in the body, where there is one."""

    type: str
    title: str
    status: int
    detail: str
    field: str | None = None
    accepted: int | None = None
    rejected: list[Rejected] | None = None


T = TypeVar("T")
_RANK_REQUEST = msgspec.json.Decoder(RankRequest)
_ANYTHING: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


def decode_rank_request(body: bytes) -> RankRequest:
    """The request in a body; raises what `decode_body` raises."""
    request = decode_body(_RANK_REQUEST, body)
    _check_ids(request)
    _check_together(request)
    return request


def decode_json(body: bytes) -> Any:
    """Any JSON; raises `InvalidRequest` (`malformed_json`)."""
    return decode_body(_ANYTHING, body)


def decode_body(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """What a body holds.

    Raises `InvalidRequest` (`malformed_json`, `missing_field`, `unknown_field`, `invalid_field`).
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid_request(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest("malformed_json", f"the body is not JSON: {error}") from error


def _invalid_request(error: msgspec.ValidationError) -> InvalidRequest:
    """The error with its field taken out of msgspec's text: ``rule - at `$.field` ``."""
    rule, _, place = str(error)[:MAX_DETAIL_CHARS].partition(" - at `$")
    field = place.rstrip("`").lstrip(".") or None
    if rule.startswith("Object missing required field"):
        return InvalidRequest("missing_field", rule, rule.split("`")[1])
    if rule.startswith("Object contains unknown field"):
        return InvalidRequest("unknown_field", rule, rule.split("`")[1])
    return InvalidRequest("invalid_field", rule, field)


def _check_ids(request: RankRequest) -> None:
    """What the type `ListedId` leaves open."""
    for field in ("items", "pinned", "blocked"):
        ids: list[str] = getattr(request, field) or []
        if _CONTROL_CHARACTER.search("".join(ids)):
            place = next(place for place, item_id in enumerate(ids) if _CONTROL_CHARACTER.search(item_id))
            raise InvalidRequest("invalid_field", f"Expected `str` matching regex {ID_PATTERN!r}", f"{field}[{place}]")


def _check_together(request: RankRequest) -> None:
    """The rules that look at more than one field."""
    if request.task == "search" and not normalise_query(request.query or ""):
        raise InvalidRequest("missing_field", "the task `search` needs a `query` that is not blank", "query")
    if request.task == "more_like_this" and request.source_item_id is None:
        raise InvalidRequest("missing_field", "the task `more_like_this` needs a `source_item_id`", "source_item_id")
    if both := sorted(set(request.pinned) & set(request.blocked)):
        raise InvalidRequest("invalid_field", f"{both[0]!r} cannot be both pinned and blocked", "blocked")
    if request.groups and request.task == "more_like_this":
        raise InvalidRequest(
            "invalid_field", "the task `more_like_this` has no `groups`; `search` and `pre_query` have", "groups"
        )
    if request.explain and request.limit > MAX_EXPLAINED:
        raise InvalidRequest(
            "invalid_field", f"`limit` is {request.limit}; with `explain` it is at most {MAX_EXPLAINED}", "limit"
        )
