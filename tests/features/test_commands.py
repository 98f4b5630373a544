"""`nowrank features show` and `read`, on a real Redis."""

import json
from collections.abc import Iterator

import pytest
import redis

from features.decay import DAY_MS
from features.delta import Delta, Entity, Signal
from features.engagement import Coordinate, Engagement, Kind
from features.online_store import FencedStore
from features.query import fold_query
from features.rows import QUERY, USER
from features.user import fold_user
from infra.clock import now_ms
from infra.settings import Settings
from nowrank.cli import main


@pytest.fixture(autouse=True)
def rows(settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One user who clicked a minute ago, and one query."""
    monkeypatch.setenv("NOWRANK_REDIS", settings.redis)
    monkeypatch.setenv("NOWRANK_STATE_DIR", str(settings.state_dir))
    store = FencedStore(settings.redis, settings.feast_project)
    [user], [query] = store.read_rows(USER, ["42"]), store.read_rows(QUERY, ["star wars"])
    at_ms = now_ms() - 60_000
    event = Engagement(
        kind=Kind.CLICK,
        event_id="e",
        user_id="42",
        event_ts_ms=at_ms,
        ingested_ts_ms=at_ms,
        item_id="película",
        query="star wars",
    )
    fold_user(user.state, Coordinate("clicks-0", 0), event)
    fold_query(query.state, Delta(Entity.QUERY, "star wars", "50", Signal.CLICK, 1, at_ms - DAY_MS, at_ms))
    assert store.write_rows([user, query]) == [True, True]
    yield
    store.close()


def test_show_tells_what_a_user_is_doing_and_likes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", "show", "42"]) == 0
    shown = capsys.readouterr().out
    assert "session: 1 engagements" in shown
    assert "click  película from 'star wars'" in shown
    assert "0.200  película" in shown


def test_show_says_which_user_has_no_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", "show", "42", "nobody"]) == 1
    assert "user nobody: no row" in capsys.readouterr().out


def test_read_prints_every_feature_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", "read", "session", "42"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert json.loads(lines["session_items"]) == ["película"]
    assert lines["session_packed"].endswith(" bytes")


def test_read_normalises_a_query_and_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", "read", "query", " Star WARS", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["query"], row["query_items"], row["query_clicks_14d"]) == (
        "star wars",
        ["50"],
        [pytest.approx(0.5 ** (1 / 14), rel=1e-3)],
    )


def test_read_fails_with_a_message_when_there_is_no_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", "read", "item", "nothing"]) == 1
    assert "no item row for 'nothing'" in capsys.readouterr().err


def test_a_store_that_does_not_answer_is_a_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOWRANK_REDIS", "127.0.0.1:1,password=hunter2")
    assert main(["features", "show", "42"]) == 1
    said = capsys.readouterr().err
    assert "does not answer" in said
    assert "hunter2" not in said


def test_no_known_store_is_a_message(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOWRANK_REDIS")
    assert main(["features", "read", "item", "50"]) == 1
    assert "nowrank up" in capsys.readouterr().err
