"""Compare-and-set, the fence and the checkpoints, on a real Redis."""

from collections.abc import Iterator

import msgspec
import pytest
import redis

from features.delta import Delta, Entity, Signal
from features.engagement import Coordinate, Engagement, Kind
from features.item import fold_item
from features.online_store import (
    CHECKPOINT_KEY,
    GENERATION_KEY,
    LOG_RETENTION_MS,
    FencedStore,
    Row,
    connect,
    parse_address,
    read_states,
)
from features.rows import CONTAINED_FIELD, ITEM, LOG_FIELD, SHOWN, USER, RowFamily, encode_contained, feature_field
from features.user import UserState, fold_user
from infra.errors import RowInvalid, SettingsError, StoreFenced, StoreUnavailable
from infra.redaction import hash_id
from infra.settings import Settings

NOW_MS = 1_750_000_000_000
PROJECT = "store_test"
packed = msgspec.msgpack.encode


@pytest.fixture
def store(settings: Settings, redis_client: redis.Redis) -> Iterator[FencedStore]:
    opened = FencedStore(settings.redis, PROJECT)
    yield opened
    opened.close()


@pytest.fixture
def other_store(settings: Settings, store: FencedStore) -> Iterator[FencedStore]:
    opened = FencedStore(settings.redis, PROJECT)
    yield opened
    opened.close()


def click(row: Row, offset: int) -> Row:
    """Fold one more click into an item's row."""
    fold_item(row.state, Delta(Entity.ITEM, "50", "50", Signal.CLICK, 1, NOW_MS + offset, NOW_MS))
    row.contained["deltas-0"] = offset
    return row


def clicks(store: FencedStore) -> int:
    return int(store.read_rows(ITEM, ["50"])[0].state.totals[1])


def test_a_missing_row_is_a_new_state_that_contains_nothing(store: FencedStore) -> None:
    [row] = store.read_rows(ITEM, ["never seen"])
    assert (row.state, row.contained, row.stored) == (ITEM.new_state(), {}, b"")


@pytest.mark.parametrize("field", [ITEM.packed_fields[0], CONTAINED_FIELD])
def test_a_row_that_cannot_be_decoded_is_never_taken_for_a_missing_one(
    store: FencedStore, redis_client: redis.Redis, field: bytes
) -> None:
    [row] = store.read_rows(ITEM, ["50"])
    assert store.write_rows([click(row, 7)]) == [True]
    redis_client.hset(row.key, field, b"\xc1")  # type: ignore[arg-type]
    with pytest.raises(RowInvalid, match=f"item {hash_id('50')}: .* cannot be decoded"):
        store.read_rows(ITEM, ["50"])


@pytest.mark.parametrize(
    ("family", "field", "name"),
    [
        (ITEM, ITEM.packed_fields[0], "item_packed"),
        (USER, USER.packed_fields[0], "session_packed"),
        (USER, USER.packed_fields[1], "user_history_packed"),
        (USER, LOG_FIELD, "_log"),
        (SHOWN, SHOWN.packed_fields[0], "shown_packed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_row_that_has_offsets_but_lost_a_part_of_its_state_is_not_begun_anew(
    store: FencedStore, redis_client: redis.Redis, family: RowFamily, field: bytes, name: str
) -> None:
    [row] = store.read_rows(family, ["50"])
    row.contained["clicks-0"] = 7
    assert store.write_rows([row]) == [True]
    redis_client.hdel(row.key, field)
    with pytest.raises(RowInvalid, match=f"has offsets but no {name}; `nowrank rebuild`"):
        store.read_rows(family, ["50"])
    redis_client.hdel(row.key, CONTAINED_FIELD)
    [row] = store.read_rows(family, ["50"])
    assert (row.contained, row.stored) == ({}, b"")
    redis_client.delete(row.key)  # as expiry does
    [row] = store.read_rows(family, ["50"])
    assert (row.state, row.contained) == (family.new_state(), {})


def test_a_feature_that_no_worker_reads_may_be_missing_or_foreign(
    store: FencedStore, redis_client: redis.Redis
) -> None:
    [row] = store.read_rows(ITEM, ["50"])
    assert store.write_rows([click(row, 7)]) == [True]
    redis_client.hdel(row.key, feature_field("item", "item_clicks_1d"), b"_ts:item")
    redis_client.hset(row.key, feature_field("another", "feature"), b"x")  # type: ignore[arg-type]
    [read] = store.read_rows(ITEM, ["50"])
    assert (read.state, read.contained) == (row.state, {"deltas-0": 7})
    only_feast = ITEM.key("51", PROJECT)
    redis_client.hset(only_feast, feature_field("item", "item_clicks_1d"), b"x")  # type: ignore[arg-type]
    [read] = store.read_rows(ITEM, ["51"])
    assert (read.state, read.contained, read.stored) == (ITEM.new_state(), {}, b"")


def test_a_key_that_holds_no_row_is_named_by_the_digest_of_its_id(
    store: FencedStore, redis_client: redis.Redis
) -> None:
    held = store.read_rows(USER, ["ann"])
    redis_client.set(USER.key("ann", PROJECT), "no row")
    assert store.write_rows(held) == [False]
    with pytest.raises(RowInvalid, match=f"user {hash_id('ann')}: its key holds something else .*`nowrank rebuild`"):
        store.read_rows(USER, ["bob", "ann"])
    assert [row.contained for row in store.read_rows(USER, ["bob"])] == [{}]


def test_a_row_written_is_read_back_by_workers_and_by_the_scorer(store: FencedStore, redis_client: redis.Redis) -> None:
    [row] = store.read_rows(ITEM, ["50"])
    assert store.write_rows([click(row, 7)]) == [True]
    [read] = store.read_rows(ITEM, ["50"])
    assert (read.state, read.contained, read.stored) == (row.state, {"deltas-0": 7}, encode_contained({"deltas-0": 7}))
    assert read_states(redis_client, PROJECT, [(ITEM, "50"), (ITEM, "none")]) == [row.state, ITEM.new_state()]


def test_a_users_row_keeps_the_windows_that_only_the_fold_needs(store: FencedStore) -> None:
    [row] = store.read_rows(USER, ["ü-1"])
    event = Engagement(
        kind=Kind.CLICK, event_id="e", user_id="ü-1", event_ts_ms=NOW_MS, ingested_ts_ms=NOW_MS, item_id="50"
    )
    fold_user(row.state, Coordinate("clicks-0", 3), event)
    store.write_rows([row])
    [read] = store.read_rows(USER, ["ü-1"])
    assert read.state == row.state
    assert fold_user(read.state, Coordinate("clicks-0", 3), event).duplicate


def test_a_writer_that_read_an_older_row_is_refused_and_changes_nothing(
    store: FencedStore, other_store: FencedStore
) -> None:
    [stale], [fresh] = store.read_rows(ITEM, ["50"]), other_store.read_rows(ITEM, ["50"])
    assert other_store.write_rows([click(fresh, 1)]) == [True]
    assert store.write_rows([click(stale, 2)]) == [False]
    [row] = store.read_rows(ITEM, ["50"])
    assert (row.contained, clicks(store)) == ({"deltas-0": 1}, 1)


def test_after_reloading_a_refused_writer_succeeds(store: FencedStore, other_store: FencedStore) -> None:
    [stale], [fresh] = store.read_rows(ITEM, ["50"]), other_store.read_rows(ITEM, ["50"])
    other_store.write_rows([click(fresh, 1)])
    store.write_rows([click(stale, 2)])
    [reloaded] = store.read_rows(ITEM, ["50"])
    assert store.write_rows([click(reloaded, 2)]) == [True]
    assert clicks(other_store) == 2


def test_a_writer_goes_on_from_its_own_write_without_reading_again(store: FencedStore) -> None:
    [row] = store.read_rows(ITEM, ["50"])
    assert [store.write_rows([click(row, offset)]) for offset in range(3)] == [[True]] * 3
    assert clicks(store) == 3


def test_of_many_rows_only_those_that_moved_are_refused(store: FencedStore, other_store: FencedStore) -> None:
    rows = store.read_rows(ITEM, ["a", "50", "b"])
    other_store.write_rows([click(*other_store.read_rows(ITEM, ["50"]), 1)])
    assert store.write_rows([click(row, 2) for row in rows]) == [True, False, True]


def test_a_store_that_was_emptied_fences_every_call(store: FencedStore, redis_client: redis.Redis) -> None:
    [row] = store.read_rows(ITEM, ["50"])
    redis_client.flushdb()
    calls = (
        lambda: store.read_rows(ITEM, ["50"]),
        lambda: store.write_rows([click(row, 1)]),
        lambda: store.read_checkpoints("stage-1"),
        lambda: store.write_checkpoints("stage-1", {"plays-0": b"1"}),
        lambda: store.write_checkpoints("stage-1", {}),
    )
    for call in calls:
        with pytest.raises(
            StoreFenced, match=r"is not the one this process began with|connection to the online store broke"
        ):
            call()
    assert redis_client.dbsize() == 0


def test_a_store_of_another_generation_fences_the_workers_of_the_old_one(
    store: FencedStore, settings: Settings, redis_client: redis.Redis
) -> None:
    redis_client.flushdb()
    successor = FencedStore(settings.redis, PROJECT)
    with pytest.raises(StoreFenced):
        store.read_rows(ITEM, ["50"])
    assert successor.write_rows([click(*successor.read_rows(ITEM, ["50"]), 1)]) == [True]
    successor.close()


def test_a_connection_that_breaks_is_never_opened_again(store: FencedStore, redis_client: redis.Redis) -> None:
    [row] = store.read_rows(ITEM, ["50"])
    redis_client.client_kill_filter(_type="normal", skipme=True)
    for _ in range(3):
        with pytest.raises(StoreFenced):
            store.write_rows([click(row, 1)])
        with pytest.raises(StoreFenced):
            store.read_checkpoints("stage-1")
    assert not redis_client.exists(row.key)


def test_workers_of_one_generation_share_it(store: FencedStore, other_store: FencedStore) -> None:
    store.write_rows([click(*store.read_rows(ITEM, ["50"]), 1)])
    assert clicks(other_store) == 1


def test_checkpoints_are_kept_by_stage_and_log(store: FencedStore, other_store: FencedStore) -> None:
    assert store.read_checkpoints("stage-1") == {}
    store.write_checkpoints("stage-1", {"plays-0": packed([5]), "clicks-1": packed([7])})
    store.write_checkpoints("stage-1", {"plays-0": packed([6])})
    store.write_checkpoints("stage-2", {"deltas-0": packed([9, {"plays-0": [3, 1]}])})
    assert other_store.read_checkpoints("stage-1") == {"plays-0": packed([6]), "clicks-1": packed([7])}
    assert other_store.read_checkpoints("stage-2") == {"deltas-0": packed([9, {"plays-0": [3, 1]}])}


def test_a_checkpoint_never_moves_back(store: FencedStore, other_store: FencedStore) -> None:
    store.write_checkpoints("stage-1", {"plays-0": packed([2**40 + 1])})
    other_store.write_checkpoints("stage-1", {"plays-0": packed([2**40]), "clicks-1": packed([1])})
    assert store.read_checkpoints("stage-1") == {"plays-0": packed([2**40 + 1]), "clicks-1": packed([1])}


def test_redis_drops_a_row_only_when_its_fold_has_long_forgotten_it(
    store: FencedStore, redis_client: redis.Redis
) -> None:
    row = click(*store.read_rows(ITEM, ["50"]), 1)
    store.write_rows([row])
    left_ms = int(redis_client.pttl(row.key))  # type: ignore[arg-type]
    assert ITEM.retention_ms + LOG_RETENTION_MS - 60_000 < left_ms <= ITEM.retention_ms + LOG_RETENTION_MS


def test_no_store_at_the_address_is_a_clear_error() -> None:
    with pytest.raises(StoreUnavailable, match="does not answer"):
        FencedStore("127.0.0.1:1", PROJECT)


def test_addresses_have_feasts_form() -> None:
    assert parse_address("redis:6379") == {"host": "redis", "port": 6379}
    assert parse_address("redis:6379,db=2,username=u,password=a=b,ssl=true") == {
        "host": "redis", "port": 6379, "db": 2, "username": "u", "password": "a=b", "ssl": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    "address", ["", "redis", "redis:", ":6379", "redis:port", "redis:99999", "redis:6379,db=x", "redis:6379,foo=1"]
)
def test_an_address_that_cannot_be_used_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="NOWRANK_REDIS"):
        parse_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "redis,password=hunter2",
        "redis:port,db=1,password=hunter2",
        "redis:6379,password=a,hunter2",
        "redis:6379,password=a,hunter2=b",
        "redis:6379,pasword=hunter2",
        "redis:6379 password=hunter2",
        "redis://:hunter2@redis:6379",
        "redis://u:hunter2@redis:6379,db=1",
    ],
)
def test_an_address_that_is_refused_keeps_its_password(address: str) -> None:
    with pytest.raises(SettingsError, match="NOWRANK_REDIS") as refused:
        parse_address(address)
    assert "hunter2" not in str(refused.value)


def test_a_store_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(StoreUnavailable) as gone:
        FencedStore("127.0.0.1:1,db=2,password=hunter2", PROJECT)
    assert "'127.0.0.1:1,db=2,password=***' does not answer" in str(gone.value)
    assert "hunter2" not in str(gone.value)


def test_a_store_belongs_to_the_project_that_it_was_first_used_for(
    settings: Settings, store: FencedStore, redis_client: redis.Redis
) -> None:
    with pytest.raises(SettingsError) as refused:
        FencedStore(f"{settings.redis},db=0", "second")
    assert str(refused.value) == (
        f"NOWRANK_FEAST_PROJECT is 'second', but the online store at '{settings.redis},db=0' is that of '{PROJECT}': "
        "each project needs a database of its own"
    )
    store.read_rows(ITEM, ["50"])  # it goes on
    redis_client.flushdb()
    FencedStore(settings.redis, "second").close()


def test_a_store_that_refuses_the_first_call_is_not_said_to_be_silent_or_gone(
    settings: Settings, redis_client: redis.Redis
) -> None:
    redis_client.hset(GENERATION_KEY.decode(), "a", "b")
    with pytest.raises(StoreUnavailable) as refused:
        FencedStore(settings.redis, PROJECT)
    assert f"the online store at '{settings.redis}' refuses: WRONGTYPE" in str(refused.value)


@pytest.mark.parametrize(
    ("option", "reason"), [("", "Authentication required"), (",password=wrong", "invalid username-password pair")]
)
def test_a_store_that_refuses_the_password_is_not_said_to_be_silent(
    settings: Settings, redis_client: redis.Redis, option: str, reason: str
) -> None:
    redis_client.config_set("requirepass", "right")
    try:
        with pytest.raises(StoreUnavailable, match=f" refuses: {reason}"):
            FencedStore(settings.redis + option, PROJECT)
    finally:
        redis_client.config_set("requirepass", "")


def test_a_store_that_refuses_a_write_is_not_said_to_be_another_one_or_gone(
    store: FencedStore, redis_client: redis.Redis
) -> None:
    redis_client.set((CHECKPOINT_KEY + b"stage-1").decode(), b"no hash")
    with pytest.raises(StoreFenced, match=r"^the online store refuses: .*WRONGTYPE"):
        store.write_checkpoints("stage-1", {"plays-0": b"1"})
    with pytest.raises(StoreFenced, match="the connection to the online store broke"):
        store.read_rows(ITEM, ["50"])


def test_a_plain_client_gives_up_instead_of_trying_again() -> None:
    with connect("127.0.0.1:1", timeout_s=0.5) as client, pytest.raises(redis.ConnectionError):
        read_states(client, PROJECT, [(USER, "u")])
    assert UserState() == USER.new_state()
