"""The request's rows: two round trips at most, a deadline, and no exception whatever the store does."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import redis

from features.engagement import Kind
from features.rows import CONTAINED_FIELD, QUERY, SOURCE_ITEM, USER, RowFamily, encode_value
from features.session import GAP_MS
from features.spec import DType
from infra.clock import now_ms
from infra.errors import StoreTimeout, StoreUnavailable
from infra.redaction import hash_id
from infra.settings import Settings
from serving.breaker import Breaker, BreakerRule
from serving.rank import _degraded, to_status
from serving.redis_link import MAX_WAITING, Command, RedisLink
from serving.store_reader import MAX_REMEMBERED, RowKeys, RowsRead, StoreReader
from tests.serving.world import World

DAY_MS = 86_400_000


@pytest.fixture
def filled(settings: Settings, redis_client: redis.Redis) -> Settings:
    world = World(settings)
    world.engage("ann", "t1", query="far", source_item_id="t2", country="DE")
    world.engage("old", "t1", age_ms=400 * DAY_MS, query="ancient")
    world.engage("ann", "t3", Kind.CLICK)
    world.close()
    return settings


def read(settings: Settings, keys: RowKeys, now_ms: int) -> RowsRead:
    async def once() -> RowsRead:
        reader = StoreReader(settings.redis, settings.feast_project)
        try:
            return await reader.read(keys, now_ms, 5.0)
        finally:
            await reader.close()

    return asyncio.run(once())


def test_all_four_rows_come_in_one_answer(filled: Settings) -> None:
    rows = read(filled, RowKeys("ann", "far", "t2", "DE"), now_ms())
    assert rows.store == "ok"
    assert rows.user_status == "fresh"
    assert [moment.item_id for moment in rows.user.recent] == ["t1", "t3"]
    assert {name: list(state.targets) for name, state in rows.targets.items()} == {
        "query": ["t1"],
        "source_item": ["t1"],
        "country": ["t1"],
    }
    assert set(rows.contained) == {"user", "query", "source_item", "country", "source_item:t1", "source_item:t3"}


def test_the_rows_of_the_sessions_newest_titles_come_with_them(filled: Settings) -> None:
    """Three of them, and none twice."""
    world = World(filled)
    for item_id in ("t4", "t5", "t2"):
        world.engage("bea", item_id, Kind.CLICK)
    world.close()
    rows = read(filled, RowKeys("bea", None, None, None), now_ms())
    assert {name for name in rows.contained if name != "user"} == {f"source_item:{one}" for one in ("t2", "t4", "t5")}
    assert {name: list(row.targets) for name, row in rows.targets.items()} == {"source_item:t2": ["t1"]}
    assert list(rows.source_rows(None)) == ["t2"]

    asked = read(filled, RowKeys("bea", None, "t2", None), now_ms())
    assert asked.contained["source_item:t2"] == asked.contained["source_item"]
    assert asked.targets["source_item:t2"] is asked.targets["source_item"]
    assert list(asked.source_rows("t2")) == ["t2"]
    later = read(filled, RowKeys("bea", None, None, None), now_ms() + GAP_MS)
    assert list(later.contained) == ["user"]


def test_row_of_a_sessions_title_that_cannot_be_decoded_counts_as_missing(
    filled: Settings, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    redis_client.set(SOURCE_ITEM.key("t3", filled.feast_project), "no row")
    rows = read(filled, RowKeys("ann", None, None, None), now_ms())
    assert (rows.store, rows.user_status, set(rows.invalid)) == ("ok", "fresh", {"source_item:t3"})
    assert rows.contained["source_item:t3"] == {}
    assert f"the row of source_item {hash_id('t3')} counts as missing" in caplog.text


@pytest.mark.parametrize(("error", "store"), [(StoreTimeout, "timeout"), (StoreUnavailable, "missing")])
def test_store_that_stops_answering_between_the_two_reads_costs_only_the_second(
    filled: Settings, monkeypatch: pytest.MonkeyPatch, error: type[StoreUnavailable], store: str
) -> None:
    calls: list[float] = []
    execute = RedisLink.execute

    async def once(link: RedisLink, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        calls.append(timeout_s)
        if len(calls) > 1:
            raise error("gone")
        return await execute(link, commands, timeout_s)

    monkeypatch.setattr(RedisLink, "execute", once)
    rows = read(filled, RowKeys("ann", "far", "t2", "DE"), now_ms())
    assert (rows.store, rows.user_status) == (store, "fresh")
    assert set(rows.targets) == {"query", "source_item", "country"}
    assert not any(name.startswith("source_item:") for name in rows.contained)
    assert 0 < calls[1] < calls[0]
    status = to_status(rows, has_model=True)
    assert (status.level, status.store, status.user) == ("full", store, "fresh")
    assert list(_degraded(status, rows)) == ["session_rows"]


def test_row_past_its_time_to_live_is_stale_and_empty(filled: Settings) -> None:
    rows = read(filled, RowKeys("old", "ancient", None, None), now_ms())
    assert rows.user_status == "stale"
    assert rows.user.recent == []
    assert rows.stale == {"user", "query"}
    assert rows.targets == {}


def test_missing_row_is_the_default(filled: Settings) -> None:
    rows = read(filled, RowKeys("nobody", None, None, None), 1)
    assert (rows.user_status, rows.contained) == ("default", {"user": {}})


def test_rows_that_cannot_be_decoded_count_as_missing_and_the_others_are_read(
    filled: Settings, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    redis_client.hset(USER.key("ann", filled.feast_project), USER.packed_fields[1], b"")  # type: ignore[arg-type]
    redis_client.hset(QUERY.key("far", filled.feast_project), CONTAINED_FIELD, b"\xc1")  # type: ignore[arg-type]
    rows = read(filled, RowKeys("ann", "far", "t2", "DE"), now_ms())
    assert (rows.store, rows.user_status, set(rows.invalid)) == ("ok", "default", {"user", "query"})
    assert rows.contained.keys() == {"user", "query", "source_item", "country"}
    assert (rows.contained["user"], rows.contained["query"]) == ({}, {})
    assert set(rows.targets) == {"source_item", "country"}
    assert f"the row of user {hash_id('ann')} counts as missing" in caplog.text
    assert " ann " not in caplog.text


@pytest.mark.parametrize(
    ("family", "value", "field"),
    [
        (QUERY, "far", QUERY.packed_fields[0]),
        (USER, "ann", USER.packed_fields[0]),
        (USER, "ann", USER.packed_fields[1]),
    ],
)
def test_row_that_has_offsets_but_lost_a_part_of_its_state_counts_as_missing(
    filled: Settings, redis_client: redis.Redis, family: RowFamily, value: str, field: bytes
) -> None:
    redis_client.hdel(family.key(value, filled.feast_project), field)
    rows = read(filled, RowKeys("ann", "far", "t2", "DE"), now_ms())
    assert (rows.store, set(rows.invalid), rows.contained[family.name]) == ("ok", {family.name}, {})
    assert "has offsets but no " in rows.invalid[family.name]


@pytest.mark.parametrize(
    ("family", "value", "state"),
    [
        (QUERY, "far", [1, {"t1": [1, [1], [1.0]]}]),
        (QUERY, "far", [1, {"t1": [1, [1, 1, 1], [1.0, float("nan"), 1.0]]}]),
        (QUERY, "far", [1, {"t1": [2**63, [1, 1, 1], [1.0, 1.0, 1.0]]}]),
        (USER, "ann", {"plays-0": [{"t1": [1, float("inf")]}, {}]}),
        (USER, "ann", {"plays-0": [{}, {"t1": [1, "e", 99, 1]}]}),
    ],
)
def test_rows_that_no_fold_can_have_made_count_as_missing_and_the_others_are_read(
    filled: Settings, redis_client: redis.Redis, family: RowFamily, value: str, state: object
) -> None:
    packed = encode_value(DType.BYTES, msgspec.msgpack.encode(state))
    redis_client.hset(family.key(value, filled.feast_project), family.packed_fields[-1], packed)  # type: ignore[arg-type]
    rows = read(filled, RowKeys("ann", "far", "t2", "DE"), now_ms())
    assert (rows.store, set(rows.invalid), rows.contained[family.name]) == ("ok", {family.name}, {})
    assert rows.user_status == ("default" if family is USER else "fresh")
    assert set(rows.targets) == {"query", "source_item", "country"} - {family.name}


def test_key_that_holds_no_row_counts_as_missing_is_named_once_and_is_no_failure_of_the_store(
    filled: Settings, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    redis_client.set(USER.key("bad", filled.feast_project), "no row")

    async def many() -> list[RowsRead]:
        reader = StoreReader(filled.redis, filled.feast_project, Breaker(BreakerRule(failures=1)))
        users = ("bad", "bad", "ann")
        rows = [await reader.read(RowKeys(user, None, None, "DE"), now_ms(), 5.0) for user in users]
        await reader.close()
        return rows

    rows = asyncio.run(many())
    assert [(one.store, one.user_status) for one in rows] == [("ok", "default"), ("ok", "default"), ("ok", "fresh")]
    assert caplog.text.count("counts as missing") == 1
    assert set(rows[0].targets) == {"country"}


def test_address_without_a_store_is_missing(settings: Settings) -> None:
    assert read(replace(settings, redis="127.0.0.1:1"), RowKeys("ann", None, None, None), 1).store == "missing"
    assert read(replace(settings, redis=""), RowKeys("ann", None, None, None), 1).store == "missing"


def test_member_remembered_from_before_keeps_the_history_and_not_the_session(filled: Settings) -> None:
    async def twice() -> RowsRead:
        reader = StoreReader(filled.redis, filled.feast_project)
        await reader.read(RowKeys("ann", None, None, None), now_ms(), 5.0)
        rows = await reader.read(RowKeys("ann", None, None, None), now_ms(), 0.0)
        await reader.close()
        return rows

    rows = asyncio.run(twice())
    assert (rows.store, rows.user_status) == ("timeout", "remembered")
    assert rows.user.recent == []
    assert set(rows.user.title_weights(now_ms())) == {"t1", "t3"}


def test_history_past_its_time_to_live_is_not_remembered(filled: Settings) -> None:
    async def once_in_time() -> tuple[RowsRead, RowsRead]:
        reader = StoreReader(filled.redis, filled.feast_project)
        for user in ("ann", "old"):
            await reader.read(RowKeys(user, None, None, None), now_ms(), 5.0)
        never_fresh = await reader.read(RowKeys("old", None, None, None), now_ms(), 0.0)
        fresh_once = await reader.read(RowKeys("ann", None, None, None), now_ms() + 400 * DAY_MS, 0.0)
        await reader.close()
        return never_fresh, fresh_once

    never_fresh, fresh_once = asyncio.run(once_in_time())
    assert (never_fresh.store, never_fresh.user_status) == ("timeout", "default")
    assert (fresh_once.store, fresh_once.user_status) == ("timeout", "stale")
    assert never_fresh.user.logs == fresh_once.user.logs == {}


def test_member_whose_row_is_gone_is_forgotten(filled: Settings, redis_client: redis.Redis) -> None:
    async def before_and_after() -> RowsRead:
        reader = StoreReader(filled.redis, filled.feast_project)
        await reader.read(RowKeys("ann", None, None, None), now_ms(), 5.0)
        redis_client.delete(USER.key("ann", filled.feast_project))
        await reader.read(RowKeys("ann", None, None, None), now_ms(), 5.0)
        rows = await reader.read(RowKeys("ann", None, None, None), now_ms(), 0.0)
        await reader.close()
        return rows

    rows = asyncio.run(before_and_after())
    assert (rows.store, rows.user_status) == ("timeout", "default")
    assert rows.user.logs == {}


def test_memory_of_members_is_bounded(filled: Settings) -> None:
    reader = StoreReader(filled.redis, filled.feast_project)
    for number in range(MAX_REMEMBERED + 10):
        reader._remember(str(number), b"x")
    assert len(reader._remembered) == MAX_REMEMBERED
    assert "0" not in reader._remembered


def test_wrong_password_is_an_unavailable_store(settings: Settings) -> None:
    assert (
        read(replace(settings, redis=f"{settings.redis},password=wrong"), RowKeys("ann", None, None, None), 1).store
        == "missing"
    )


def test_concurrent_calls_get_their_own_replies(settings: Settings, redis_client: redis.Redis) -> None:
    for number in range(50):
        redis_client.set(f"key{number}", number)

    async def many() -> list[list[bytes]]:
        link = RedisLink(settings.redis)
        replies = await asyncio.gather(*(link.execute([("GET", f"key{number}")] * 3, 5.0) for number in range(50)))
        await link.close()
        return replies

    assert asyncio.run(many()) == [[str(number).encode()] * 3 for number in range(50)]


def test_reply_that_comes_too_late_is_nobody_elses(settings: Settings, redis_client: redis.Redis) -> None:
    redis_client.set("mine", "right")

    async def late() -> list[bytes]:
        link = RedisLink(settings.redis)
        await link.execute([("PING",)], 5.0)
        with pytest.raises(StoreTimeout):
            await link.execute([("BLPOP", "nothing-here", "0.3")], 0.05)
        replies = await link.execute([("GET", "mine")], 5.0)
        await link.close()
        return replies

    assert asyncio.run(late()) == [b"right"]


def test_error_reply_is_an_unavailable_store(settings: Settings) -> None:
    async def wrong() -> None:
        link = RedisLink(settings.redis)
        try:
            await link.execute([("NO-SUCH-COMMAND",)], 5.0)
        finally:
            await link.close()

    with pytest.raises(StoreUnavailable, match="unknown command"):
        asyncio.run(wrong())


def test_number_of_calls_in_flight_is_bounded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    # Writing so many calls may take a busy machine longer than a silence that means a stalled store.
    monkeypatch.setattr("serving.redis_link.STALLED_S", 60.0)

    async def flood() -> int:
        link = RedisLink(settings.redis)
        await link.execute([("PING",)], 5.0)
        calls = [link.execute([("BLPOP", "nothing-here", "0.5")], 0.2) for _ in range(MAX_WAITING + 100)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        await link.close()
        return sum(isinstance(result, StoreUnavailable) and not isinstance(result, StoreTimeout) for result in results)

    assert asyncio.run(flood()) == 100
