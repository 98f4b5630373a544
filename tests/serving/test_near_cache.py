"""The near cache holds what the store holds."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import redis

from features.delta import Delta, Entity, Signal
from features.item import SIGNALS, SUMS, ItemState, fold_item
from features.online_store import FencedStore
from features.probe import probe_id
from features.rows import CONTAINED_FIELD, ITEM, encode_value
from features.spec import DType
from infra.clock import now_ms
from infra.redaction import hash_id
from infra.settings import Settings
from serving.near_cache import MAX_AHEAD_MS, MAX_ROWS, ItemRow, NearCache
from tests.serving.world import wait_until


class Followed:
    """A near cache, and what it has delivered."""

    def __init__(self, settings: Settings) -> None:
        self.rows: dict[str, ItemRow] = {}
        self.states: list[bool] = []
        self.cache = NearCache(settings, self._take, self.states.append)
        self.cache.start()

    def plays(self, item_id: str) -> int:
        return self.rows[item_id].state.totals[2] if item_id in self.rows else -1

    def _take(self, rows: list[ItemRow]) -> None:
        self.rows.update((row.item_id, row) for row in rows)


def play(store: FencedStore, item_id: str, *, age_ms: int = 0) -> None:
    row = store.read_rows(ITEM, [item_id])[0]
    fold_item(row.state, Delta(Entity.ITEM, item_id, item_id, Signal.PLAY, 1, now_ms() - age_ms, now_ms()))
    row.contained["deltas-0"] = row.contained.get("deltas-0", 0) + 1
    assert store.write_rows([row]) == [True]


@pytest.fixture
def store(settings: Settings, redis_client: redis.Redis) -> Iterator[FencedStore]:
    store = FencedStore(settings.redis, settings.feast_project)
    yield store
    store.close()


@pytest.fixture
def followed(settings: Settings, store: FencedStore) -> Iterator[Followed]:
    for number in range(3):
        play(store, f"i{number}")
    followed = Followed(settings)
    wait_until(lambda: followed.cache.tried)
    yield followed
    followed.cache.stop()


def test_every_row_is_there_once_it_has_tried(followed: Followed) -> None:
    assert {item_id: followed.plays(item_id) for item_id in followed.rows} == {"i0": 1, "i1": 1, "i2": 1}
    assert followed.states[0] is True


def test_changed_row_comes_by_itself_with_the_time_of_its_change(followed: Followed, store: FencedStore) -> None:
    play(store, "i1")
    play(store, "new")
    wait_until(lambda: followed.plays("i1") == 2 and followed.plays("new") == 1)
    assert followed.rows["i1"].changed_s is not None
    assert followed.rows["i0"].changed_s is None


def test_a_canarys_title_never_comes(settings: Settings, store: FencedStore) -> None:
    play(store, probe_id("canary-0", 0))
    play(store, "i0")
    followed = Followed(settings)
    wait_until(lambda: followed.cache.tried)
    play(store, probe_id("canary-0", 0))
    play(store, "i0")
    wait_until(lambda: followed.plays("i0") == 2)
    followed.cache.stop()
    assert set(followed.rows) == {"i0"}


def test_row_that_is_gone_becomes_empty(followed: Followed, settings: Settings, redis_client: redis.Redis) -> None:
    redis_client.delete(ITEM.key("i2", settings.feast_project))
    wait_until(lambda: followed.plays("i2") == 0)
    assert followed.rows["i2"].contained == b""


def test_emptied_store_empties_every_row(followed: Followed, redis_client: redis.Redis) -> None:
    redis_client.flushdb()
    wait_until(lambda: all(followed.plays(f"i{number}") == 0 for number in range(3)))


def test_store_emptied_in_the_middle_of_a_full_read_empties_what_was_read(
    settings: Settings, store: FencedStore, redis_client: redis.Redis
) -> None:
    play(store, "i0")
    taken: list[ItemRow] = []

    def take(rows: list[ItemRow]) -> None:
        taken.extend(rows)
        if len(taken) == 1:
            redis_client.flushdb()
            raise redis.ConnectionError("the store restarts, empty")

    cache = NearCache(settings, take, lambda is_up: None)
    cache.start()
    wait_until(lambda: len(taken) == 2)
    cache.stop()
    assert [(row.item_id, bool(row.contained)) for row in taken] == [("i0", True), ("i0", False)]


@pytest.mark.parametrize("kind", ["pubsub", "normal"])
def test_lost_connection_is_followed_by_a_full_read(
    followed: Followed, store: FencedStore, redis_client: redis.Redis, kind: str
) -> None:
    mine = str(redis_client.client_id())
    [writer_id] = store._execute([("CLIENT", "ID")])
    writer = str(writer_id)
    for client in redis_client.client_list(_type=kind):
        if client["id"] not in (mine, writer):
            redis_client.client_kill_filter(_id=client["id"])
    play(store, "i0")
    wait_until(lambda: followed.plays("i0") == 2)
    assert False in followed.states
    wait_until(lambda: followed.states[-1])
    play(store, "i0")
    wait_until(lambda: followed.plays("i0") == 3)


def test_rows_of_another_project_are_not_its_business(
    followed: Followed, settings: Settings, store: FencedStore, redis_client: Any
) -> None:
    for project in ("other", f"x{settings.feast_project}"):  # as Feast may write them
        row = redis_client.hgetall(ITEM.key("i0", settings.feast_project))
        redis_client.hset(ITEM.key("foreign", project), mapping=row)
    play(store, "i0")
    wait_until(lambda: followed.plays("i0") == 2)
    assert "foreign" not in followed.rows


def test_row_past_its_time_to_live_counts_as_missing(followed: Followed, store: FencedStore) -> None:
    play(store, "old", age_ms=1000 * ITEM.views[0].ttl_s + 60_000)
    wait_until(lambda: "old" in followed.rows)
    state = followed.rows["old"].state
    assert (any(state.totals), any(state.sums)) == (False, False)
    assert state.as_of_ms > 0  # it is no row that never was


@pytest.mark.parametrize("field", [ITEM.packed_fields[0], CONTAINED_FIELD])
def test_row_that_cannot_be_decoded_becomes_empty_and_the_others_are_followed(
    followed: Followed,
    settings: Settings,
    store: FencedStore,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    field: bytes,
) -> None:
    redis_client.hset(ITEM.key("i2", settings.feast_project), field, b"\xc1")  # type: ignore[arg-type]
    play(store, "i0")
    wait_until(lambda: followed.plays("i0") == 2 and followed.plays("i2") == 0)
    assert followed.rows["i2"].contained == b""
    assert False not in followed.states
    assert hash_id("i2") in caplog.text
    assert "i2" not in caplog.text.replace(hash_id("i2"), "")


def test_row_that_has_offsets_but_lost_its_state_is_said_to_be_damaged(
    followed: Followed,
    settings: Settings,
    store: FencedStore,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    redis_client.hdel(ITEM.key("i2", settings.feast_project), ITEM.packed_fields[0])
    play(store, "i0")
    wait_until(lambda: followed.plays("i0") == 2 and followed.plays("i2") == 0)
    assert followed.rows["i2"].contained == b""
    assert "has offsets but no item_packed" in caplog.text


def put(redis_client: redis.Redis, settings: Settings, item_id: str, state: ItemState) -> None:
    """Write over an item's row, as no worker would."""
    packed = encode_value(DType.BYTES, msgspec.msgpack.encode(state))
    redis_client.hset(ITEM.key(item_id, settings.feast_project), ITEM.packed_fields[0], packed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "state",
    [
        ItemState(as_of_ms=2**63),
        ItemState(as_of_ms=now_ms() + 86_400_000, sums=[1.0] * len(SUMS)),
        ItemState(as_of_ms=now_ms(), sums=[3e38] * len(SUMS)),
        ItemState(as_of_ms=now_ms(), sums=[1.0]),
    ],
    ids=["after all times", "tomorrow", "absurd sums", "too few sums"],
)
def test_row_that_no_fold_can_have_made_becomes_empty_and_the_log_says_how_to_repair_it(
    followed: Followed,
    settings: Settings,
    store: FencedStore,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    state: ItemState,
) -> None:
    put(redis_client, settings, "i2", state)
    play(store, "i0")
    wait_until(lambda: followed.plays("i0") == 2 and followed.plays("i2") == 0)
    assert followed.rows["i2"] == ItemRow("i2", ItemState(), b"", followed.rows["i2"].changed_s)
    assert False not in followed.states
    assert hash_id("i2") in caplog.text
    assert "nowrank rebuild" in caplog.text


def test_row_of_a_broker_whose_clock_is_a_little_ahead_is_a_row(
    followed: Followed, settings: Settings, redis_client: redis.Redis
) -> None:
    ahead = ItemState(as_of_ms=now_ms() + MAX_AHEAD_MS // 2, totals=[7] * len(SIGNALS))
    put(redis_client, settings, "i2", ahead)
    wait_until(lambda: followed.plays("i2") == 7)


def test_key_that_holds_no_row_becomes_empty_and_the_others_are_followed(
    followed: Followed, settings: Settings, store: FencedStore, redis_client: redis.Redis
) -> None:
    redis_client.set(ITEM.key("i2", settings.feast_project), "no row")
    play(store, "i0")
    wait_until(lambda: followed.plays("i0") == 2 and followed.plays("i2") == 0)
    assert False not in followed.states


def test_key_of_an_item_that_is_no_text_is_not_its_business(
    followed: Followed, settings: Settings, store: FencedStore, redis_client: redis.Redis
) -> None:
    redis_client.hset(ITEM.key("i_", settings.feast_project).replace(b"i_", b"i\xff"), "field", "value")
    play(store, "i0")
    wait_until(lambda: followed.plays("i0") == 2)
    assert False not in followed.states


def test_whatever_breaks_it_is_reported_and_all_rows_are_read_again(
    settings: Settings, store: FencedStore, caplog: pytest.LogCaptureFixture
) -> None:
    play(store, "i0")
    taken: list[ItemRow] = []
    states: list[bool] = []

    def take(rows: list[ItemRow]) -> None:
        if not states:
            raise KeyError(rows[0].item_id)
        taken.extend(rows)

    cache = NearCache(settings, take, states.append)
    cache.start()
    wait_until(lambda: True in states)
    cache.stop()
    assert states[:2] == [False, True]
    assert [row.item_id for row in taken] == ["i0"]
    assert "KeyError" in caplog.text
    assert "i0" not in caplog.text


def test_store_that_is_not_there_is_reported_and_waited_for(settings: Settings) -> None:
    followed = Followed(replace(settings, redis="127.0.0.1:1"))
    wait_until(lambda: followed.cache.tried)
    assert followed.states[0] is False
    followed.cache.stop()


def test_bound_is_stated() -> None:
    assert MAX_ROWS == 1_500_000
