"""Logs by name or path: one way to every log that training and evaluation can read.

Enters: a name, a folder or a file, and how to read it. Leaves: a `Log` at its own times. Called by the commands of the
model.
"""

import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from features.catalogue import Item
from infra.errors import BadInput
from streams.events import Engaged
from streams.labels import Log
from streams.sources.event_log import log_of_events
from streams.sources.globo import AS_ANY_FILE, HOUR_MS, is_globo, load_globo
from streams.sources.movielens import NAME as MOVIELENS
from streams.sources.movielens import holds_movielens, load_movielens
from streams.sources.movielens_files import movielens_folder
from streams.sources.table import EVENT_FIELDS, ITEM_FIELDS, Rejection, Seen, TableOptions, read_events, read_items
from streams.sources.table_files import PARQUET, open_table, reading

MOVIELENS_AS_IT_IS = f"{MOVIELENS}, which is read as it is; name the file of events that is meant"
GLOBO_AS_IT_IS = f"whose columns are those of Globo's clicks, read as they are, in ms; {AS_ANY_FILE}"


@dataclass(frozen=True, slots=True)
class LogSource:
    """Which log: `movielens-100k`, a folder of its files, or a file of events with, if there is one, a file of titles,
    both read by `options`; of these only the first `hours`, and at most `max_events`, in time order.
    """

    name: str
    items: Path | None = None
    options: TableOptions = field(default_factory=TableOptions)
    hours: float | None = None
    max_events: int | None = None


def load_log(source: LogSource, state_dir: Path, now_ms: int) -> Log:
    """The log; raises `BadInput` when it cannot be read, or when no row of it is good."""
    path = Path(source.name)
    with _no_collection(), reading(path):
        if source.name == MOVIELENS and not path.is_file():
            refuse_description(source.options, MOVIELENS_AS_IT_IS, source.items)
            return first_part(load_movielens(movielens_folder(state_dir)), source.hours, source.max_events)
        if holds_movielens(path):
            refuse_description(source.options, f"{path}, which holds {MOVIELENS_AS_IT_IS}", source.items)
            return first_part(load_movielens(path), source.hours, source.max_events)
        if path.suffix.lower() == PARQUET and not source.options.rename and is_globo(open_table(path)[0] or []):
            refuse_description(source.options, f"{path}, {GLOBO_AS_IT_IS}", source.items)
            return load_globo(path, source.hours, source.max_events)
        return _log_of_files(path, source, now_ms)


def refuse_description(options: TableOptions, source: str, items: Path | None = None) -> None:
    """Raises `BadInput` for what describes a file of events beside a source that is read as it is."""
    described = {
        "--items": items is not None,
        "--map": bool(options.rename),
        "--type": options.default_type is not None,
        "--time-unit s": options.times_in_s,
    }
    if given := [name for name, is_given in described.items() if is_given]:
        raise BadInput("invalid_field", f"{', '.join(given)} cannot go with {source}")


def first_part(log: Log, hours: float | None, max_events: int | None) -> Log:
    """The labels of the log's first `hours`, as many of them as have at most `max_events` events."""
    labels = log.labels
    if hours is not None and labels:
        labels = [label for label in labels if label.ts_ms < labels[0].ts_ms + hours * HOUR_MS]
    if max_events is not None:
        kept, total = 0, 0
        while kept < len(labels) and total + len(labels[kept].events) <= max_events:
            total += len(labels[kept].events)
            kept += 1
        labels = labels[:kept]
    return log if labels is log.labels else replace(log, labels=labels)


def newest_part(log: Log, begin_ms: int, max_events: int) -> Log:
    """The log without its oldest labels, so that of the events of labels before `begin_ms` at most `max_events` stay;
    all labels since then stay.
    """
    total, kept = 0, len(log.labels)
    while kept > 0:
        label = log.labels[kept - 1]
        if label.ts_ms < begin_ms:
            total += len(label.events)
            if total > max_events:
                break
        kept -= 1
    return log if kept == 0 else replace(log, labels=log.labels[kept:])


def _log_of_files(path: Path, source: LogSource, now_ms: int) -> Log:
    seen, options, of_titles = Seen(), source.options, source.options
    if source.items and options.rename:
        options, of_titles = _options_of_both(path, source.items, options)
    items, bad_items = _good(source.items, read_items(source.items, of_titles, seen)) if source.items else ([], 0)
    events, bad_events = _good(path, read_events(path, options, now_ms, seen))
    events = _first_events(events, source.hours, source.max_events)
    log = log_of_events(events, items)
    notes = [log.derived, *(_not_in(source.items, items, events) if source.items else [])]
    if seen.float_ids:
        notes.append(f"ids like 7.0 are not the ids 7: {', '.join(sorted(seen.float_ids))}")
    if bad_items + bad_events:
        notes.append(f"{bad_items + bad_events} rows cannot be read and are left out: `nowrank import FILE --dry-run`")
    return replace(log, derived="; ".join(notes))


def _options_of_both(path: Path, items: Path, options: TableOptions) -> tuple[TableOptions, TableOptions]:
    """How the events and the titles are read: a name counts for each file that has its column and its field; raises
    `BadInput` for one that counts for neither.
    """
    rename = options.rename
    unfit = (_unfit_names(path, "events", EVENT_FIELDS, rename), _unfit_names(items, "titles", ITEM_FIELDS, rename))
    for theirs, ours in rename.items():
        if all(theirs in one for one in unfit):
            raise BadInput("invalid_field", f"--map {theirs}={ours}: {', and '.join(one[theirs] for one in unfit)}")
    of_events, of_titles = (
        replace(options, rename={theirs: ours for theirs, ours in rename.items() if theirs not in one}) for one in unfit
    )
    return of_events, of_titles


def _unfit_names(path: Path, what: str, fields: tuple[str, ...], rename: Mapping[str, str]) -> dict[str, str]:
    """Why a file has no use for a mapping, by the column that it maps, where it has none; a file whose rows name their
    own columns may have them all.
    """
    columns, _ = open_table(path)
    unfit = {}
    for theirs, ours in rename.items():
        if ours not in fields:
            unfit[theirs] = f"{path} is of {what}, which have no field {ours!r} (they have {', '.join(sorted(fields))})"
        elif columns is not None and theirs not in columns:
            unfit[theirs] = f"{path} has no column {theirs!r} (it has {', '.join(columns)})"
    return unfit


def _not_in(path: Path, items: list[Item], events: list[Engaged]) -> list[str]:
    """How many titles and sources of the events are not in the catalogue, where some are not."""
    known = {item.item_id for item in items}
    titles = {event.item_id for event in events}
    sources = {event.source_item_id for event in events if event.source_item_id is not None}
    return [
        f"{len(ids - known):,} of {len(ids):,} {what} are not in {path.name}"
        for what, ids in (("titles", titles), ("sources", sources))
        if ids - known
    ]


def _first_events(events: list[Engaged], hours: float | None, max_events: int | None) -> list[Engaged]:
    if hours is None and max_events is None:
        return events
    events = sorted(events, key=lambda event: event.event_ts_ms)
    if hours is not None:
        end_ms = events[0].event_ts_ms + hours * HOUR_MS
        events = [event for event in events if event.event_ts_ms < end_ms]
    return events[:max_events]


def _good(path: Path, rows: Iterable[Any]) -> tuple[list[Any], int]:
    """The rows that are no rejection, and how many are; raises `BadInput` when no row is good."""
    good: list[Any] = []
    rejected: list[Rejection] = []
    for row in rows:
        (rejected if isinstance(row, Rejection) else good).append(row)
    if not good:
        first = f"; the first: {rejected[0]}" if rejected else ""
        raise BadInput("empty", f"{path} holds no row that can be read{first}")
    return good, len(rejected)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Millions of new objects, none of them garbage: looking for it would double the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
