"""Anyone's own tables: each row becomes an event or a title, or is rejected with its number, field and rule."""

import errno
import json
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from kafka import KafkaConsumer, TopicPartition
from pyarrow import parquet

from features.catalogue import Item
from infra.clock import monotonic_s, now_ms
from infra.errors import BadInput, BrokerUnavailable, DeliveryFailed
from infra.settings import Settings
from nowrank.cli import main
from streams.audit.log_reader import LogReader
from streams.catalogue import encode_item
from streams.events import Click, Play, Thumb, decode_record
from streams.imports import CHUNK, import_events
from streams.log_ends import read_log_ends
from streams.progress import progress_bar
from streams.sources.log_files import LogSource, load_log
from streams.sources.shift import NEWEST_AGE_MS
from streams.sources.table import Rejection, Seen, TableOptions, read_events, read_items
from streams.sources.table_files import open_table
from streams.topics import ITEMS

NOW_MS = 1_700_000_000_000
PLAIN = TableOptions()


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def events_of(path: Path, options: TableOptions = PLAIN, seen: Seen | None = None) -> list[Any]:
    return list(read_events(path, options, NOW_MS, Seen() if seen is None else seen))


def rejection_of(path: Path, options: TableOptions = PLAIN) -> tuple[int, str, str | None]:
    (rejection,) = [result for result in events_of(path, options) if isinstance(result, Rejection)]
    return rejection.row, rejection.reason, rejection.field


def test_the_same_events_are_read_from_csv_tsv_json_lines_and_parquet(tmp_path: Path) -> None:
    shared = {"user_id": "u", "item_id": "7"}
    rows: list[dict[str, Any]] = [
        {"type": "click", "event_id": "a" * 16, **shared, "event_ts_ms": 5, "query": 'say "a, b"'},
        {"type": "play", "event_id": "b" * 16, **shared, "event_ts_ms": 6, "watched_ms": 1, "duration_ms": 2},
        {"type": "thumb", "event_id": "c" * 16, **shared, "user_id": "é", "event_ts_ms": 7, "value": "none"},
    ]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    full = [{name: row.get(name) for name in columns} for row in rows]
    expected = [
        Click(event_id="a" * 16, user_id="u", item_id="7", event_ts_ms=5, query='say "a, b"'),
        Play(event_id="b" * 16, user_id="u", item_id="7", event_ts_ms=6, watched_ms=1, duration_ms=2),
        Thumb(event_id="c" * 16, user_id="é", item_id="7", event_ts_ms=7, value="none"),
    ]

    def cells(separator: str) -> str:
        lines = [separator.join(columns)]
        for row in full:
            quoted = ('"' + str("" if value is None else value).replace('"', '""') + '"' for value in row.values())
            lines.append(separator.join(quoted))
        return "\ufeff" + "\r\n".join(lines) + "\r\n"

    parquet.write_table(pyarrow.Table.from_pylist(full), tmp_path / "e.parquet")
    assert events_of(written(tmp_path / "e.csv", cells(","))) == expected
    assert events_of(written(tmp_path / "e.tsv", cells("\t"))) == expected
    assert events_of(written(tmp_path / "e.jsonl", "\ufeff" + "\n".join(map(json.dumps, rows)))) == expected
    assert events_of(tmp_path / "e.parquet") == expected


HEADER = "type,event_id,user_id,item_id,event_ts_ms,position,watched_ms,duration_ms,value,country\n"


@pytest.mark.parametrize(
    ("row", "reason", "field"),
    [
        ("like,aaaaaaaaaaaaaaaa,u,i,5,,,,,", "unknown_type", "type"),
        (",aaaaaaaaaaaaaaaa,u,i,5,,,,,", "missing_field", "type"),
        ("click,aaaaaaaaaaaaaaaa,,i,5,,,,,", "missing_field", "user_id"),
        ("click,short,u,i,5,,,,,", "invalid_field", "event_id"),
        ("click,aaaaaaaaaaaaaaaa,u,i,yesterday,,,,,", "invalid_field", "event_ts_ms"),
        ("click,aaaaaaaaaaaaaaaa,u,i,nan,,,,,", "invalid_field", "event_ts_ms"),
        ("click,aaaaaaaaaaaaaaaa,u,i,inf,,,,,", "invalid_field", "event_ts_ms"),
        ("click,aaaaaaaaaaaaaaaa,u,i,5.5,,,,,", "invalid_field", "event_ts_ms"),
        ("click,aaaaaaaaaaaaaaaa,u,i,-5,,,,,", "invalid_field", "event_ts_ms"),
        ("click,aaaaaaaaaaaaaaaa,u,i,1_400_000_000_000,,,,,", "invalid_field", "event_ts_ms"),
        ("click,aaaaaaaaaaaaaaaa,u,i,1_400.0,,,,,", "invalid_field", "event_ts_ms"),
        ("click,aaaaaaaaaaaaaaaa,u,i,\u0661\u0662,,,,,", "invalid_field", "event_ts_ms"),
        ("click,aaaaaaaaaaaaaaaa,u,i,\uff15.0,,,,,", "invalid_field", "event_ts_ms"),
        ("click,aaaaaaaaaaaaaaaa,u,i,5,1_0,,,,", "invalid_field", "position"),
        ("click,aaaaaaaaaaaaaaaa,u,i,5,\u0661,,,,", "invalid_field", "position"),
        (f"click,aaaaaaaaaaaaaaaa,u,i,{NOW_MS + 300_001},,,,,", "future_timestamp", "event_ts_ms"),
        (f"click,aaaaaaaaaaaaaaaa,u,{'i' * 10_000},5,,,,,", "invalid_field", "item_id"),
        ("click,aaaaaaaaaaaaaaaa,u,i,5,0,,,,", "invalid_field", "position"),
        ("play,aaaaaaaaaaaaaaaa,u,i,5,,-1,2,,", "invalid_field", "watched_ms"),
        ("play,aaaaaaaaaaaaaaaa,u,i,5,,1,,,", "missing_field", "duration_ms"),
        ("thumb,aaaaaaaaaaaaaaaa,u,i,5,,,,sideways,", "invalid_field", "value"),
        ("click,aaaaaaaaaaaaaaaa,u,i,5,,,,,usa", "invalid_field", "country"),
        ("click,aaaaaaaaaaaaaaaa,u,i,5", "malformed_row", None),
        ("click,aaaaaaaaaaaaaaaa,u,i,5,,,,,,,,", "malformed_row", None),
        (f'click,aaaaaaaaaaaaaaaa,u,"{"i" * 200_000}",5,,,,,', "malformed_row", None),
        (b"click,aaaaaaaaaaaaaaaa,\xff,i,5,,,,,", "malformed_row", None),
        ('click,aaaaaaaaaaaaaaaa,u,i,5,,,,,"', "malformed_row", None),
        ('click,aaaaaaaaaaaaaaaa,u,"i,5,,,,,', "malformed_row", None),
        ('click,aaaaaaaaaaaaaaaa,u,"i"j,5,,,,,', "malformed_row", None),
    ],
)
def test_a_bad_csv_row_is_named_and_its_neighbours_are_read(
    tmp_path: Path, row: str | bytes, reason: str, field: str | None
) -> None:
    good = b"click,aaaaaaaaaaaaaaaa,u,i,5,,,,,\n"
    bad = row if isinstance(row, bytes) else row.encode()
    path = written(tmp_path / "e.csv", HEADER.encode() + good + bad + b"\n" + good)
    assert rejection_of(path) == (2, reason, field)
    assert [isinstance(result, Click) for result in events_of(path)] == [True, False, True]


def test_quotes_that_nobody_closes_spoil_their_own_rows_alone_and_quoted_cells_may_have_several_lines(
    tmp_path: Path,
) -> None:
    good, bad = 'click,u,i,5,"two\nlines"\n', 'click,u,i,5,"one\n'
    path = written(tmp_path / "e.csv", f"type,user_id,item_id,event_ts_ms,note\n{good}{bad}{good}{bad}{bad}{good}{bad}")
    seen = Seen()
    results = events_of(path, seen=seen)
    assert [isinstance(result, Click) for result in results] == [True, False, True, False, False, True, False]
    assert seen.rows == 7


TSV_HEADER = "type\tuser_id\titem_id\tevent_ts_ms\tquery\n"


def test_a_quote_in_a_tsv_file_is_text_and_swallows_no_row(tmp_path: Path) -> None:
    queries = ['"Live', "plain", 'Session"', '"Heroes" (live)', '"A" and "B"', '"', '"""']
    path = written(tmp_path / "e.tsv", TSV_HEADER + "".join(f"click\tu\ti\t5\t{query}\n" for query in queries))
    assert [event.query for event in events_of(path)] == queries


def test_a_cell_of_a_tsv_file_that_is_wholly_in_quotes_is_what_they_hold_and_never_more_than_its_cell(
    tmp_path: Path,
) -> None:
    whole = [('"Heroes"', "Heroes"), ('"say ""a"""', 'say "a"'), ('"""Heroes"""', '"Heroes"'), ('""', None)]
    rows = [f"click\tu\ti\t5\t{cell}\n" for cell, _ in whole]
    path = written(tmp_path / "e.tsv", TSV_HEADER + "".join(rows) + 'click\tu\t"i\tj"\t5\tx\nclick\tu\t"i\nj"\t5\tx\n')
    *good, with_tab, begins, ends = events_of(path)
    assert [event.query for event in good] == [query for _, query in whole]
    assert [one.message for one in (with_tab, begins, ends)] == [
        f"it has {count} cells, the header 5" for count in (6, 3, 3)
    ]


def test_parquet_that_python_has_no_values_for_is_named_by_its_row_unless_nobody_wants_it(tmp_path: Path) -> None:
    rows = {"type": ["click"] * 3, "user_id": ["u"] * 3, "item_id": ["i"] * 3}
    far = pyarrow.array([5, 2**60, 6], pyarrow.timestamp("ms"))
    times = pyarrow.array([5, 6, 7])
    parquet.write_table(pyarrow.table({**rows, "event_ts_ms": times, "query": far}), tmp_path / "wanted.parquet")
    parquet.write_table(pyarrow.table({**rows, "event_ts_ms": times, "made": far}), tmp_path / "ignored.parquet")
    results = events_of(tmp_path / "wanted.parquet")
    assert [result.reason for result in results] == ["invalid_field", "malformed_row", "invalid_field"]
    seen = Seen()
    assert len(events_of(tmp_path / "ignored.parquet", seen=seen)) == 3
    assert seen.ignored_columns == {"made"}


AT = datetime(2023, 11, 14, 12, 13, 20, 123_456, tzinfo=UTC)
AT_MS = 1_699_964_000_123


@pytest.mark.parametrize("in_s", [False, True])
@pytest.mark.parametrize(
    ("times", "at_ms"),
    [
        (pyarrow.array([AT], pyarrow.timestamp("ns", "Asia/Tokyo")), AT_MS),
        (pyarrow.array([AT], pyarrow.timestamp("us", "Nowhere/None")), AT_MS),
        (pyarrow.array([AT.replace(tzinfo=None)], pyarrow.timestamp("ns")), AT_MS),
        (pyarrow.array([AT.replace(tzinfo=None)], pyarrow.timestamp("ms")), AT_MS),
        (pyarrow.array([AT_MS // 1000], pyarrow.timestamp("s")), AT_MS - 123),
        (pyarrow.array([AT.date()]), 1_699_920_000_000),
        (pyarrow.array(["2023-11-14T21:13:20.123456+09:00"]), AT_MS),
        (pyarrow.array([" 2023-11-14 12:13:20.123Z "]), AT_MS),
    ],
)
def test_times_that_say_their_unit_are_taken_as_milliseconds_whatever_the_unit_of_numbers(
    tmp_path: Path, times: Any, at_ms: int, in_s: bool
) -> None:
    rows = {"type": ["click"], "user_id": ["u"], "item_id": ["i"], "event_ts_ms": times}
    parquet.write_table(pyarrow.table(rows), tmp_path / "e.parquet")
    (event,) = events_of(tmp_path / "e.parquet", TableOptions(times_in_s=in_s))
    assert event.event_ts_ms == at_ms


def test_times_in_text_files_may_be_iso_8601_with_an_offset(tmp_path: Path) -> None:
    times = ("2023-11-14T12:13:20.123Z", "2023-11-14T12:13:20", "2023-11-14", f"{AT_MS}")
    lines = "".join(f"click,u,i,{one}\n" for one in times)
    results = events_of(written(tmp_path / "e.csv", f"type,user_id,item_id,event_ts_ms\n{lines}"))
    assert [getattr(one, "event_ts_ms", None) for one in results] == [AT_MS, None, None, AT_MS]
    assert results[1].message.startswith("'2023-11-14T12:13:20' is no time; give whole milliseconds since 1970, ")
    assert results[1].message.endswith("ISO 8601 with Z or an offset")


def test_whole_numbers_of_any_kind_are_ids_and_times_by_their_digits(tmp_path: Path) -> None:
    shared = {"type": ["click"] * 4, "item_id": pyarrow.array([7, 8, None, 2**53], pyarrow.float64())}
    users = pyarrow.array([Decimal("123456789012345678901"), Decimal("7.5"), Decimal(1), Decimal(1)])
    times = pyarrow.array([Decimal("5.000")] * 4)
    table = pyarrow.table({**shared, "user_id": users, "event_ts_ms": times})
    parquet.write_table(table, tmp_path / "e.parquet")
    good, *bad = events_of(tmp_path / "e.parquet")
    assert (good.user_id, good.item_id, good.event_ts_ms) == ("123456789012345678901", "7", 5)
    assert [(one.field, one.message) for one in bad[::2]] == [
        ("user_id", "7.5 is no id; give text or a whole number"),
        ("item_id", "9007199254740992.0 is no id; give text or a whole number"),
    ]
    assert (bad[1].reason, bad[1].field) == ("missing_field", "item_id")


@pytest.mark.parametrize(
    ("field", "column", "says"),
    [
        ("user_id", pyarrow.array([AT]), "a timestamp is no id"),
        ("user_id", pyarrow.array([b"u"]), "binary data is no id"),
        ("user_id", pyarrow.array([["u"]]), "a list is no id"),
        ("event_ts_ms", pyarrow.array([timedelta(seconds=5)]), "a duration is no time; give whole milliseconds"),
        ("event_ts_ms", pyarrow.array([True]), "a truth value is no time"),
        ("position", pyarrow.array([AT.date()]), "a date is no whole number"),
    ],
)
def test_what_a_field_cannot_be_made_of_is_called_by_its_kind(
    tmp_path: Path, field: str, column: Any, says: str
) -> None:
    rows = {"type": ["click"], "user_id": ["u"], "item_id": ["i"], "event_ts_ms": [5], field: column}
    parquet.write_table(pyarrow.table(rows), tmp_path / "e.parquet")
    (bad,) = events_of(tmp_path / "e.parquet")
    assert (bad.reason, bad.field) == ("invalid_field", field)
    assert says in bad.message


def test_a_folder_of_parquet_parts_is_one_file_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "events.parquet"
    folder.mkdir()
    rows = {"type": ["click"] * 2, "user_id": ["u"] * 2, "item_id": ["i"] * 2}
    for name, times in (("part-1.parquet", [7, -8]), ("part-0.parquet", [5, 6])):
        parquet.write_table(pyarrow.table({**rows, "event_ts_ms": times}), folder / name)
    written(folder / "_SUCCESS", "")
    *good, bad = events_of(folder)
    assert [event.event_ts_ms for event in good] == [5, 6, 7]
    assert bad.row == 4
    assert len(load_log(LogSource(str(folder)), tmp_path, NOW_MS).labels) == 1
    parquet.write_table(pyarrow.table(rows), folder / "part-2.parquet")
    with pytest.raises(
        BadInput, match=r"part-2\.parquet has the columns type, user_id, item_id; .*part-0\.parquet has"
    ):
        events_of(folder)


def test_a_folder_of_partitions_is_said_to_be_no_log_by_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (tmp_path / "events", tmp_path / "events.parquet"):
        (folder / "date=2023-01-01").mkdir(parents=True)
        written(folder / "date=2023-01-01" / "part-0.parquet", "")
        for command in (["import", "--dry-run"], ["evaluate"], ["train", "--out", str(tmp_path / "artifact")]):
            assert main([*command, str(folder)]) == 1
            said = capsys.readouterr().err
            assert said.startswith(
                f"nowrank: {folder} is a folder that holds no .parquet file itself; those of folders "
            )


@pytest.mark.parametrize("default_type", [None, "click"])
def test_a_type_that_is_none_of_ours_is_rejected_under_any_name_and_beside_any_default(
    tmp_path: Path, default_type: str | None
) -> None:
    rows = [{"kind": kind, "user_id": "u", "item_id": "i", "event_ts_ms": 5} for kind in ("like", "Click", "search", 7)]
    options = TableOptions({"kind": "type"}, default_type=default_type)
    results = events_of(written(tmp_path / "e.jsonl", "\n".join(map(json.dumps, rows))), options)
    assert [(one.reason, one.field) for one in results] == [("unknown_type", "type")] * 3 + [("invalid_field", "type")]


def test_a_parquet_file_with_a_column_twice_is_refused_as_a_csv_is(tmp_path: Path) -> None:
    cells = [
        pyarrow.array(["click"]),
        pyarrow.array(["u"]),
        pyarrow.array(["i"]),
        pyarrow.array([5]),
        pyarrow.array([6]),
    ]
    names = ["type", "user_id", "item_id", "event_ts_ms", "event_ts_ms"]
    parquet.write_table(pyarrow.table(cells, names), tmp_path / "e.parquet")
    with pytest.raises(BadInput, match="must have each column once; it has type, user_id, item_id, event_ts_ms, event"):
        events_of(tmp_path / "e.parquet")


def test_a_damaged_parquet_file_says_how_far_it_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    rows = {"type": ["click"] * 3, "user_id": ["u"] * 3, "item_id": ["i"] * 3, "event_ts_ms": [5] * 3}
    parquet.write_table(pyarrow.table(rows), path, compression="none")
    content = path.read_bytes()
    written(path, content[:4] + b"\xff" * 40 + content[44:])
    with pytest.raises(BadInput, match="cannot be read beyond row 0"):
        events_of(path)


def test_a_header_that_is_not_utf8_is_said_before_anything_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "e.csv", b"type,user_id,item_id,event_ts_ms,pr\xe9nom\nclick,u,i,5,x\n")
    with pytest.raises(BadInput, match="its first line cannot be read"):
        events_of(path)


@pytest.mark.parametrize(
    ("line", "reason", "field"),
    [
        ("{", "malformed_json", None),
        ("[]", "malformed_json", None),
        ('{"event_ts_ms": NaN}', "malformed_json", None),
        ('{"type":"click","user_id":1.5,"item_id":"i","event_ts_ms":1}', "invalid_field", "user_id"),
        ('{"type":"click","user_id":true,"item_id":"i","event_ts_ms":1}', "invalid_field", "user_id"),
        ('{"type":"click","user_id":"u","item_id":"i","event_ts_ms":true}', "invalid_field", "event_ts_ms"),
        ('{"type":"click","user_id":"u","item_id":"i","event_ts_ms":"1"}', "invalid_field", "event_ts_ms"),
        ('{"type":"click","user_id":"u","item_id":"","event_ts_ms":1}', "invalid_field", "item_id"),
        ('{"type":"click","x":"' + "x" * 70_000 + '"}', "oversized", None),
    ],
)
def test_a_bad_json_line_is_named_by_its_line(tmp_path: Path, line: str, reason: str, field: str | None) -> None:
    good = '{"type":"click","user_id":7,"item_id":8,"event_ts_ms":1.0}'
    path = written(tmp_path / "e.jsonl", f"{good}\n\n{line}\n{good}\n")
    assert rejection_of(path) == (3, reason, field)
    first = events_of(path)[0]
    assert (first.user_id, first.item_id, first.event_ts_ms) == ("7", "8", 1)


def test_a_json_line_that_has_a_field_and_a_column_mapped_to_it_is_named_by_both(tmp_path: Path) -> None:
    shared = '"type":"click","item_id":"i","event_ts_ms":5'
    rows = (
        f'{{"user_id":"u","household":"h",{shared}}}',
        f'{{"household":"h",{shared}}}',
        f'{{"user_id":"u",{shared}}}',
    )
    path = written(tmp_path / "e.jsonl", "\n".join(rows))
    bad, *good = events_of(path, TableOptions({"household": "user_id"}))
    assert (bad.reason, bad.field) == ("invalid_field", "user_id")
    assert "'household' is mapped to 'user_id', which the row has too" in bad.message
    assert [event.user_id for event in good] == ["h", "u"]


def test_a_rejection_reads_well(tmp_path: Path) -> None:
    path = written(tmp_path / "e.csv", "type,user_id,item_id,event_ts_ms,position\nclick,u,i,5,soon\n")
    assert str(events_of(path)[0]) == "row 1: position: 'soon' is no whole number (invalid_field)"


def test_columns_are_mapped_times_may_be_seconds_and_one_type_may_serve_all_rows(tmp_path: Path) -> None:
    path = written(tmp_path / "e.csv", "customer,sku,when,shop\nann,7,1600000000.25,berlin\n")
    seen = Seen()
    options = TableOptions({"customer": "user_id", "sku": "item_id", "when": "event_ts_ms"}, True, "click")
    (event,) = events_of(path, options, seen)
    assert (event.user_id, event.item_id, event.event_ts_ms) == ("ann", "7", 1_600_000_000_250)
    assert (seen.rows, seen.made_ids, seen.ignored_columns) == (1, 1, {"shop"})


def log_with_times(path: Path, times: Iterable[Any]) -> Path:
    """A CSV file of clicks, and a row that is none, at a time unlike theirs."""
    rows = "".join(f"click,u,i,{one}\n" for one in times)
    return written(path, f"type,user_id,item_id,when\n{rows}like,u,i,{NOW_MS}\n")


WHEN = {"when": "event_ts_ms"}


@pytest.mark.parametrize(
    ("times", "says"),
    [
        (
            (1_400_000_000, "1407776000.0"),
            "1400000000 to 1407776000, look like seconds .*: read them with --time-unit s",
        ),
        ((315_532_800, 4_102_444_800), "315532800 to 4102444800, look like seconds since 1970, not like milliseconds"),
        ((20_200_705, 20_191_231), r"20191231 to 20200705, look like dates \(YYYYMMDD\), .*2020-07-05T00:00:00Z"),
        ((19_000_101, 21_001_231), "look like dates"),
    ],
)
def test_times_that_all_look_like_seconds_or_dates_are_not_read_as_milliseconds_by_any_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], times: tuple[Any, ...], says: str
) -> None:
    path = log_with_times(tmp_path / "e.csv", times)
    with pytest.raises(BadInput, match=f"e.csv: its times, .*{says}") as refused:
        events_of(path, TableOptions(WHEN))
    assert refused.value.reason == "invalid_field"
    for command in (["import", "--dry-run"], ["dataset", "--out", str(tmp_path / "built")], ["evaluate"], ["train"]):
        assert main([*command, "--map", "when=event_ts_ms", str(path)]) == 1
        assert capsys.readouterr().err.startswith(f"nowrank: {path}: its times, ")


@pytest.mark.parametrize(
    "times",
    [
        (0, 1000, 400_000_000),
        (1_400_000_000, 1_400_000_000_000),
        (20_200_705, 1_400_000_000),
        ("1970-01-01T00:00:00Z", "1970-01-11T00:00:00Z"),
    ],
)
def test_times_that_count_from_a_logs_own_beginning_stay_what_they_are(tmp_path: Path, times: tuple[Any, ...]) -> None:
    *good, bad = events_of(log_with_times(tmp_path / "e.csv", times), TableOptions(WHEN))
    assert len(good) == len(times)
    assert (bad.reason, bad.field) == ("unknown_type", "type")


def test_times_that_are_said_to_be_seconds_are_not_doubted(tmp_path: Path) -> None:
    path = log_with_times(tmp_path / "e.csv", (1_400_000, 1_400_001))
    assert [event.event_ts_ms for event in events_of(path, TableOptions(WHEN, True))[:2]] == [
        1_400_000_000,
        1_400_001_000,
    ]


def test_ids_like_floats_are_taken_as_written_and_said_so_as_are_titles_and_sources_that_the_catalogue_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "click,u,7,5,\nclick,u,8,6,7.0\nclick,u,9,7,9\n"
    path = written(tmp_path / "e.csv", f"type,user_id,item_id,event_ts_ms,source_item_id\n{rows}")
    items = written(tmp_path / "i.csv", "item_id,title\n7,Heat\n8,Ran\n")
    assert [event.source_item_id for event in events_of(path)] == [None, "7.0", "9"]
    said = load_log(LogSource(str(path), items), tmp_path, NOW_MS).derived
    assert "; 1 of 3 titles are not in i.csv; 2 of 2 sources are not in i.csv; ids like 7.0 are not" in said
    assert said.endswith(": source_item_id")
    assert main(["import", str(path), "--dry-run"]) == 0
    assert "so not the ids 7: source_item_id" in capsys.readouterr().out
    whole = written(tmp_path / "w.csv", "type,user_id,item_id,event_ts_ms\nclick,u,7,5\nclick,u.0,8,6\n")
    derived = load_log(LogSource(str(whole), items), tmp_path, NOW_MS).derived
    assert "not in" not in derived
    assert "7.0" not in derived


def test_a_made_id_is_the_same_each_time_and_differs_by_row(tmp_path: Path) -> None:
    path = written(tmp_path / "e.csv", "type,user_id,item_id,event_ts_ms\n" + "click,u,i,5\n" * 2)
    first, second = events_of(path)
    assert [event.event_id for event in events_of(path)] == [first.event_id, second.event_id]
    assert first.event_id != second.event_id
    assert uuid.UUID(first.event_id).version == 5


@pytest.mark.parametrize(
    ("name", "content", "rename", "says"),
    [
        ("absent.csv", None, {}, "is no file"),
        ("e.xlsx", "", {}, "'.xlsx'"),
        ("e.csv", "", {}, "must name each column once"),
        ("e.csv", "a,a\n", {}, "must name each column once"),
        ("e.csv", "type,who,item_id,event_ts_ms\n", {}, "no column user_id"),
        ("e.csv", "type,who,item_id,event_ts_ms\n", {"who": "name"}, "there is no field 'name'"),
        ("e.csv", "type,who,item_id,event_ts_ms\n", {"whom": "user_id"}, "no column 'whom'"),
        ("e.csv", "type,who,user_id,item_id,event_ts_ms\n", {"who": "user_id"}, "has a column 'user_id' already"),
        ("e.parquet", "not parquet", {}, "is no Parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_at_all_says_why(
    tmp_path: Path, name: str, content: str | None, rename: dict[str, str], says: str
) -> None:
    if content is not None:
        written(tmp_path / name, content)
    with pytest.raises(BadInput, match=says):
        events_of(tmp_path / name, TableOptions(rename))


def test_titles_are_read_from_csv_and_json_lines(tmp_path: Path) -> None:
    expected = Item(
        item_id="1",
        title="A",
        genres=("War", "Drama"),
        people=("Tom Hanks", "Bo"),
        year=1999,
        countries=("US",),
        deleted=True,
    )
    cells = "item_id,title,genres,people,year,countries,deleted\n1,A,War|Drama,Tom Hanks|Bo,1999,US,true\n"
    csv_file = written(tmp_path / "i.csv", cells)
    fields = '"item_id":1,"title":"A","genres":["War","Drama"],"people":["Tom Hanks","Bo"],"year":1999'
    json_file = written(tmp_path / "i.jsonl", f'{{{fields},"countries":["US"],"deleted":true}}\n')
    assert list(read_items(csv_file, PLAIN, Seen())) == list(read_items(json_file, PLAIN, Seen())) == [expected]
    bad = written(tmp_path / "b.csv", "item_id,title,deleted\n1,,no\n2,B,maybe\n")
    assert [(row.row, row.field) for row in read_items(bad, PLAIN, Seen()) if isinstance(row, Rejection)] == [
        (1, "title"),
        (2, "deleted"),
    ]


@pytest.fixture
def environment(topics: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """This process's environment as somebody sets it who uses the command line."""
    monkeypatch.setenv("NOWRANK_KAFKA", topics.kafka)
    monkeypatch.setenv("NOWRANK_STATE_DIR", str(topics.state_dir))
    return topics


def clicks_of(settings: Settings, user: str) -> list[Click]:
    consumer = KafkaConsumer(bootstrap_servers=settings.kafka, group_id=None, auto_offset_reset="earliest")
    try:
        partitions = [TopicPartition("clicks", number) for number in consumer.partitions_for_topic("clicks")]
        ends = read_log_ends(consumer, partitions)
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        found = []
        deadline_s = monotonic_s() + 20
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            assert monotonic_s() < deadline_s
            for batch in consumer.poll(timeout_ms=200).values():
                found += [decode_record("clicks", record.value) for record in batch if record.key == user.encode()]
        return found  # type: ignore[return-value]
    finally:
        consumer.close()


def test_an_import_publishes_the_good_rows_names_the_bad_ones_and_exits_with_1(
    tmp_path: Path, environment: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    user = f"user-{uuid.uuid4()}"
    rows = "".join(f"click,{user},{item},{when},x\n" for item, when in (("a", 1000), ("b", "soon"), ("c", 3000)))
    path = written(tmp_path / "e.csv", f"type,user_id,item_id,event_ts_ms,mood\n{rows}")
    rejects = tmp_path / "rejects.jsonl"
    assert main(["import", str(path), "--json", "--rejects", str(rejects)]) == 1
    summary = json.loads(capsys.readouterr().out)
    assert (summary["rows"], summary["published"], summary["events"]) == (3, 2, {"click": 2})
    assert (summary["rejected"], summary["made_event_ids"]) == ({"invalid_field": 1}, 2)
    assert summary["ignored_columns"] == ["mood"]
    assert summary["rejections"] == [json.loads(rejects.read_text())]
    assert (summary["rejections"][0]["row"], summary["rejections"][0]["field"]) == (2, "event_ts_ms")
    first, second = clicks_of(environment, user)
    assert (first.item_id, second.item_id) == ("a", "c")
    assert second.event_ts_ms - first.event_ts_ms == 2_000
    assert abs(now_ms() - NEWEST_AGE_MS - second.event_ts_ms) < 60_000


def test_an_import_keeps_times_when_it_is_told_to_and_a_dry_run_publishes_nothing(
    tmp_path: Path, environment: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    user = f"user-{uuid.uuid4()}"
    path = written(tmp_path / "e.jsonl", f'{{"type":"click","user_id":"{user}","item_id":"a","event_ts_ms":1000}}\n')
    assert main(["import", str(path), "--dry-run"]) == 0
    assert "nothing was published" in capsys.readouterr().out
    assert clicks_of(environment, user) == []
    assert main(["import", str(path), "--keep-time"]) == 0
    assert [click.event_ts_ms for click in clicks_of(environment, user)] == [1_000]


def test_an_import_of_titles_lands_in_the_catalogue(
    tmp_path: Path, environment: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    item_id = f"item-{uuid.uuid4()}"
    path = written(tmp_path / "i.csv", f"item_id,title\n{item_id},Heat\n")
    assert main(["import", str(path), "--items"]) == 0
    assert "1 titles" in capsys.readouterr().out
    with LogReader(environment) as reader:
        [span] = reader.spans([ITEMS]).values()
        assert encode_item(Item(item_id=item_id, title="Heat")) in [record.value for record in reader.read_span(span)]


def test_the_import_command_says_what_is_missing(
    tmp_path: Path, environment: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(tmp_path / "absent.csv")]) == 1
    assert "absent.csv is no file" in capsys.readouterr().err
    assert main(["import", "movielens-100k"]) == 1
    assert "nowrank data get movielens-100k" in capsys.readouterr().err


def test_what_describes_a_file_cannot_go_with_a_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    described = ["--map", "a=item_id", "--type", "play", "--time-unit", "s"]
    assert main(["import", "movielens-100k", "--items", "--dry-run", *described]) == 1
    assert "nowrank: --map, --type, --time-unit s cannot go with movielens-100k, which" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["e.csv", "e.tsv", "e.jsonl", "e.parquet"])
def test_a_file_that_may_not_be_read_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def closed(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")  # to root nothing is closed

    path = written(tmp_path / name, "x")
    monkeypatch.setattr(Path, "open", closed)
    monkeypatch.setattr(parquet, "ParquetFile", closed)
    with pytest.raises(BadInput, match=f"{name} cannot be read: Permission denied; see who may read it"):
        open_table(path)


@pytest.mark.parametrize("name", ["e.csv", "e.jsonl"])
def test_a_file_whose_disk_fails_while_it_is_read_is_said_so(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/proc/self/mem")  # opens; nothing is at its beginning
    with pytest.raises(BadInput, match="cannot be read: Input/output error"):
        list(open_table(tmp_path / name)[1])


@pytest.mark.parametrize(
    "command",
    [["import", "--dry-run"], ["import", "--dry-run", "--rejects"], ["evaluate"], ["train", "history", "--out"]],
)
def test_a_file_that_cannot_even_be_looked_for_is_said_so_and_not_of_the_file_to_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    writes = command[-1] in ("--rejects", "--out")
    name = f"{'x' * 300}.csv"
    assert main([*command, *([str(tmp_path / "new")] if writes else []), name]) == 1
    assert f"{name} cannot be read: File name too long" in capsys.readouterr().err


class LosesItsBroker:
    """A producer that cannot send its second chunk, and learns that two of the first one were lost."""

    sent = 0

    def send_many(self, events: list[Any]) -> int:
        if self.sent:
            raise BrokerUnavailable("no broker answers")
        self.sent = len(events)
        return self.sent

    def flush(self) -> None:
        raise DeliveryFailed([(0, "expired"), (1, "expired")])


def test_an_import_that_loses_its_broker_accounts_for_every_row(tmp_path: Path) -> None:
    rows = "".join(f"click,u{number},i,{number}\n" for number in range(CHUNK + 1))
    path = written(tmp_path / "e.csv", f"type,user_id,item_id,event_ts_ms\n{rows}click,u,i,soon\n")
    summary = import_events(path, PLAIN, NOW_MS, LosesItsBroker(), progress_bar)  # type: ignore[arg-type]
    assert (summary.rows, summary.published, summary.not_acknowledged) == (CHUNK + 2, CHUNK - 2, 3)
    assert (len(summary.rejections), summary.cause) == (1, "no broker answers")


def test_a_file_of_rejects_that_cannot_be_written_is_said_before_anything_is_published(
    tmp_path: Path, environment: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    user = f"user-{uuid.uuid4()}"
    path = written(tmp_path / "e.csv", f"type,user_id,item_id,event_ts_ms\nclick,{user},i,5\n")
    assert main(["import", str(path), "--rejects", str(path / "r.jsonl")]) == 1
    assert "e.csv is a file; name another path" in capsys.readouterr().err
    assert clicks_of(environment, user) == []


@pytest.mark.parametrize("options", [["--dry-run"], ["--items", "--dry-run"], []])
def test_rejected_rows_are_not_written_over_the_file_that_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    path = written(tmp_path / "e.csv", "type,user_id,item_id,event_ts_ms\nclick,u,i,soon\n")
    before, link = path.read_bytes(), tmp_path / "link.csv"
    link.symlink_to(path)
    for given in (path, link):
        assert main(["import", str(path), "--rejects", str(given), *options]) == 1
        assert "is also what is read" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_an_address_that_is_none_is_said_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NOWRANK_KAFKA", "localhost:abc")
    for command in (["topics", "list"], ["topics", "create"]):
        assert main(command) == 1
        assert "localhost:abc" in capsys.readouterr().err


def test_the_topics_command_lists_what_is_there(environment: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topics", "create"]) == 0
    assert main(["topics", "list"]) == 0
    assert f"{environment.partitions} partitions" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["data", "import", "topics"])
def test_every_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "examples:" in capsys.readouterr().out
