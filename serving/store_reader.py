"""The rows of one request: user, query, source and country, in one round trip with a deadline.

Enters: who asks for what, and a deadline. Leaves: `RowsRead`: states, the offsets that they contain, and what could
not be read; never an exception. Called by `rank.py` in the event loop.
"""

import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import msgspec

from features.rows import CONTAINED_FIELD, COUNTRY, QUERY, SOURCE_ITEM, USER, RowFamily, decode_contained, encode_value
from features.spec import DType
from features.top_targets import TopTargetsState
from features.user import UserState
from infra.errors import RowInvalid, StoreTimeout, StoreUnavailable
from infra.redaction import hash_id
from serving.breaker import Breaker
from serving.redis_link import Command, RedisLink

MAX_REMEMBERED = 2_000
_NO_MOMENTS = encode_value(DType.BYTES, msgspec.msgpack.encode({}))

log = logging.getLogger(__name__)


class RowKeys(NamedTuple):
    """Which rows a request needs; None: there is no such row."""

    user_id: str
    query: str | None
    source_item_id: str | None
    country: str | None


@dataclass(frozen=True, slots=True)
class RowsRead:
    """What was read. `targets` are the top lists by entity; `contained` are the offsets in each row that was looked
    for, by entity: none in a row that does not exist. `invalid` says by entity why its row cannot be decoded: such a
    row counts as missing.
    """

    user: UserState = field(default_factory=UserState)
    user_status: Literal["fresh", "stale", "remembered", "default"] = "default"
    user_as_of_ms: int = 0
    targets: dict[str, TopTargetsState] = field(default_factory=dict)
    stale: frozenset[str] = frozenset()
    invalid: dict[str, str] = field(default_factory=dict)
    contained: dict[str, dict[str, int]] = field(default_factory=dict)
    store: Literal["ok", "missing", "timeout"] = "ok"


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
        wanted = _wanted(keys)
        commands: list[Command] = [
            ("HMGET", family.key(value, self._project), *family.packed_fields, CONTAINED_FIELD)
            for family, value in wanted
        ]
        if self._link is None:
            return self._remembered_rows(keys.user_id, "missing", now_ms)
        try:
            with self._breaker.call(is_hurried=is_hurried):
                replies = await self._link.execute(commands, timeout_s)
        except StoreTimeout:
            return self._remembered_rows(keys.user_id, "timeout", now_ms)
        except StoreUnavailable:
            return self._remembered_rows(keys.user_id, "missing", now_ms)
        rows = _to_rows(wanted, replies, now_ms)
        self._report(wanted, rows.invalid)
        self._remember(keys.user_id, replies[0][1] if rows.user_status == "fresh" else None)
        return rows

    async def close(self) -> None:
        """Let go of the connection."""
        if self._link is not None:
            await self._link.close()

    def _report(self, wanted: list[tuple[RowFamily, str]], invalid: dict[str, str]) -> None:
        """Say once of each row what is wrong with it: a row of a country is met by every other request."""
        for family, value in wanted if invalid else ():
            if (why := invalid.get(family.name)) is None or (family.name, value, why) in self._reported:
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

    def _remembered_rows(self, user_id: str, store: Literal["missing", "timeout"], now_ms: int) -> RowsRead:
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


def _wanted(keys: RowKeys) -> list[tuple[RowFamily, str]]:
    targets = ((QUERY, keys.query), (SOURCE_ITEM, keys.source_item_id), (COUNTRY, keys.country))
    return [(USER, keys.user_id), *((family, value) for family, value in targets if value)]


def _to_rows(wanted: list[tuple[RowFamily, str]], replies: list[Any], now_ms: int) -> RowsRead:
    stale: set[str] = set()
    invalid: dict[str, str] = {}
    # {}: there is no row, which is not the same as not read
    contained: dict[str, dict[str, int]] = {family.name: {} for family, _ in wanted}
    states: dict[str, Any] = {}
    user_as_of_ms = 0
    for (family, _), reply in zip(wanted, replies, strict=True):
        try:
            state, offsets = _decode(family, reply)
        except RowInvalid as error:
            invalid[family.name] = str(error)
            continue
        if state is None:
            continue
        contained[family.name] = offsets
        if family is USER:
            user_as_of_ms = state.as_of_ms
        if family.is_stale(state.as_of_ms, now_ms):
            stale.add(family.name)
        else:
            states[family.name] = state
    user = states.pop(USER.name, None)
    status: Literal["fresh", "stale", "default"] = "stale" if USER.name in stale else "default"
    return RowsRead(
        user=UserState() if user is None else user,
        user_status=status if user is None else "fresh",
        user_as_of_ms=user_as_of_ms,
        targets=states,
        stale=frozenset(stale),
        invalid=invalid,
        contained=contained,
    )


def _decode(family: RowFamily, reply: list[bytes | None] | Exception) -> tuple[Any, dict[str, int]]:
    """The state, None where there is no row, and the offsets that it contains; raises `RowInvalid`."""
    if isinstance(reply, Exception):
        raise RowInvalid(f"its key holds something else: {reply}")
    *packed, offsets = reply
    return (None, {}) if offsets is None else (family.decode(packed), decode_contained(offsets))
