"""The rows of one request: user, query, source and country in one round trip, and then the source rows of what the user
row says of the open session in a second one; both within one deadline.

Enters: who asks for what, and a deadline. Leaves: `RowsRead`: states, the offsets that they contain, and what could
not be read; never an exception. Called by `rank.py` in the event loop.
"""

import logging
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import msgspec

from features.online_store import refuse_other_type
from features.rows import CONTAINED_FIELD, COUNTRY, QUERY, SOURCE_ITEM, USER, RowFamily, encode_value
from features.spec import DType
from features.top_targets import TopTargetsState
from features.user import UserState
from features.vector import session_sources
from infra.clock import monotonic_s
from infra.errors import RowInvalid, StoreTimeout, StoreUnavailable
from infra.redaction import hash_id
from serving.breaker import Breaker
from serving.redis_link import Command, RedisLink
from streams.events import OF_SESSION

MAX_REMEMBERED = 2_000
_NO_MOMENTS = encode_value(DType.BYTES, msgspec.msgpack.encode({}))

# Which rows are to be read, by name.
Wanted = dict[str, tuple[RowFamily, str]]
StoreState = Literal["ok", "missing", "timeout"]

log = logging.getLogger(__name__)


class RowKeys(NamedTuple):
    """Which rows a request needs; None: there is no such row."""

    user_id: str
    query: str | None
    source_item_id: str | None
    country: str | None


@dataclass(frozen=True, slots=True)
class RowsRead:
    """What was read, by the row's name: its entity, or `source_item:TITLE` for the session's titles, of which the
    request's source may be one. `targets` are the
    top lists; `contained` are the offsets in each row that was looked for: none in a row that does not exist. `invalid`
    says why a row cannot be decoded: such a row counts as missing.
    """

    user: UserState = field(default_factory=UserState)
    user_status: Literal["fresh", "stale", "remembered", "default"] = "default"
    user_as_of_ms: int = 0
    targets: dict[str, TopTargetsState] = field(default_factory=dict)
    stale: frozenset[str] = frozenset()
    invalid: dict[str, str] = field(default_factory=dict)
    contained: dict[str, dict[str, int]] = field(default_factory=dict)
    store: StoreState = "ok"

    def source_rows(self, source_item_id: str | None) -> dict[str, TopTargetsState]:
        """The source rows by title: those of the session's titles and that of the request's source."""
        rows = {name.removeprefix(OF_SESSION): row for name, row in self.targets.items() if name.startswith(OF_SESSION)}
        own = self.targets.get(SOURCE_ITEM.name)
        return rows if own is None or source_item_id is None else {**rows, source_item_id: own}


class StoreReader:
    """Reads rows; remembers the long-term part of the members seen last, for when the store does not answer."""

    def __init__(self, connection_string: str, project: str, breaker: Breaker | None = None) -> None:
        self._link = RedisLink(connection_string) if connection_string else None
        self._project = project
        self._breaker = Breaker() if breaker is None else breaker
        self._remembered: OrderedDict[str, bytes] = OrderedDict()
        self._reported: set[tuple[str, str, str]] = set()

    async def read(self, keys: RowKeys, now_ms: int, timeout_s: float, *, is_hurried: bool = False) -> RowsRead:
        """The rows of `keys`; a row that is older than its view's time to live counts as missing.

        `is_hurried`: the caller gives the store less time than it is meant to have.
        """
        if self._link is None:
            return self._remembered_rows(keys.user_id, "missing", now_ms)
        began_s = monotonic_s()
        wanted = _wanted(keys)
        try:
            replies = await self._fetch(self._link, wanted, timeout_s, is_hurried=is_hurried)
        except StoreUnavailable as error:
            return self._remembered_rows(keys.user_id, _named(error), now_ms)
        rows = _to_rows(_decoded(wanted, replies, now_ms))
        self._report(wanted, rows.invalid)
        self._remember(keys.user_id, replies[0][1] if rows.user_status == "fresh" else None)
        titles = session_sources(rows.user, now_ms)
        if keys.source_item_id in titles:
            rows = _with_own(rows, f"{OF_SESSION}{keys.source_item_id}")
        of_session: Wanted = {
            name: (SOURCE_ITEM, title) for title in titles if (name := f"{OF_SESSION}{title}") not in rows.contained
        }
        if not of_session:
            return rows
        try:
            # How much time is left for it is not the store's doing.
            left_s = timeout_s - (monotonic_s() - began_s)
            replies = await self._fetch(self._link, of_session, left_s, is_hurried=True)
        except StoreUnavailable as error:
            return replace(rows, store=_named(error))
        rows = _with_session(rows, _decoded(of_session, replies, now_ms))
        self._report(of_session, rows.invalid)
        return rows

    async def _fetch(self, link: RedisLink, wanted: Wanted, timeout_s: float, *, is_hurried: bool) -> list[Any]:
        commands: list[Command] = [
            ("HMGET", family.key(value, self._project), *family.packed_fields, CONTAINED_FIELD)
            for family, value in wanted.values()
        ]
        with self._breaker.call(is_hurried=is_hurried):
            return await link.execute(commands, timeout_s)

    async def close(self) -> None:
        """Let go of the connection."""
        if self._link is not None:
            await self._link.close()

    def _report(self, wanted: Wanted, invalid: dict[str, str]) -> None:
        """Say once of each row what is wrong with it: a row of a country is met by every other request."""
        for name, (family, value) in wanted.items() if invalid else ():
            if (why := invalid.get(name)) is None or (family.name, value, why) in self._reported:
                continue
            if len(self._reported) >= MAX_REMEMBERED:
                self._reported.clear()
            self._reported.add((family.name, value, why))
            log.warning("the row of %s %s counts as missing: %s", family.name, hash_id(value), why)

    def _remember(self, user_id: str, history: bytes | None) -> None:
        """The member's history from now on; None: there is none that may be used."""
        self._remembered.pop(user_id, None)
        if history is None:
            return
        self._remembered[user_id] = history
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)

    def _remembered_rows(self, user_id: str, store: StoreState, now_ms: int) -> RowsRead:
        """The history of a member seen lately, without the session, which may have moved on; stale beyond its limit."""
        history = self._remembered.get(user_id)
        if history is None:
            return RowsRead(store=store)
        user = USER.decode([_NO_MOMENTS, history])
        newest_ms = max(
            (title.as_of_ms for memory in user.logs.values() for title in memory.titles.values()), default=0
        )
        if USER.is_stale(newest_ms, now_ms):
            return RowsRead(user_status="stale", user_as_of_ms=newest_ms, store=store)
        return RowsRead(user=user, user_status="remembered", user_as_of_ms=newest_ms, store=store)


def _wanted(keys: RowKeys) -> Wanted:
    targets = ((QUERY, keys.query), (SOURCE_ITEM, keys.source_item_id), (COUNTRY, keys.country))
    return {USER.name: (USER, keys.user_id), **{family.name: (family, value) for family, value in targets if value}}


class _Decoded(NamedTuple):
    """Rows by name: their states, the offsets in them, the newest event times of those that are stale, and why the
    others cannot be decoded.
    """

    states: dict[str, Any]
    contained: dict[str, dict[str, int]]
    stale_as_of_ms: dict[str, int]
    invalid: dict[str, str]


def _decoded(wanted: Wanted, replies: list[Any], now_ms: int) -> _Decoded:
    # {}: there is no row, which is not the same as not read
    found = _Decoded({}, {name: {} for name in wanted}, {}, {})
    for (name, (family, _)), reply in zip(wanted.items(), replies, strict=True):
        try:
            state, offsets = _decode(family, reply)
        except RowInvalid as error:
            found.invalid[name] = str(error)
            continue
        if state is None:
            continue
        found.contained[name] = offsets
        if family.is_stale(state.as_of_ms, now_ms):
            found.stale_as_of_ms[name] = state.as_of_ms
        else:
            found.states[name] = state
    return found


def _to_rows(found: _Decoded) -> RowsRead:
    user = found.states.pop(USER.name, None)
    missing: Literal["stale", "default"] = "stale" if USER.name in found.stale_as_of_ms else "default"
    return RowsRead(
        user=UserState() if user is None else user,
        user_status=missing if user is None else "fresh",
        user_as_of_ms=found.stale_as_of_ms.get(USER.name, 0) if user is None else user.as_of_ms,
        targets=found.states,
        stale=frozenset(found.stale_as_of_ms),
        invalid=found.invalid,
        contained=found.contained,
    )


def _with_own(rows: RowsRead, name: str) -> RowsRead:
    """The row of the request's source also by its name as one of the session's titles."""
    own = SOURCE_ITEM.name
    return replace(
        rows,
        targets=rows.targets | {name: rows.targets[own]} if own in rows.targets else rows.targets,
        stale=rows.stale | {name} if own in rows.stale else rows.stale,
        contained=rows.contained | {name: rows.contained[own]},
    )


def _with_session(rows: RowsRead, found: _Decoded) -> RowsRead:
    return replace(
        rows,
        targets=rows.targets | found.states,
        stale=rows.stale | found.stale_as_of_ms.keys(),
        invalid=rows.invalid | found.invalid,
        contained=rows.contained | found.contained,
    )


def _decode(family: RowFamily, reply: Any) -> tuple[Any, dict[str, int]]:
    """The state, None where there is no row, and the offsets that it contains; raises `RowInvalid`."""
    refuse_other_type(reply)
    *packed, offsets = reply
    return (None, {}) if offsets is None else family.decode_row(packed, offsets)


def _named(error: StoreUnavailable) -> StoreState:
    return "timeout" if isinstance(error, StoreTimeout) else "missing"
