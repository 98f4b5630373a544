"""Globo.com: clicks on news, with real sessions and real times, as a log.

Enters: the Parquet file of its clicks (`user_id`, `session_id`, `click_article_id`, `click_timestamp`). Leaves: a
`Log`. Called by `log_files.py`. The data is for academic use only and is not part of this project.

Every click is positive. A session's first click is pre-query; every later one is, by the hash of its event's id, either
more-like-this from the article clicked before it, or pre-query in the session. Articles have no titles, so nothing is
searched; the source's country is a code of its own, so no country is known.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from features.catalogue import Item
from infra.errors import BadInput
from streams.events import Click
from streams.labels import Label, Log
from streams.sources.derive import Draw
from streams.sources.time_unit import refuse_other_units

COLUMNS = ("user_id", "session_id", "click_article_id", "click_timestamp")
DERIVED = "tasks of this log are assigned: a session's first click is pre-query, later ones either task by their hash"
AS_ANY_FILE = (
    "to have it read as any other file, name its columns: --map click_article_id=item_id "
    "--map click_timestamp=event_ts_ms"
)
HOUR_MS = 3_600_000


def is_globo(columns: list[str]) -> bool:
    """Whether a table's columns are those of this source."""
    return set(COLUMNS) <= set(columns)


def load_globo(path: Path, hours: float | None = None, max_events: int | None = None) -> Log:
    """The log in a file, at its own times; only its first `hours`, and at most its first `max_events`. Raises
    `BadInput` when it has no such clicks.
    """
    rows, incomplete = _rows(path)
    if hours is not None and rows:
        end_ms = rows[0][0] + hours * HOUR_MS
        rows = [row for row in rows if row[0] < end_ms]
    labels = list(_labels(islice(rows, max_events)))
    if not labels:
        raise BadInput("empty", f"{path} holds no click in the range that was asked for")
    ids = dict.fromkeys(label.item_id for label in labels)
    left_out = f"; {incomplete} rows lack a value and are left out" if incomplete else ""
    items = [Item(item_id=one, title=f"article {one}", kind="article") for one in ids]
    return Log(items, labels, derived=DERIVED + left_out)


def _rows(path: Path) -> tuple[list[tuple[int, int, int, int]], int]:
    """(time, user, session, article) of every click, in that order, and how many rows lack one of them."""
    import pyarrow
    import pyarrow.parquet
    from pyarrow import types

    try:
        table = pyarrow.parquet.read_table(path, columns=list(COLUMNS))
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput("malformed_file", f"{path} is no Parquet file of Globo's clicks: {error}") from error
    for name in COLUMNS:
        if not types.is_integer(kind := table[name].type):
            raise BadInput(
                "invalid_field", f"{path}: its column {name} holds no whole numbers but {kind}; {AS_ANY_FILE}"
            )
    complete = table.drop_null()
    users, sessions, articles, times = (complete[name].to_pylist() for name in COLUMNS)
    rows = sorted(zip(times, users, sessions, articles, strict=True))
    if rows:
        refuse_other_units(path, rows[0][0], rows[-1][0])
    return rows, table.num_rows - complete.num_rows


def _labels(rows: Any) -> Iterator[Label]:
    previous: dict[int, str] = {}
    for ts_ms, user, session, article in rows:
        user_id, item_id, session_id = f"u{user}", str(article), str(session)
        event_id = f"globo-{session}-{article}-{ts_ms}"
        before = previous.get(session)
        related = before is not None and before != item_id and Draw(event_id).integer(2) == 1
        task: Any = "more_like_this" if related else "pre_query"
        source = before if related else None
        click = Click(
            event_id=event_id, user_id=user_id, item_id=item_id, event_ts_ms=ts_ms, session_id=session_id,
            task=task, source_item_id=source,
        )  # fmt: skip
        yield Label(user_id, item_id, True, ts_ms, task, session_id, None, source, None, (click,))
        previous[session] = item_id
