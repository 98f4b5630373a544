"""Rows as they stood when a ranking was made: the log replayed to exactly the offsets that each row contained.

Enters: rankings with the offsets of their rows, the logs. Leaves: states. Called by `skew`.

A target row takes its deltas from one log, so its states are copied in passing. A user row takes its events from
several logs, so its records are kept, and folded for each ranking up to its offsets.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from features.rows import FAMILIES, TARGET_FAMILIES, USER, RowFamily
from features.user import UserState
from infra.errors import InvalidEvent
from streams.audit.log_reader import LogReader, LogSpan
from streams.audit.recompute import RowName, TargetFold, recompute_target_rows, recompute_user_rows
from streams.audit.served_rankings import Served
from streams.checkpoints import Highest
from streams.deltas import SourcedDelta
from streams.events import decode_record
from streams.log_records import Record
from streams.progress import Advance
from streams.topics import DELTAS

_FAMILIES = {family.name: family for family in FAMILIES}


class ReplayedRows:
    """The states that the rankings `served` were made from."""

    def __init__(self, served: Iterable[Served], future_limit_ms: int) -> None:
        self._future_limit_ms = future_limit_ms
        self._users: dict[str, list[Record]] = {}
        self._user_ends: dict[str, int] = {}
        self._wanted: dict[RowName, dict[str, set[int]]] = {}
        self._states: dict[tuple[RowName, str, int], bytes] = {}
        for one in served:
            self._users.setdefault(one.ranking.user_id, [])
            for log, offset in one.ranking.contained.get(USER.name, {}).items():
                self._user_ends[log] = max(self._user_ends.get(log, 0), offset + 1)
            for name, contained in one.target_rows().items():
                for log, offset in contained.items():
                    self._wanted.setdefault(name, {}).setdefault(log, set()).add(offset)

    def total(self, spans: dict[str, LogSpan]) -> int:
        """How many records `replay` will read."""
        return sum(self._end(span) - span.first for span in spans.values())

    def replay(
        self, reader: LogReader, spans: dict[str, LogSpan], highest: dict[str, Highest], advance: Advance
    ) -> None:
        """Read the logs, as far as any ranking needs them."""

        def read(topics_are_deltas: bool) -> Iterable[Record]:
            for span in spans.values():
                if (span.topic == DELTAS) is topics_are_deltas:
                    for record in reader.read_span(span, None, self._end(span)):
                        advance(1)
                        yield record

        for record in read(topics_are_deltas=False):
            self._keep(record)
        last = {(name, log): max(offsets) for name, logs in self._wanted.items() for log, offsets in logs.items()}

        def contains(family: RowFamily, value: str, log: str, offset: int) -> bool:
            return offset <= last.get(((family.name, value), log), -1)

        recompute_target_rows(lambda: read(topics_are_deltas=True), contains, None, highest, self._copy)

    def user(self, served: Served) -> UserState | None:
        """The user's state; None when the log does not hold the records that it was made of."""
        contained = served.ranking.contained.get(USER.name, {})
        if not contained:
            return UserState()

        def contains(_family: RowFamily, _value: str, log: str, offset: int) -> bool:
            return offset <= contained.get(log, -1)

        records = self._users[served.ranking.user_id]
        fold = recompute_user_rows(lambda: records, contains, None, self._future_limit_ms)
        row = fold.rows.get((USER.name, served.ranking.user_id))
        return row.state if row is not None and row.contained == contained else None

    def target(self, name: RowName, contained: dict[str, int]) -> Any:
        """The row's state, a new one when it had no row; None when the log does not hold what it was made of."""
        family = _FAMILIES[name[0]]
        if not contained:
            return family.new_state()
        [(log, offset), *others] = contained.items()
        packed = self._states.get((name, log, offset))
        if others or packed is None:
            return None
        return msgspec.msgpack.decode(packed, type=type(family.new_state()))

    def _end(self, span: LogSpan) -> int:
        if span.topic == DELTAS:
            offsets = [max(logs[span.log]) + 1 for logs in self._wanted.values() if span.log in logs]
            return min(span.end, max([*offsets, span.first]))
        return min(span.end, max(self._user_ends.get(span.log, 0), span.first))

    def _keep(self, record: Record) -> None:
        try:
            user_id = decode_record(record.topic, record.value).user_id
        except InvalidEvent:
            return
        if user_id in self._users:
            self._users[user_id].append(record)

    def _copy(self, record: Record, deltas: list[SourcedDelta], fold: TargetFold) -> None:
        """Copy the rows that some ranking has read as they are after this message."""
        for family_name, key in {_row_name(sourced) for sourced in deltas}:
            name = (family_name, key)
            if record.offset in self._wanted.get(name, {}).get(record.log, ()) and name in fold.rows:
                self._states[name, record.log, record.offset] = msgspec.msgpack.encode(fold.rows[name].state)


def _row_name(sourced: SourcedDelta) -> RowName:
    return TARGET_FAMILIES[sourced.delta.entity].name, sourced.delta.key
