from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from infra.errors import BadInput
from streams.events import decode_engaged, encode_event
from streams.labels import Log
from streams.sources.globo import load_globo
from streams.sources.log_files import LogSource, load_log
from streams.sources.table import TableOptions

REAL = Path(__file__).parents[2] / "shared" / "data" / "globo" / "clicks_2017-10-01_08.parquet"
BEGIN_MS = 1_506_826_800_000
MINUTE_MS = 60_000


def _write(path: Path, rows: list[tuple[int, int, int, int]]) -> Path:
    """Rows of (user, session, article, time)."""
    names = ("user_id", "session_id", "click_article_id", "click_timestamp")
    table = pyarrow.table({name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)})
    pyarrow.parquet.write_table(table.append_column("click_os", pyarrow.array([1] * len(rows))), path)
    return path


def _sample(tmp_path: Path) -> Path:
    rows = [
        (user, 1000 + user, 50 + (user + place) % 40, BEGIN_MS + (user + 60 * place) * MINUTE_MS)
        for user in range(200)
        for place in range(3)
    ]
    return _write(tmp_path / "clicks.parquet", rows[::-1])


def _load(path: Path) -> Log:
    return load_log(LogSource(str(path)), path.parent, 0)


def test_a_sessions_first_click_is_pre_query_and_later_ones_get_either_task(tmp_path: Path) -> None:
    labels = _load(_sample(tmp_path)).labels
    assert len(labels) == 600
    assert [label.ts_ms for label in labels] == sorted(label.ts_ms for label in labels)
    seen: dict[str, str] = {}
    related = 0
    for label in labels:
        if label.session_id not in seen:
            assert label.task == "pre_query"
        elif label.task == "more_like_this":
            assert label.source_item_id == seen[label.session_id]
            related += 1
        seen[label.session_id] = label.item_id
    assert 150 < related < 250
    assert all(label.positive and len(label.events) == 1 for label in labels)
    assert all(label.events[0].source_item_id == label.source_item_id for label in labels)


def test_every_click_is_a_valid_event_with_an_id_of_its_own_whatever_the_rows_order(tmp_path: Path) -> None:
    log = _load(_sample(tmp_path))
    assert len({event.event_id for event in log.events}) == 600
    assert all(decode_engaged(encode_event(event)) == event for event in log.events)
    turned = pyarrow.parquet.read_table(tmp_path / "clicks.parquet").to_pylist()[::-1]
    other = tmp_path / "turned.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(turned), other)
    assert _load(other) == log


def test_rows_that_lack_a_value_are_left_out_and_counted(tmp_path: Path) -> None:
    path = _sample(tmp_path)
    whole = _load(path)
    rows = pyarrow.parquet.read_table(path).to_pylist()
    lacking = [rows[0] | {name: None} for name in ("user_id", "session_id", "click_article_id", "click_timestamp")]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([*rows, *lacking, rows[0] | {"click_os": None}]), path)
    log = _load(path)
    assert log.derived == f"{whole.derived}; 4 rows lack a value and are left out"
    assert len(log.labels) == len(whole.labels) + 1


def test_hours_and_events_limit_the_log(tmp_path: Path) -> None:
    path = _sample(tmp_path)
    assert len(load_globo(path, max_events=10).labels) == 10
    hour = load_globo(path, hours=1)
    assert {label.ts_ms - BEGIN_MS < 3_600_000 for label in hour.labels} == {True}
    assert len(hour.labels) == 60
    assert {item.item_id for item in hour.items} == {label.item_id for label in hour.labels}


@pytest.mark.parametrize(
    ("unused", "said"),
    [
        ({"items": Path("absent.csv")}, "--items"),
        ({"options": TableOptions(default_type="play")}, "--type"),
        ({"options": TableOptions(times_in_s=True)}, "--time-unit s"),
    ],
)
def test_what_describes_another_file_is_refused_unless_its_columns_are_named(
    tmp_path: Path, unused: dict[str, Any], said: str
) -> None:
    path = _sample(tmp_path)
    source = LogSource(str(path), **unused)
    with pytest.raises(BadInput, match=rf"^{said} cannot go with .*clicks\.parquet, .* --map click_article_id=item_id"):
        load_log(source, tmp_path, 0)
    columns = {"click_article_id": "item_id", "click_timestamp": "event_ts_ms"}
    named = LogSource(str(path), options=TableOptions(columns, default_type="click"))
    assert len(load_log(named, tmp_path, 2 * BEGIN_MS).labels) == 600


@pytest.mark.parametrize(
    ("name", "column", "says"),
    [
        ("click_timestamp", pyarrow.array([BEGIN_MS], pyarrow.timestamp("ms")), r"but timestamp\[ms\]"),
        ("click_timestamp", pyarrow.array([float(BEGIN_MS)]), "but double"),
        ("user_id", pyarrow.array([None], pyarrow.null()), "but null"),
        ("session_id", pyarrow.array(["s"]), "but string"),
    ],
)
def test_a_column_that_holds_no_whole_numbers_is_refused_with_the_way_out(
    tmp_path: Path, name: str, column: Any, says: str
) -> None:
    rows = {"user_id": [1], "session_id": [2], "click_article_id": [3], "click_timestamp": [BEGIN_MS], name: column}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "clicks.parquet")
    with pytest.raises(BadInput, match=rf"its column {name} holds no whole numbers {says}; .* --map click_article_id="):
        _load(tmp_path / "clicks.parquet")


def test_times_that_look_like_seconds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="look like seconds since 1970"):
        _load(_write(tmp_path / "clicks.parquet", [(1, 2, 3, BEGIN_MS // 1000)]))


def test_a_range_without_a_click_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no click in the range"):
        load_globo(_sample(tmp_path), max_events=0)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_file(), reason="the clicks of Globo.com are not here; they are not redistributed")
def test_the_real_clicks_load() -> None:
    log = load_globo(REAL, hours=24)
    assert len(log.labels) > 50_000
    assert {label.task for label in log.labels} == {"pre_query", "more_like_this"}
