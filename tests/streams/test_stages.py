"""Both stages on a real Redis: whatever happens between two steps, every row equals a recomputation of the log."""

import asyncio
import random
from dataclasses import replace
from zlib import crc32

import msgspec
import pytest
import redis
from aiokafka.errors import KafkaError
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from features.engagement import Coordinate
from features.item import ItemState
from features.online_store import FencedStore, read_states
from features.rows import COUNTRY, FOLDS, ITEM, QUERY, SOURCE_ITEM, TARGET_FAMILIES, USER, RowFamily, encode_value
from features.spec import DType
from features.text import MAX_QUERY_CHARS
from features.user import UserState, fold_user
from infra.errors import RowInvalid, StoreFenced
from infra.metrics import Metrics
from infra.redaction import hash_id
from infra.settings import Settings
from streams.checkpoints import decode_checkpoints
from streams.dead_letters import DeadLetter
from streams.deltas import MAX_MESSAGE_BYTES, SourcedDelta, decode_deltas, send_deltas
from streams.events import Click, Engaged, Play, Ranking, ServedItem, Thumb, decode_record, encode_event, to_engagement
from streams.log_records import Record
from streams.runtime import Runtime, send_together
from streams.session_agent import SessionStage
from streams.stage import SharedStore
from streams.target_agent import TargetStage

PARTITIONS = 2
BEGIN_MS = 1_700_000_000_000
PROJECT = "nowrank"
CACHE_BYTES = 64 * 1024 * 1024


class Crash(Exception):
    """A worker ends here."""


class Logs:
    """The event logs and the delta log, as a broker keeps them; sending fails on demand."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.deltas: list[Record] = []
        self.dead: list[DeadLetter] = []
        self.crash_after_sends: int | None = None
        self._ends: dict[str, int] = {}

    def publish(self, event: Engaged | Ranking, broker_ts_ms: int | None = None) -> Record:
        return self.publish_raw(
            event.topic, event.user_id, encode_event(event), event.event_ts_ms if broker_ts_ms is None else broker_ts_ms
        )

    def publish_raw(self, topic: str, key: str, value: bytes | None, broker_ts_ms: int = BEGIN_MS) -> Record:
        record = self._append(topic, crc32(key.encode()) % PARTITIONS, value, broker_ts_ms)
        self.records.append(record)
        return record

    async def send_message(self, partition: int, message: bytes) -> None:
        self.deltas.append(self._append("deltas", partition, message, BEGIN_MS))
        if self.crash_after_sends is not None:
            self.crash_after_sends -= 1
            if self.crash_after_sends < 0:
                raise Crash

    async def send_deltas(self, deltas: list[SourcedDelta]) -> int:
        return await send_deltas(deltas, PARTITIONS, self.send_message)

    async def send_dead_letters(self, letters: list[DeadLetter]) -> None:
        self.dead += letters

    def _append(self, topic: str, partition: int, value: bytes | None, broker_ts_ms: int) -> Record:
        log = f"{topic}-{partition}"
        offset = self._ends[log] = self._ends.get(log, -1) + 1
        return Record(topic, partition, offset, broker_ts_ms, value)


class Worker:
    """One worker process: both stages, with their own connection to the store."""

    def __init__(self, settings: Settings, logs: Logs) -> None:
        self._logs = logs
        self.store = FencedStore(settings.redis, PROJECT)
        shared = SharedStore(self.store)
        metrics = Metrics("worker")
        self.metrics = metrics
        self.session = SessionStage(shared, logs.send_deltas, logs.send_dead_letters, metrics, 300_000, CACHE_BYTES)
        self.target = TargetStage(shared, logs.send_dead_letters, metrics, CACHE_BYTES)
        self.session.begin(decode_checkpoints(self.store.read_checkpoints("session")))
        self.target.begin(decode_checkpoints(self.store.read_checkpoints("target")))
        checkpoints = {**self.session.checkpoints, **self.target.checkpoints}
        self.next_offsets = {log: checkpoint.next_offset for log, checkpoint in checkpoints.items()}

    async def catch_up(self, batch: int = 7) -> None:
        """Apply what the checkpoints do not cover yet."""
        for stage, log in ((self.session, self._logs.records), (self.target, self._logs.deltas)):
            todo = [record for record in log if record.offset >= self.next_offsets.get(record.log, 0)]
            for begin in range(0, len(todo), batch):
                await stage.apply(todo[begin : begin + batch])


@pytest.fixture
def logs(redis_client: redis.Redis) -> Logs:
    return Logs()


def work(settings: Settings, logs: Logs, batch: int = 7) -> None:
    """A fresh worker catches up."""
    worker = Worker(settings, logs)
    try:
        asyncio.run(worker.catch_up(batch))
    finally:
        worker.store.close()


def recompute(logs: Logs) -> dict[tuple[str, str], UserState | ItemState]:
    """Every row, from the logs alone: user rows from the events, target rows from the delta log, repeats dropped."""
    rows: dict[tuple[str, str], UserState | ItemState] = {}
    for record in logs.records:
        engagement = to_engagement(decode_record(record.topic, record.value), record.broker_ts_ms)
        state = rows.setdefault((USER.name, engagement.user_id), UserState())
        fold_user(state, Coordinate(record.log, record.offset), engagement)  # type: ignore[arg-type]
    highest: dict[tuple[str, str], tuple[int, int]] = {}
    for record in logs.deltas:
        for sourced in decode_deltas(record.value or b""):
            place, source = (sourced.offset, sourced.ordinal), (record.log, sourced.log)
            if place > highest.get(source, (-1, -1)):
                highest[source] = place
                family = TARGET_FAMILIES[sourced.delta.entity]
                FOLDS[sourced.delta.entity](
                    rows.setdefault((family.name, sourced.delta.key), family.new_state()), sourced.delta
                )
    return rows


def assert_rows_equal_the_log(settings: Settings, client: redis.Redis, logs: Logs) -> None:
    families: dict[str, RowFamily] = {family.name: family for family in (USER, ITEM, QUERY, SOURCE_ITEM, COUNTRY)}
    expected = recompute(logs)
    stored = read_states(client, PROJECT, [(families[name], key) for name, key in expected])
    for (name, key), state in zip(expected, stored, strict=True):
        wanted = expected[name, key]
        state.updated_ms = wanted.updated_ms  # counts writes: the one thing that depends on how batches were cut
        if isinstance(wanted, UserState):
            state.seen, state.touched_ms = wanted.seen, wanted.touched_ms  # not read by readers
        assert state == wanted, (name, key)


def some_events(count: int, seed: int) -> list[Engaged]:
    """A mix of kinds, users, titles and contexts, with late events and repeated ids."""
    rng = random.Random(seed)
    events: list[Engaged] = []
    for number in range(count):
        common = {
            "event_id": f"event-{seed}-{number:010}",
            "user_id": f"u{rng.randrange(4)}",
            "item_id": f"i{rng.randrange(6)}",
            "event_ts_ms": BEGIN_MS + number * 1000 - rng.choice((0, 0, 0, 7_200_000)),
            "query": rng.choice((None, None, "star")),
            "source_item_id": rng.choice((None, None, "i9")),
            "country": rng.choice((None, "DE")),
        }
        make = rng.choice((Click, Play, Thumb))
        more = {
            Click: {},
            Play: {"watched_ms": 95, "duration_ms": 100},
            Thumb: {"value": rng.choice(("up", "down", "none", "double_up"))},
        }[make]
        events.append(make(**common, **more))  # type: ignore[arg-type]
        if rng.random() < 0.1:
            events.append(events[-1])
    return events


def test_rows_equal_a_recomputation_of_the_log(settings: Settings, redis_client: redis.Redis, logs: Logs) -> None:
    for event in some_events(120, seed=1):
        logs.publish(event)
    work(settings, logs)
    assert_rows_equal_the_log(settings, redis_client, logs)


def test_no_message_between_the_stages_is_longer_than_a_broker_takes(
    settings: Settings, redis_client: redis.Redis, logs: Logs
) -> None:
    query = "\ufdfa" * MAX_QUERY_CHARS  # one of these is eighteen characters in its normal form
    common = {"user_id": "u1", "event_ts_ms": BEGIN_MS, "query": query}
    shown = [ServedItem(item_id=f"{number:0128}", score=0.0) for number in range(200)]
    logs.publish(Ranking(ranking_id="ranking-of-200", task="search", items=shown, **common))  # type: ignore[arg-type]
    for number in range(1_000):
        logs.publish(Click(event_id=f"click-{number:010}", item_id=f"{number % 200:0128}", **common))  # type: ignore[arg-type]
    work(settings, logs, batch=2_000)
    lengths = [len(record.value or b"") for record in logs.deltas]
    assert MAX_MESSAGE_BYTES / 2 < max(lengths) <= MAX_MESSAGE_BYTES < sum(lengths)
    assert_rows_equal_the_log(settings, redis_client, logs)


def test_a_message_between_the_stages_that_cannot_be_read_is_a_dead_letter(
    settings: Settings, redis_client: redis.Redis, logs: Logs
) -> None:
    logs.publish(Click(event_id="event-0123456789", user_id="u1", item_id="t\u00e4t", event_ts_ms=BEGIN_MS))
    work(settings, logs)
    asyncio.run(logs.send_message(0, logs.deltas[0].value.replace("\u00e4".encode(), b"\xff\xff")))  # type: ignore[union-attr]
    asyncio.run(logs.send_message(0, b"\x91" * 100_000))
    work(settings, logs)
    assert [(letter.topic, letter.reason) for letter in logs.dead] == [("deltas", "poison")] * 2


@given(
    seed=st.integers(0, 10_000), crashes=st.lists(st.integers(0, 12), min_size=1, max_size=3), batch=st.integers(1, 20)
)
@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_crashes_between_sending_and_writing_change_no_row(
    settings: Settings, redis_client: redis.Redis, seed: int, crashes: list[int], batch: int
) -> None:
    redis_client.flushdb()
    logs = Logs()
    for event in some_events(60, seed):
        logs.publish(event)
    for sends in crashes:
        logs.crash_after_sends = sends
        try:
            work(settings, logs, batch)
        except Crash:
            continue
    logs.crash_after_sends = None
    work(settings, logs, batch=11)
    assert_rows_equal_the_log(settings, redis_client, logs)


def test_a_zombie_with_old_rows_is_refused_and_folds_nothing_twice(
    settings: Settings, redis_client: redis.Redis, logs: Logs
) -> None:
    events = some_events(60, seed=2)
    for event in events[:30]:
        logs.publish(event)
    zombie = Worker(settings, logs)
    asyncio.run(zombie.catch_up())
    for event in events[30:]:
        logs.publish(event)
    work(settings, logs)
    seen = {log: checkpoint.next_offset for log, checkpoint in zombie.session.checkpoints.items()}
    later = [record for record in logs.records if record.offset >= seen.get(record.log, 0)]
    asyncio.run(SessionApplied(zombie, later).run())
    work(settings, logs)
    assert_rows_equal_the_log(settings, redis_client, logs)
    conflicts = zombie.metrics.registry.get_sample_value("nowrank_worker_row_conflicts_total", {"stage": "session"})
    assert conflicts is not None
    assert conflicts > 0


class SessionApplied:
    """A zombie's batch: records that another worker has folded in the meantime, on rows that are out of date."""

    def __init__(self, worker: Worker, records: list[Record]) -> None:
        self._worker = worker
        self._records = records

    async def run(self) -> None:
        stage = self._worker.session
        stage._store._lock = asyncio.Lock()  # the lock of an event loop that is gone
        await stage.apply(self._records)


def test_a_store_that_was_emptied_ends_the_worker(settings: Settings, redis_client: redis.Redis, logs: Logs) -> None:
    worker = Worker(settings, logs)
    redis_client.flushdb()
    logs.publish(some_events(1, seed=3)[0])
    with pytest.raises(StoreFenced):
        asyncio.run(worker.catch_up())


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty"),
        (b"{", "malformed_json"),
        (b"\xff\xfe", "malformed_json"),
        (b'{"type":"click"}', "missing_field"),
        (b'{"type":"wink"}', "unknown_type"),
        (
            b'{"type":"click","event_id":"0123456789abcdef","user_id":"u","item_id":"i","event_ts_ms":"now"}',
            "invalid_field",
        ),
        (
            b'{"type":"click","event_id":"0123456789abcdef","user_id":"u","item_id":"i","event_ts_ms":1e400}',
            "invalid_field",
        ),
        (
            b'{"type":"click","event_id":"0123456789abcdef","user_id":"u","item_id":"i","event_ts_ms":1900000000000}',
            "future_timestamp",
        ),
        (
            b'{"type":"click","event_id":"0123456789abcdef","user_id":"'
            + b"x" * 10_000
            + b'","item_id":"i","event_ts_ms":1}',
            "invalid_field",
        ),
        (b" " * 100_000, "oversized"),
    ],
)
def test_a_bad_record_becomes_a_dead_letter_and_nothing_else_is_lost(
    settings: Settings, redis_client: redis.Redis, logs: Logs, value: bytes | None, reason: str
) -> None:
    good = some_events(2, seed=4)
    logs.publish(good[0])
    bad = logs.publish_raw("clicks", "u0", value)
    logs.publish(good[1])
    work(settings, logs)
    assert [(letter.name, letter.reason, letter.raw) for letter in logs.dead] == [
        (f"clicks-{bad.partition}-{bad.offset}", reason, value or b"")
    ]
    logs.records.remove(bad)
    assert_rows_equal_the_log(settings, redis_client, logs)


@pytest.mark.parametrize(
    ("family", "value", "state"),
    [
        (ITEM, "i1", ItemState(as_of_ms=BEGIN_MS, sums=[1.0] * 3)),
        (COUNTRY, "DE", [BEGIN_MS, {"i1": [BEGIN_MS, [1, 1, 1], [1.0, float("nan"), 1.0]]}]),
        (USER, "u1", {"clicks-0": [{"i1": [2**63, 1.0]}, {}]}),
    ],
    ids=["item", "country", "user"],
)
def test_a_row_that_no_fold_can_have_made_ends_the_worker_and_no_event_is_lost_by_it(
    settings: Settings, redis_client: redis.Redis, logs: Logs, family: RowFamily, value: str, state: object
) -> None:
    key, packed = family.key(value, PROJECT), encode_value(DType.BYTES, msgspec.msgpack.encode(state))
    for number in range(2):
        event_id = f"0123456789abcde{number}"
        logs.publish(Click(event_id=event_id, user_id="u1", item_id="i1", country="DE", event_ts_ms=BEGIN_MS))
        if number == 0:
            work(settings, logs)
            redis_client.hset(key, family.packed_fields[-1], packed)  # type: ignore[arg-type]
    with pytest.raises(RowInvalid, match="nowrank rebuild"):
        work(settings, logs)
    assert logs.dead == []
    redis_client.flushdb()  # as `nowrank rebuild` does
    work(settings, logs)
    assert_rows_equal_the_log(settings, redis_client, logs)


@pytest.mark.parametrize(("family", "value"), [(USER, "u1"), (ITEM, "i1"), (COUNTRY, "DE")])
def test_a_row_that_lost_its_state_ends_the_worker_and_no_count_is_lost_by_it(
    settings: Settings, redis_client: redis.Redis, logs: Logs, family: RowFamily, value: str
) -> None:
    for number in range(2):
        event_id = f"0123456789abcde{number}"
        logs.publish(Click(event_id=event_id, user_id="u1", item_id="i1", country="DE", event_ts_ms=BEGIN_MS))
        if number == 0:
            work(settings, logs)
            redis_client.hdel(family.key(value, PROJECT), family.packed_fields[0])
    with pytest.raises(RowInvalid, match=f"{family.name} {hash_id(value)}: .* has offsets but no "):
        work(settings, logs)
    redis_client.flushdb()  # as `nowrank rebuild` does
    work(settings, logs)
    assert_rows_equal_the_log(settings, redis_client, logs)


@pytest.mark.parametrize("broker_ts_ms", [-1, 2**62])
def test_an_event_with_a_brokers_time_that_no_row_may_hold_is_a_dead_letter(
    settings: Settings, redis_client: redis.Redis, logs: Logs, broker_ts_ms: int
) -> None:
    event = Click(event_id="0123456789abcdef", user_id="u1", item_id="i1", event_ts_ms=1)
    logs.publish(event, broker_ts_ms)
    for _ in range(2):
        work(settings, logs)
    assert [letter.reason for letter in logs.dead] == ["invalid_field"]


def test_an_event_slightly_in_the_future_is_clamped_to_the_brokers_time(
    settings: Settings, redis_client: redis.Redis, logs: Logs
) -> None:
    event = Click(event_id="0123456789abcdef", user_id="u1", item_id="i1", event_ts_ms=BEGIN_MS + 60_000)
    logs.publish(event, broker_ts_ms=BEGIN_MS)
    work(settings, logs)
    [user] = read_states(redis_client, PROJECT, [(USER, "u1")])
    assert user.as_of_ms == BEGIN_MS


def test_a_served_ranking_counts_one_impression_for_each_returned_title(
    settings: Settings, redis_client: redis.Redis, logs: Logs
) -> None:
    items = [ServedItem(item_id=f"i{number}", score=0.5) for number in range(3)]
    logs.publish(Ranking(ranking_id="r1", user_id="u1", event_ts_ms=BEGIN_MS, task="search", query="Star", items=items))
    work(settings, logs)
    states = read_states(redis_client, PROJECT, [(ITEM, "i0"), (ITEM, "i2"), (QUERY, "star")])
    assert [states[0].totals[0], states[1].totals[0]] == [1, 1]
    assert sorted(states[2].targets) == ["i0", "i1", "i2"]


def test_a_record_that_breaks_a_fold_is_a_dead_letter_and_its_neighbours_are_folded(
    settings: Settings, redis_client: redis.Redis, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    import streams.session_agent as stage_1

    def breaks_on_i9(state: UserState, coordinate: Coordinate, engagement: object) -> object:
        if engagement.item_id == "i9":  # type: ignore[attr-defined]
            raise ZeroDivisionError(f"a fold with a bug, for {engagement.user_id}")  # type: ignore[attr-defined]
        return fold_user(state, coordinate, engagement)  # type: ignore[arg-type]

    monkeypatch.setattr(stage_1, "fold_user", breaks_on_i9)
    for number, item_id in enumerate(("i1", "i9", "i2")):
        logs.publish(
            Click(event_id=f"0123456789abcde{number}", user_id="u1", item_id=item_id, event_ts_ms=BEGIN_MS + number)
        )
    work(settings, logs)
    assert [letter.reason for letter in logs.dead] == ["poison"]
    assert [letter.message for letter in logs.dead] == [f"ZeroDivisionError: a fold with a bug, for {hash_id('u1')}"]
    [user] = read_states(redis_client, PROJECT, [(USER, "u1")])
    assert [moment.item_id for moment in user.recent] == ["i1", "i2"]


def test_a_worker_names_its_stages_in_its_metrics_before_their_first_batch(settings: Settings) -> None:
    metrics = Metrics("worker")
    Runtime(replace(settings, stages="session,target"), metrics)
    name = "nowrank_worker_last_batch_timestamp_seconds"
    stages = ("session", "target", "labels")
    assert [metrics.registry.get_sample_value(name, {"stage": stage}) for stage in stages] == [0, 0, None]


class UnhurriedBroker:
    """Takes every message, and acknowledges one when it is told to."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes, bytes]] = []
        self.acknowledgements: list[asyncio.Future[None]] = []

    async def send(self, topic: str, *, value: bytes, key: bytes) -> "asyncio.Future[None]":
        self.sent.append((topic, key, value))
        self.acknowledgements.append(asyncio.get_running_loop().create_future())
        return self.acknowledgements[-1]


def test_messages_sent_together_wait_for_no_acknowledgement_but_the_last() -> None:
    async def scenario() -> None:
        broker, messages = UnhurriedBroker(), [(b"k%d" % number, b"v%d" % number) for number in range(300)]
        sending = asyncio.create_task(send_together(broker, "dead-letters", messages))
        await asyncio.sleep(0)
        assert broker.sent == [("dead-letters", *message) for message in messages]
        *others, last = broker.acknowledgements
        for acknowledgement in others:
            acknowledgement.set_result(None)
        done, _ = await asyncio.wait([sending], timeout=0.01)
        assert not done
        last.set_result(None)
        await sending

    asyncio.run(scenario())


def test_a_message_that_is_not_acknowledged_fails_all_that_were_sent_with_it() -> None:
    async def scenario() -> None:
        broker = UnhurriedBroker()
        sending = asyncio.create_task(send_together(broker, "dead-letters", [(b"k", b"v"), (b"l", b"w")]))
        await asyncio.sleep(0)
        broker.acknowledgements[1].set_exception(KafkaError("not enough replicas"))
        with pytest.raises(KafkaError, match="not enough replicas"):
            await sending

    asyncio.run(scenario())
