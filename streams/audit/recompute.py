"""The recomputation: what every row must be, folded from the log alone.

Enters: records of the event topics, messages of the delta log. Leaves: `ExpectedRow`s. Called by `verify`, `skew` and
the tests of faults, as the oracle. Pure: no store, no clock, no broker.

User rows come from the event topics, target rows from the delta log in its order with repeats dropped (protocol rules
11 and 22). A record that is no event, and one whose fold raises, is skipped, as the stages do with what they send to
the dead letters. `contains` limits the fold of each row to what a stored row says that it contains, so that rows are
compared at their own versions while workers go on.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from features.delta import Delta, Signal
from features.engagement import Coordinate, Kind
from features.rows import FOLDS, TARGET_FAMILIES, USER, RowFamily
from features.user import fold_user
from infra.errors import InvalidEvent
from streams.checkpoints import Highest
from streams.deltas import SourcedDelta, decode_deltas
from streams.events import FUTURE_LIMIT_MS, decode_record, to_engagement
from streams.log_records import Record

RowName = tuple[str, str]
Contains = Callable[[RowFamily, str, str, int], bool]
THUMB_MASS = 4.0  # a thumb adds at most 2 to its title's weight and takes at most 2 back
T = TypeVar("T")
_THUMBS = (Signal.THUMB_UP, Signal.THUMB_DOWN)


def everything(_family: RowFamily, _value: str, _log: str, _offset: int) -> bool:
    """A row contains every record that there is."""
    return True


@dataclass(slots=True)
class ExpectedRow:
    """A row as the log has it. `touched_ms` is its newest broker time; `retractable` is the gross mass of what may be
    taken back, which bounds the residue of its sums.
    """

    family: RowFamily
    value: str
    state: Any
    contained: dict[str, int] = field(default_factory=dict)
    touched_ms: int = 0
    retractable: float = 0.0


@dataclass(slots=True)
class LeftOut:
    """Records of one log that a row does not contain: the first one, and the newest broker time."""

    first_offset: int
    touched_ms: int


class Recomputation:
    """Expected rows by (family, entity value), and what was left out of them, by (family, entity value, log).

    `required`: by log, the offset before which every record must be in its row. `careful`: rows of which a fold has
    raised before, which are copied before each record, so that nothing half done stays.
    """

    def __init__(
        self, contains: Contains, required: dict[str, int] | None, careful: frozenset[RowName] = frozenset()
    ) -> None:
        self.rows: dict[RowName, ExpectedRow] = {}
        self.left_out: dict[tuple[str, str, str], LeftOut] = {}
        self.skipped: Counter[str] = Counter()
        self.broken: set[RowName] = set()
        self._contains = contains
        self._required = required or {}
        self._careful = careful

    def fold_into(
        self, family: RowFamily, value: str, record: Record, touched_ms: int, fold: Callable[[Any], T]
    ) -> T | None:
        """Fold a record into its row, if the row contains it; None when it does not, or when the fold raises."""
        name = (family.name, value)
        is_contained = self._contains(family, value, record.log, record.offset)
        if not is_contained and record.offset >= self._required.get(record.log, 0):
            return None
        row = self.rows.get(name)
        if row is None:
            row = ExpectedRow(family, value, family.new_state())
        before = copy.deepcopy(row.state) if name in self._careful or not is_contained else None
        try:
            folded = fold(row.state)
        except Exception:  # noqa: BLE001 - whatever breaks a fold is a dead letter in the stages as well
            self.skipped["poison"] += 1
            if before is None:
                self.broken.add(name)
            else:
                row.state = before
            return None
        if not is_contained:
            row.state = before
            missed = self.left_out.setdefault((*name, record.log), LeftOut(record.offset, touched_ms))
            missed.touched_ms = max(missed.touched_ms, touched_ms)
            return None
        self.rows[name] = row
        row.contained[record.log] = record.offset
        row.touched_ms = max(row.touched_ms, touched_ms)
        return folded


class UserFold(Recomputation):
    """The fold of stage 1."""

    def __init__(
        self,
        contains: Contains = everything,
        required: dict[str, int] | None = None,
        careful: frozenset[RowName] = frozenset(),
        future_limit_ms: int = FUTURE_LIMIT_MS,
    ) -> None:
        super().__init__(contains, required, careful)
        self._future_limit_ms = future_limit_ms

    def fold(self, record: Record) -> list[Delta]:
        """Fold one record into its user's row; returns the deltas that it gives."""
        try:
            event = decode_record(record.topic, record.value)
            engagement = to_engagement(event, record.broker_ts_ms, self._future_limit_ms)
        except InvalidEvent as error:
            self.skipped[error.reason] += 1
            return []
        coordinate = Coordinate(record.log, record.offset)
        folded = self.fold_into(
            USER,
            engagement.user_id,
            record,
            record.broker_ts_ms,
            lambda state: fold_user(state, coordinate, engagement),
        )
        if folded is None:
            return []
        if engagement.kind is Kind.THUMB:
            self.rows[USER.name, engagement.user_id].retractable += THUMB_MASS
        return folded.deltas


class TargetFold(Recomputation):
    """The fold of stage 2. `highest`: by delta log, the map of rule 11 as it stood before the first message."""

    def __init__(
        self,
        contains: Contains = everything,
        required: dict[str, int] | None = None,
        careful: frozenset[RowName] = frozenset(),
        highest: dict[str, Highest] | None = None,
    ) -> None:
        super().__init__(contains, required, careful)
        self.highest = {log: dict(places) for log, places in (highest or {}).items()}

    def fold(self, record: Record) -> list[SourcedDelta]:
        """Fold one message's new deltas into their rows; returns them."""
        fresh = list(self._fresh(record))
        for sourced in fresh:
            delta = sourced.delta
            family = TARGET_FAMILIES[delta.entity]
            folded = self.fold_into(family, delta.key, record, delta.ingested_ts_ms, _target_fold(delta))
            if folded and delta.signal in _THUMBS:
                self.rows[family.name, delta.key].retractable += abs(delta.amount)
        return fresh

    def _fresh(self, record: Record) -> Iterator[SourcedDelta]:
        try:
            message = decode_deltas(record.value or b"")
        except msgspec.DecodeError:
            self.skipped["poison"] += 1
            return
        highest = self.highest.setdefault(record.log, {})
        for sourced in message:
            place = (sourced.offset, sourced.ordinal)
            if place > highest.get(sourced.log, (-1, -1)):
                highest[sourced.log] = place
                yield sourced
            else:
                self.skipped["repeat"] += 1


def _target_fold(delta: Delta) -> Callable[[Any], bool]:
    def fold(state: Any) -> bool:
        FOLDS[delta.entity](state, delta)
        return True

    return fold


def recompute_user_rows(
    read: Callable[[], Iterable[Record]],
    contains: Contains = everything,
    required: dict[str, int] | None = None,
    future_limit_ms: int = FUTURE_LIMIT_MS,
    see: Callable[[Record, list[Delta]], None] = lambda _record, _deltas: None,
) -> UserFold:
    """Every user row of the records that `read()` gives, each log in order; the logs in any interleaving. `see` gets
    every record with the deltas that it gives. Reads a second time when a fold raised.
    """
    careful: frozenset[RowName] = frozenset()
    while True:
        fold = UserFold(contains, required, careful, future_limit_ms)
        for record in read():
            see(record, fold.fold(record))
        if not fold.broken:
            return fold
        careful = frozenset(fold.broken)


def recompute_target_rows(
    read: Callable[[], Iterable[Record]],
    contains: Contains = everything,
    required: dict[str, int] | None = None,
    highest: dict[str, Highest] | None = None,
    see: Callable[[Record, list[SourcedDelta], TargetFold], None] = lambda _record, _deltas, _fold: None,
) -> TargetFold:
    """Every target row of the delta log's messages, each partition in order. `see` gets every message with its new
    deltas and the fold so far. Reads a second time when a fold raised.
    """
    careful: frozenset[RowName] = frozenset()
    while True:
        fold = TargetFold(contains, required, careful, highest)
        for record in read():
            see(record, fold.fold(record), fold)
        if not fold.broken:
            return fold
        careful = frozenset(fold.broken)
