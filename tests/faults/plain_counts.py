"""A second oracle that shares no fold with Nowrank: plain counts of the events that were sent.

Enters: the events as they were sent, and the store. Leaves: a list of differences, empty when there are none. Called by
the fault tests, beside the recomputation of the whole log.

It counts what needs no knowledge of folds: totals by target and signal, each user's newest event times and the thumbs
in force. An id counts once; of a user's thumbs on a title the newest by (time, id) is in force.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import redis

from features.engagement import Thumb as ThumbValue
from features.online_store import read_states
from features.rows import COUNTRY, ITEM, QUERY, SOURCE_ITEM, USER, RowFamily, entity_prefix, value_in_key
from features.user import RECENT_CAPACITY
from streams.events import Click, Engaged, Play, Ranking, Thumb
from tests.faults.workload import QUERIES, Sent

IMPRESSION, CLICK, PLAY, COMPLETED, WATCHED, UP, DOWN = range(7)
COMPLETED_AT_PERCENT = 90
SCAN_COUNT = 5_000
READ_AT_ONCE = 2_000
Counts = dict[str, list[int]]


class PlainCounts:
    """What the rows must hold once every event of `sent` is folded."""

    def __init__(self, sent: Iterable[Sent]) -> None:
        self.items: Counts = defaultdict(lambda: [0] * 7)
        # One dictionary for each family of top lists: key -> title -> impressions, clicks, plays.
        self.tops: dict[str, dict[str, Counts]] = {
            family.name: defaultdict(lambda: defaultdict(lambda: [0] * 3)) for family in (QUERY, SOURCE_ITEM, COUNTRY)
        }
        self.times: dict[str, list[int]] = defaultdict(list)
        self._newest: dict[tuple[str, str], Thumb] = {}
        unique = {event.ranking_id if isinstance(event, Ranking) else event.event_id: event for event in sent}
        self.unique = len(unique)
        for event in unique.values():
            self._add(event)
        for thumb in self._newest.values():
            if thumb.value != "none":
                self.items[thumb.item_id][DOWN if thumb.value == "down" else UP] += 1

    def thumbs(self, user_id: str) -> dict[str, str]:
        """The thumbs of a user that are in force."""
        return {
            item: thumb.value
            for (user, item), thumb in self._newest.items()
            if user == user_id and thumb.value != "none"
        }

    def _add(self, event: Sent) -> None:
        if isinstance(event, Ranking):
            self.times[event.user_id] += []
            for served in event.items:
                self._count(event, served.item_id, IMPRESSION)
            return
        self.times[event.user_id].append(event.event_ts_ms)
        if isinstance(event, Thumb):
            place = (event.user_id, event.item_id)
            before = self._newest.get(place)
            if before is None or (event.event_ts_ms, event.event_id) > (before.event_ts_ms, before.event_id):
                self._newest[place] = event
        elif isinstance(event, Click):
            self._count(event, event.item_id, CLICK)
        elif isinstance(event, Play):
            self._count(event, event.item_id, PLAY)
            self.items[event.item_id][WATCHED] += event.watched_ms
            if 100 * event.watched_ms >= COMPLETED_AT_PERCENT * event.duration_ms:
                self.items[event.item_id][COMPLETED] += 1

    def _count(self, event: Engaged | Ranking, item_id: str, slot: int) -> None:
        self.items[item_id][slot] += 1
        query = QUERIES.get(event.query, event.query) if event.query else None
        for family, key in ((QUERY, query), (SOURCE_ITEM, event.source_item_id), (COUNTRY, event.country)):
            if key is not None:
                self.tops[family.name][key][item_id][slot] += 1

    def differences(self, client: redis.Redis, project: str) -> list[str]:
        """Each place where the store does not hold these counts."""
        return [
            *_compare(
                "item", self.items, {key: state.totals for key, state in read_all(client, project, ITEM).items()}
            ),
            *(
                difference
                for family in (QUERY, SOURCE_ITEM, COUNTRY)
                for difference in self._top_differences(family, read_all(client, project, family))
            ),
            *self._user_differences(read_all(client, project, USER)),
        ]

    def _top_differences(self, family: RowFamily, states: dict[str, Any]) -> list[str]:
        expected = self.tops[family.name]
        return [
            difference
            for key in expected.keys() | states.keys()
            for difference in _compare(
                f"{family.name} {key!r}",
                expected.get(key, {}),
                {item: target.totals for item, target in states[key].targets.items()} if key in states else {},
            )
        ]

    def _user_differences(self, states: dict[str, Any]) -> list[str]:
        found = [f"user {user!r}: a row that no event explains" for user in states.keys() - self.times.keys()]
        for user, times in self.times.items():
            if user not in states:
                found.append(f"user {user!r}: no row")
                continue
            newest = sorted(times)[-RECENT_CAPACITY:]
            held = [moment.event_ts_ms for moment in states[user].recent]
            if held != newest:
                found.append(f"user {user!r}: {len(held)} newest events, not these {len(newest)}")
            thumbs = {item: ThumbValue(value).name.lower() for item, value in states[user].active_thumbs().items()}
            if thumbs != self.thumbs(user):
                found.append(f"user {user!r}: thumbs {thumbs}, expected {self.thumbs(user)}")
        return found


def read_all(client: redis.Redis, project: str, family: RowFamily) -> dict[str, Any]:
    """The state of every row of a family that the store holds."""
    keys = list(client.scan_iter(match=_glob(entity_prefix(family.join_key)) + b"*", count=SCAN_COUNT))
    values = [value.decode() for key in keys if (value := value_in_key(key, family.join_key, project)) is not None]
    states: dict[str, Any] = {}
    for begin in range(0, len(values), READ_AT_ONCE):
        part = values[begin : begin + READ_AT_ONCE]
        states.update(zip(part, read_states(client, project, [(family, value) for value in part]), strict=True))
    return states


def _glob(prefix: bytes) -> bytes:
    return b"".join(b"\\" + bytes([byte]) if byte in b"*?[]\\^-" else bytes([byte]) for byte in prefix)


def _compare(what: str, expected: Counts, held: Counts) -> list[str]:
    """Differences of counts by title; a missing row is one of zeros."""
    found = []
    for key in expected.keys() | held.keys():
        right, seen = expected.get(key), held.get(key)
        zeros = [0] * len(right or seen or [])
        if (seen or zeros) != (right or zeros):
            found.append(f"{what} {key!r}: {seen}, expected {right}")
    return found
