from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pyarrow
import pyarrow.parquet
import pytest

from features.catalogue import Item
from infra.errors import BadInput
from streams.events import Click, Engaged, Play, Thumb
from streams.labels import Label, Log
from streams.sources.derive import Member, Rating, derive_labels
from streams.sources.event_log import log_of_events
from streams.sources.log_files import LogSource, first_part, load_log, newest_part
from streams.sources.table import TableOptions

BEGIN_MS = 1_700_000_000_000
MINUTE_MS = 60_000
ITEMS = [Item(item_id=f"t{number}", title=f"{word} Story") for number, word in enumerate(("Toy", "Love", "West"))]


def _event(kind: type[Any], item_id: str, minute: float, user_id: str = "u1", **fields: Any) -> Any:
    event_id = f"{kind.__name__}-{user_id}-{item_id}-{round(minute * 1000):08d}"
    ts_ms = BEGIN_MS + round(minute * MINUTE_MS)
    return kind(event_id=event_id, user_id=user_id, item_id=item_id, event_ts_ms=ts_ms, **fields)


def _click(item_id: str, minute: float, **fields: Any) -> Any:
    return _event(Click, item_id, minute, **fields)


def _play(item_id: str, minute: float, share: float, **fields: Any) -> Any:
    return _event(Play, item_id, minute, watched_ms=round(1000 * share), duration_ms=1000, **fields)


def _only_label(*events: Engaged) -> Label:
    (label,) = log_of_events(events).labels
    return label


def test_events_of_one_user_and_title_in_one_session_are_one_label_at_the_first_of_them() -> None:
    log = log_of_events([_play("t1", 1, 1.0), _click("t1", 0), _click("t2", 2), _click("t1", 0, user_id="u2")])
    assert [(label.user_id, label.item_id, len(label.events)) for label in log.labels] == [
        ("u1", "t1", 2), ("u2", "t1", 1), ("u1", "t2", 1),
    ]  # fmt: skip
    assert log.labels[0].ts_ms == BEGIN_MS
    assert [event.event_ts_ms for event in log.events] == sorted(event.event_ts_ms for event in log.events)


def test_a_session_ends_with_a_gap_of_thirty_minutes_unless_the_events_name_it() -> None:
    gap = log_of_events([_click("t1", 0), _click("t1", 29), _click("t1", 59)])
    assert [len(label.events) for label in gap.labels] == [2, 1]
    named = log_of_events([_click("t1", 0, session_id="s"), _click("t1", 90, session_id="s")])
    assert [(label.session_id, len(label.events)) for label in named.labels] == [("s", 2)]


def test_a_late_thumb_belongs_to_the_last_decision_about_its_title() -> None:
    log = log_of_events([_click("t1", 0), _event(Thumb, "t1", 500, value="down")])
    assert [(label.positive, len(label.events)) for label in log.labels] == [(False, 2)]


def test_a_label_as_of_a_time_knows_only_the_events_before_it() -> None:
    label = _only_label(_click("t1", 0), _play("t1", 5, 0.1), _event(Thumb, "t1", 9, value="up"))
    said = {minutes: label.as_of(BEGIN_MS + 60_000 * minutes).positive for minutes in (1, 5, 6, 9, 10, 99)}
    assert said == {1: True, 5: True, 6: False, 9: False, 10: True, 99: True}
    assert label.as_of(BEGIN_MS + 60_000 * 99) is label


def test_a_label_as_of_a_time_knows_its_task_by_the_events_before_it() -> None:
    label = _only_label(
        _click("t1", 0, session_id="s", source_item_id="t0", country="DE"),
        _click("t1", 50, session_id="s", task="search", query="lo", country="FR"),
    )
    asked = {
        minutes: (known.task, known.query, known.source_item_id, known.country)
        for minutes in (50, 51)
        for known in [label.as_of(BEGIN_MS + 60_000 * minutes)]
    }
    assert asked == {50: ("more_like_this", None, "t0", "DE"), 51: ("search", "lo", None, "FR")}


def test_each_part_of_a_log_knows_what_came_before_its_end() -> None:
    log = log_of_events([
        *(_click(title, minutes) for title, minutes in (("t1", 0), ("t2", 40), ("t3", 80))),
        *(_event(Thumb, title, 100, value="down") for title in ("t1", "t2", "t3")),
    ])  # fmt: skip
    known = log.as_known([BEGIN_MS + 60_000 * minutes for minutes in (20, 60)])
    assert [label.positive for label in log.labels] == [False, False, False]
    assert [label.positive for label in known.labels] == [True, True, False]
    assert known.events == log.events


def test_a_thumb_decides_then_a_play_then_a_click() -> None:
    up, down, none = (_event(Thumb, "t1", 2, value=value) for value in ("up", "down", "none"))
    assert _only_label(_click("t1", 0)).positive
    assert _only_label(_click("t1", 0), _play("t1", 1, 0.6)).positive
    assert not _only_label(_click("t1", 0), _play("t1", 1, 0.59)).positive
    assert _only_label(_click("t1", 0), _play("t1", 1, 0.1), up).positive
    assert not _only_label(_click("t1", 0), _play("t1", 1, 1.0), down).positive
    assert _only_label(_click("t1", 0), none).positive
    assert not _only_label(none).positive
    assert _only_label(_event(Play, "t1", 0, watched_ms=5, duration_ms=0)).positive


def test_a_thumb_of_another_session_does_not_say_in_which_task_the_title_was_found() -> None:
    click = _click("t1", 0, source_item_id="t0")
    assert _only_label(click, _event(Thumb, "t1", 5, value="up", task="search", query="lo")).task == "search"
    label = _only_label(click, _event(Thumb, "t1", 500, value="up", task="search", query="lo"))
    assert (label.task, label.source_item_id, label.query) == ("more_like_this", "t0", None)


def test_what_an_event_says_of_its_task_is_taken_as_it_is() -> None:
    search = _only_label(_click("t1", 0, task="search", query="lo"))
    assert (search.task, search.query, search.source_item_id) == ("search", "lo", None)
    related = _only_label(_click("t1", 0, task="more_like_this", source_item_id="t0"))
    assert (related.task, related.source_item_id) == ("more_like_this", "t0")
    assert _only_label(_click("t1", 0, query="lo")).task == "search"
    assert _only_label(_click("t1", 0, source_item_id="t0")).task == "more_like_this"


def test_an_event_without_a_task_gets_exactly_one_that_is_possible_by_the_hash_of_its_id() -> None:
    events = [_click(f"t{place % 3}", 3 * place + place % 3, user_id=f"u{place // 3}") for place in range(1800)]
    labels = log_of_events(events, ITEMS).labels
    first = [label for label in labels if label.item_id == "t0"]
    later = [label for label in labels if label.item_id != "t0"]
    assert {label.task for label in first} == {"pre_query", "search"}
    counts = Counter(label.task for label in later)
    assert set(counts) == {"pre_query", "more_like_this", "search"}
    assert all(300 < count < 500 for count in counts.values())
    for label in labels:
        assert (label.query is not None) == (label.task == "search")
        assert (label.source_item_id is not None) == (label.task == "more_like_this")
    assert log_of_events(reversed(events), ITEMS).labels == labels


def test_without_titles_nothing_is_searched_and_titles_are_called_by_their_ids() -> None:
    log = log_of_events([_click(f"t{place % 3}", place, user_id=f"u{place // 3}") for place in range(300)])
    assert {label.task for label in log.labels} == {"pre_query", "more_like_this"}
    assert {item.title for item in log.items} == {"t0", "t1", "t2"}


def test_queries_are_not_derived_where_events_say_their_tasks() -> None:
    events = [_click("t1", 0, task="pre_query"), *(_click("t2", 0, user_id=f"v{place}") for place in range(50))]
    assert {label.task for label in log_of_events(events, ITEMS).labels} == {"pre_query"}


def test_events_derived_from_ratings_come_back_as_the_labels_they_were_derived_from() -> None:
    ratings = [Rating("7", f"t{place % 3}", 1 + place % 5, 1000 + place // 3 * 4000 + place) for place in range(60)]
    members = {"7": Member("7", 30, "F", "writer", "10001")}
    labels = derive_labels(ratings[:3], {item.item_id: item for item in ITEMS}, members)
    again = log_of_events(reversed(Log(ITEMS, labels).events), ITEMS)
    assert [replace(label, revised=()) for label in again.labels] == labels  # a rating is known at once


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    return path


def _rows(count: int) -> list[dict[str, Any]]:
    return [
        {"who": f"u{place % 5}", "item_id": f"t{place % 3}", "time": BEGIN_MS // 1000 + place * 3600}
        for place in range(count)
    ]


def test_a_file_is_read_as_import_reads_it_and_may_be_cut(tmp_path: Path) -> None:
    path = _write(tmp_path / "clicks.jsonl", _rows(20))
    options = TableOptions({"who": "user_id", "time": "event_ts_ms"}, times_in_s=True, default_type="click")
    source = LogSource(str(path), options=options)
    now_ms = BEGIN_MS * 2
    assert len(load_log(source, tmp_path, now_ms).labels) == 20
    assert len(load_log(replace(source, hours=5), tmp_path, now_ms).labels) == 5
    assert len(load_log(replace(source, max_events=7), tmp_path, now_ms).labels) == 7
    titles = _write(tmp_path / "titles.jsonl", [{"item_id": "t0", "title": "Toy Story"}, {"item_id": "t9"}])
    log = load_log(replace(source, items=titles), tmp_path, now_ms)
    assert [item.title for item in log.items] == ["Toy Story", "t1", "t2"]
    assert "1 rows cannot be read" in log.derived


COLUMNS = {"userId": "user_id", "movieId": "item_id", "timestamp": "event_ts_ms"}
RATED = TableOptions(COLUMNS, times_in_s=True, default_type="click")


def _ratings(folder: Path) -> Path:
    path = folder / "ratings.csv"
    path.write_text("userId,movieId,rating,timestamp\n1,7,4.5,1700000000\n1,8,3.0,1700000060\n")
    return path


@pytest.mark.parametrize("name", ["movies.csv", "movies.jsonl", "movies.parquet"])
def test_the_titles_file_is_read_by_the_same_names_and_unit_of_time(tmp_path: Path, name: str) -> None:
    titles = [{"movieId": 7, "title": "Heat", "available_from_ms": 1_600_000_000}]
    items = tmp_path / name
    if items.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(titles), items)
    elif items.suffix == ".jsonl":
        _write(items, titles)
    else:
        items.write_text("movieId,title,available_from_ms\n7,Heat,1600000000\n")
    log = load_log(LogSource(str(_ratings(tmp_path)), items, RATED), tmp_path, 2 * BEGIN_MS)
    assert log.items[0] == Item(item_id="7", title="Heat", available_from_ms=1_600_000_000_000)
    assert [label.item_id for label in log.labels] == ["7", "8"]


def test_a_name_counts_only_for_a_file_that_has_its_column_and_its_field(tmp_path: Path) -> None:
    items = tmp_path / "titles.csv"
    items.write_text("item_id,name,timestamp\n7,Heat,1995\n")
    options = replace(RATED, rename={**COLUMNS, "name": "title"})
    log = load_log(LogSource(str(_ratings(tmp_path)), items, options), tmp_path, 2 * BEGIN_MS)
    assert [item.title for item in log.items] == ["Heat", "8"]


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        ("film", "item_id", r"s\.csv has no column 'film' \(it has userId.*\), and .*i\.csv has no column 'film' \("),
        ("rating", "stars", r"s\.csv is of events, which have no field 'stars' \(.*i\.csv is of titles, which have no"),
        ("rating", "title", r"s\.csv is of events, which have no field 'title' \(.*i\.csv has no column 'rating'"),
        ("title", "query", r"s\.csv has no column 'title' \(.*i\.csv is of titles, which have no field 'query'"),
    ],
)
def test_a_name_that_counts_for_neither_file_is_refused(tmp_path: Path, theirs: str, ours: str, said: str) -> None:
    items = tmp_path / "i.csv"
    items.write_text("item_id,title\n7,Heat\n")
    source = LogSource(str(_ratings(tmp_path)), items, replace(RATED, rename={theirs: ours}))
    with pytest.raises(BadInput, match=f"^--map {theirs}={ours}: .*{said}"):
        load_log(source, tmp_path, 2 * BEGIN_MS)


def test_a_file_without_a_good_row_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "clicks.jsonl", [{"type": "click", "user_id": "u1"}])
    with pytest.raises(BadInput, match="no row that can be read; the first: row 1"):
        load_log(LogSource(str(path)), tmp_path, BEGIN_MS)


@pytest.mark.parametrize(
    ("unused", "said"),
    [
        ({"items": Path("absent.csv")}, "--items"),
        ({"options": TableOptions({"a": "user_id"}, default_type="click")}, "--map, --type"),
        ({"options": TableOptions(times_in_s=True)}, "--time-unit s"),
    ],
)
def test_what_describes_a_file_of_events_is_refused_for_movielens(
    tmp_path: Path, unused: dict[str, Any], said: str
) -> None:
    (tmp_path / "u.data").write_text("")
    for name in ("movielens-100k", str(tmp_path)):
        with pytest.raises(BadInput, match=f"^{said} cannot go with .*{name}, which "):
            load_log(LogSource(name, **unused), tmp_path, BEGIN_MS)


def test_the_first_part_and_the_newest_part_keep_whole_labels() -> None:
    log = log_of_events([_click(f"t{place}", 100 * place) for place in range(10)])
    assert [label.item_id for label in first_part(log, None, 3).labels] == ["t0", "t1", "t2"]
    assert [label.item_id for label in first_part(log, 4, None).labels] == ["t0", "t1", "t2"]
    last = log.labels[-1].ts_ms
    assert [label.item_id for label in newest_part(log, last, 3).labels] == ["t6", "t7", "t8", "t9"]
    assert [label.item_id for label in newest_part(log, log.labels[4].ts_ms, 3).labels] == [
        f"t{one}" for one in range(1, 10)
    ]
    assert newest_part(log, last, 100) is log
