"""Anyone's own table: CSV, TSV, JSON lines or Parquet, row by row into events or titles.

Enters: a file whose columns are named as the wire fields (or are mapped to them). Leaves: for each row an event, a
title, or a `Rejection` with row number, field and rule; nothing is dropped. Called by the import command.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from features.catalogue import Item
from infra.errors import BadInput, InvalidEvent
from streams.catalogue import convert_item
from streams.events import FUTURE_LIMIT_MS, Click, Engaged, Play, Thumb, convert_engaged
from streams.sources.derive import event_uuid
from streams.sources.table_files import Row, open_table
from streams.sources.table_values import field_value
from streams.sources.time_unit import refuse_other_units

EVENT_FIELDS = ("type", *dict.fromkeys(name for struct in (Click, Play, Thumb) for name in struct.__struct_fields__))
ITEM_FIELDS = Item.__struct_fields__
NEEDED_EVENT_FIELDS = ("type", "user_id", "item_id", "event_ts_ms")
NEEDED_ITEM_FIELDS = ("item_id", "title")


class Rejection(msgspec.Struct, frozen=True):
    """Why a row is not imported. Rows are counted from 1, a header not included."""

    row: int
    reason: str
    field: str | None
    message: str

    def __str__(self) -> str:
        return f"row {self.row}: {f'{self.field}: ' if self.field else ''}{self.message} ({self.reason})"


@dataclass(frozen=True, slots=True)
class TableOptions:
    """How a file's columns are read: `rename` maps its names to ours, `default_type` serves rows that name no type."""

    rename: Mapping[str, str] = field(default_factory=dict)
    times_in_s: bool = False
    default_type: str | None = None


def read_mapping(pairs: Iterable[str]) -> dict[str, str]:
    """Their columns' names to ours, of `THEIRS=OURS`; raises `BadInput` for anything else, and for a name that is given
    twice.
    """
    rename: dict[str, str] = {}
    for pair in pairs:
        theirs, equals, ours = pair.partition("=")
        if not (theirs and equals and ours):
            raise BadInput("invalid_field", f"--map {pair}: write it as THEIRS=OURS")
        if theirs in rename or ours in rename.values():
            raise BadInput("invalid_field", f"--map {pair}: {theirs!r} or {ours!r} is mapped twice")
        rename[theirs] = ours
    return rename


@dataclass(slots=True)
class Seen:
    """What a reading has met, filled while it goes on. `float_ids`: the fields with ids like 7.0, which are taken as
    they are written, be it that they are meant so or that they are the whole numbers of a column with gaps.
    `oldest_ms` and `newest_ms` are of the good events.
    """

    rows: int = 0
    made_ids: int = 0
    ignored_columns: set[str] = field(default_factory=set)
    float_ids: set[str] = field(default_factory=set)
    oldest_ms: int | None = None
    newest_ms: int | None = None


def read_events(path: Path, options: TableOptions, now_ms: int, seen: Seen) -> Iterator[Engaged | Rejection]:
    """The event, or the rejection, of each row; a row without `event_id` gets one made from its content and its
    number. Raises `BadInput` after the last one when all times look like another unit.
    """

    def make(number: int, values: dict[str, Any]) -> Engaged:
        if options.default_type is not None:
            values.setdefault("type", options.default_type)
        if "event_id" not in values:
            values["event_id"] = event_uuid(f"{number}:{msgspec.json.encode(values, order='deterministic').decode()}")
            seen.made_ids += 1
        event = convert_engaged(values)
        if event.event_ts_ms > now_ms + FUTURE_LIMIT_MS:
            ahead_s = (event.event_ts_ms - now_ms) // 1000
            limit_s = FUTURE_LIMIT_MS // 1000
            raise InvalidEvent(
                "future_timestamp", f"it is {ahead_s} s from now; at most {limit_s} s are allowed", "event_ts_ms"
            )
        if seen.oldest_ms is None or event.event_ts_ms < seen.oldest_ms:
            seen.oldest_ms = event.event_ts_ms
        if seen.newest_ms is None or event.event_ts_ms > seen.newest_ms:
            seen.newest_ms = event.event_ts_ms
        return event

    needed = [name for name in NEEDED_EVENT_FIELDS if name != "type" or options.default_type is None]
    yield from _read(path, options, seen, frozenset(EVENT_FIELDS), needed, make)
    if seen.oldest_ms is not None and seen.newest_ms is not None and not options.times_in_s:
        refuse_other_units(path, seen.oldest_ms, seen.newest_ms)


def read_items(path: Path, options: TableOptions, seen: Seen) -> Iterator[Item | Rejection]:
    """The title, or the rejection, of each row; in text files, lists are written with `|` between their parts."""
    known = frozenset(ITEM_FIELDS)
    return _read(path, options, seen, known, NEEDED_ITEM_FIELDS, lambda _number, values: convert_item(values))


def _read(
    path: Path,
    options: TableOptions,
    seen: Seen,
    known: frozenset[str],
    needed: Iterable[str],
    make: Callable[[int, dict[str, Any]], Any],
) -> Iterator[Any]:
    def is_field(column: str) -> bool:
        return options.rename.get(column, column) in known

    columns, rows = open_table(path, is_field)
    _check_rename(path, options.rename, known, columns)
    if columns is not None:
        named = {options.rename.get(column, column) for column in columns}
        if missing := [name for name in needed if name not in named]:
            raise BadInput(
                "missing_field", f"{path} has no column {', '.join(missing)}; it has {', '.join(columns)}. {MAP_HINT}"
            )
        seen.ignored_columns.update(column for column in columns if not is_field(column))
    for row in rows:
        seen.rows += 1
        try:
            values = _named_values(row, options, known, seen)
            yield make(row.number, values)
        except InvalidEvent as error:
            yield Rejection(row.number, error.reason, error.field, _rule(error))


MAP_HINT = "Name other columns with --map theirs=ours"


def _check_rename(path: Path, rename: Mapping[str, str], known: frozenset[str], columns: list[str] | None) -> None:
    for theirs, ours in rename.items():
        if ours not in known:
            raise BadInput(
                "invalid_field",
                f"--map {theirs}={ours}: there is no field {ours!r}; the fields are {', '.join(sorted(known))}",
            )
        if columns is not None and theirs not in columns:
            raise BadInput(
                "invalid_field", f"--map {theirs}={ours}: {path} has no column {theirs!r}; it has {', '.join(columns)}"
            )
        if columns is not None and ours in columns and ours not in rename:
            raise BadInput(
                "invalid_field", f"--map {theirs}={ours}: {path} has a column {ours!r} already; map that one too"
            )


def _named_values(row: Row, options: TableOptions, known: frozenset[str], seen: Seen) -> dict[str, Any]:
    if row.fault is not None:
        raise row.fault
    values = {}
    for column, value in row.cells.items():
        name = options.rename.get(column, column)
        if name not in known:
            seen.ignored_columns.add(column)
        elif value is not None and not (row.is_text and value == ""):
            if name in values:
                raise _taken_twice(row, options.rename, name)
            values[name] = field_value(name, value, row.is_text, options.times_in_s)
            if name.endswith("_id") and values[name].endswith(".0") and values[name][:-2].isdigit():
                seen.float_ids.add(name)
    return values


def _taken_twice(row: Row, rename: Mapping[str, str], name: str) -> InvalidEvent:
    theirs = next(column for column in row.cells if column != name and rename.get(column) == name)
    message = f"{theirs!r} is mapped to {name!r}, which the row has too; map that one too"
    return InvalidEvent("invalid_field", message, name)


def _rule(error: InvalidEvent) -> str:
    """The message without the place, which a rejection names by itself."""
    return error.message.partition(" - at `$")[0]
