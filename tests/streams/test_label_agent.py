"""The stage `labels` on a real Redis: whatever happens between two steps, the labels that hold are those of the log."""

import asyncio
import random
from collections.abc import Callable

import msgspec
import pytest
import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from features.engagement import Engagement
from features.online_store import FencedStore
from features.rows import SHOWN, entity_prefix
from features.shown import ShownState, fold_shown
from infra.errors import StoreFenced
from infra.metrics import Metrics
from infra.settings import Settings
from streams.checkpoints import decode_checkpoints
from streams.dead_letters import DeadLetter
from streams.events import Click, Engaged, Play, Ranking, ServedItem, Thumb, encode_event
from streams.label_agent import POISON, LabelStage
from streams.log_records import Record
from streams.shown_labels import (
    LogJoin,
    RankingLabels,
    decode_labels,
    encode_labels,
    labels_of_row,
    newest_labels,
)
from streams.stage import SharedStore

BEGIN_MS = 1_700_000_000_000
WINDOW_MS = 1_800_000
PROJECT = "nowrank"


class Crash(Exception):
    """A worker ends here."""


class World:
    """The event logs, and the topic `labels` as a broker keeps it."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.labels: list[RankingLabels] = []
        self.dead: list[DeadLetter] = []
        self.crash_after_sends: int | None = None
        self._ends: dict[str, int] = {}

    def publish(self, event: Engaged | Ranking) -> Record:
        return self.append(event.topic, event.event_ts_ms, encode_event(event))

    def append(self, topic: str, at_ms: int, value: bytes) -> Record:
        offset = self._ends[topic] = self._ends.get(topic, -1) + 1
        record = Record(topic, 0, offset, at_ms, value)
        self.records.append(record)
        return record

    async def send(self, labels: list[RankingLabels]) -> None:
        for one in labels:
            self.labels.append(decode_labels(encode_labels(one)))
            if self.crash_after_sends is not None:
                self.crash_after_sends -= 1
                if self.crash_after_sends < 0:
                    raise Crash

    async def bury(self, letters: list[DeadLetter]) -> None:
        self.dead += letters

    def expected(self) -> dict[str, RankingLabels]:
        """The labels of the log without the records that are dead letters."""
        joined, dead = LogJoin(), {letter.name for letter in self.dead}
        for record in self.records:
            if f"{record.log}-{record.offset}" not in dead:
                joined.add(record)
        return joined.labels(WINDOW_MS)


class Worker:
    """One worker of the stage, which reads some topics' logs from their checkpoints."""

    def __init__(self, settings: Settings, world: World) -> None:
        self._world = world
        self.store = FencedStore(settings.redis, PROJECT)
        self.metrics = Metrics("worker")
        self.stage = LabelStage(SharedStore(self.store), world.send, world.bury, self.metrics, 300_000, WINDOW_MS)
        self.stage.begin(decode_checkpoints(self.store.read_checkpoints("labels")))
        self.next_offsets = {log: one.next_offset for log, one in self.stage.checkpoints.items()}

    async def catch_up(self, draw: random.Random, batch: int) -> None:
        """Apply what the checkpoints do not cover, each log in order, the logs in any interleaving."""
        todo: dict[str, list[Record]] = {}
        for record in self._world.records:
            if record.offset >= self.next_offsets.get(record.log, 0):
                todo.setdefault(record.log, []).append(record)
        while todo := {log: records for log, records in todo.items() if records}:
            await self.stage.apply(take(todo, draw, draw.randint(1, batch)))


def take(todo: dict[str, list[Record]], draw: random.Random, count: int) -> list[Record]:
    """The next records of logs drawn at random."""
    taken: list[Record] = []
    while len(taken) < count and (left := sorted(log for log, records in todo.items() if records)):
        taken.append(todo[draw.choice(left)].pop(0))
    return taken


def work(settings: Settings, world: World, seed: int = 0, batch: int = 7) -> Worker:
    """A fresh worker catches up; it has no connection any more."""
    worker = Worker(settings, world)
    try:
        asyncio.run(worker.catch_up(random.Random(seed), batch))
    finally:
        worker.store.close()
    return worker


def publish_some(world: World, count: int, seed: int) -> None:
    """Lists and reactions of three members; some name their list, some come late, some twice."""
    rng, shown = random.Random(seed), []
    for number in range(count):
        at_ms = BEGIN_MS + number * 120_000
        user_id = f"u{rng.randrange(3)}"
        if rng.random() < 0.4:
            items = [ServedItem(item_id=item_id, score=0.0) for item_id in rng.sample("abcdef", 3)]
            shown.append(f"r-{seed}-{number}")
            world.publish(
                Ranking(ranking_id=shown[-1], user_id=user_id, event_ts_ms=at_ms, task="pre_query", items=items)
            )
            continue
        common = {
            "event_id": f"event-{seed}-{number:010}",
            "user_id": user_id,
            "item_id": rng.choice("abcdef"),
            "event_ts_ms": at_ms - rng.choice((0, 0, 3_000_000)),
            "ranking_id": rng.choice((None, None, rng.choice(shown or ["r-none"]))),
        }
        event = rng.choice(
            (
                Click(**common),
                Play(watched_ms=95, duration_ms=100, **common),
                Thumb(value=rng.choice(("up", "down", "none")), **common),
            )
        )
        for _ in range(1 + (rng.random() < 0.1)):
            world.publish(event)


@given(
    seed=st.integers(0, 10_000), crashes=st.lists(st.integers(0, 12), min_size=0, max_size=3), batch=st.integers(1, 20)
)
@hypothesis_settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_labels_that_hold_are_those_of_the_log_after_any_crash(
    settings: Settings, redis_client: redis.Redis, seed: int, crashes: list[int], batch: int
) -> None:
    redis_client.flushdb()
    world = World()
    publish_some(world, 60, seed)
    for sends in crashes:
        world.crash_after_sends = sends
        try:
            work(settings, world, seed + sends, batch)
        except Crash:
            continue
    world.crash_after_sends = None
    work(settings, world, seed, batch=11)
    assert newest_labels(world.labels) == world.expected()


def test_a_zombie_that_sends_and_writes_late_changes_no_label(settings: Settings, redis_client: redis.Redis) -> None:
    world = World()
    publish_some(world, 40, seed=2)
    held: list[list[RankingLabels]] = []

    async def hold(labels: list[RankingLabels]) -> None:
        """The zombie's messages are on their way while the others work."""
        held.append(labels)
        if len(held) == 1:
            await asyncio.to_thread(work, settings, world, 3)

    zombie = Worker(settings, world)
    zombie.stage._send_labels = hold
    publish_some(world, 40, seed=5)
    asyncio.run(zombie.catch_up(random.Random(9), batch=30))
    for late in held:
        world.labels += late
    work(settings, world)
    assert newest_labels(world.labels) == world.expected()
    refused = zombie.metrics.registry.get_sample_value("nowrank_worker_row_conflicts_total", {"stage": "labels"})
    assert refused is not None
    assert refused > 0


def test_a_late_click_amends_a_label_that_was_sent_as_negative(settings: Settings, redis_client: redis.Redis) -> None:
    world = World()
    items = [ServedItem(item_id=item_id, score=0.0) for item_id in "ab"]
    world.publish(Ranking(ranking_id="r1", user_id="u", event_ts_ms=BEGIN_MS, task="search", query="x", items=items))
    work(settings, world)
    assert [(one.version, one.items) for one in world.labels] == [(1, [])]
    late = Click(event_id="0123456789abcdef", user_id="u", item_id="b", event_ts_ms=BEGIN_MS + 2 * WINDOW_MS)
    world.publish(msgspec.structs.replace(late, ranking_id="r1"))
    work(settings, world)
    assert newest_labels(world.labels)["r1"].positives == {"b"}
    assert [one.version for one in world.labels] == [1, 2]


def test_its_rows_expire_soon_and_are_no_rows_of_users(settings: Settings, redis_client: redis.Redis) -> None:
    world = World()
    publish_some(world, 20, seed=3)
    work(settings, world)
    stored = list(redis_client.scan_iter())
    keys = [key for key in stored if key.startswith(entity_prefix(SHOWN.join_key))]
    assert len(keys) == 3
    assert all(0 < redis_client.pttl(key) <= SHOWN.retention_ms for key in keys)  # type: ignore[operator]
    assert not [key for key in stored if key.startswith(entity_prefix("user_id"))]


def test_an_emptied_store_ends_the_worker_and_the_next_one_labels_anew(
    settings: Settings, redis_client: redis.Redis
) -> None:
    world = World()
    publish_some(world, 30, seed=6)
    worker = Worker(settings, world)
    redis_client.flushdb()
    with pytest.raises(StoreFenced):
        asyncio.run(worker.catch_up(random.Random(0), batch=5))
    work(settings, world)
    assert newest_labels(world.labels) == world.expected()


def test_records_that_are_no_events_are_passed_over(settings: Settings, redis_client: redis.Redis) -> None:
    world = World()
    publish_some(world, 10, seed=7)
    bad = Record("clicks", 1, 0, BEGIN_MS, b"{")
    world.records.append(bad)
    work(settings, world)
    assert newest_labels(world.labels) == world.expected()
    worker = Worker(settings, world)
    assert worker.next_offsets["clicks-1"] == 1


def break_fold(monkeypatch: pytest.MonkeyPatch, item_id: str) -> None:
    """A fold with a bug: a reaction to this title breaks it, after all of the work."""

    def breaking(state: ShownState, log: str, engagement: Engagement, ranking_id: str | None) -> None:
        fold_shown(state, log, engagement, ranking_id)
        if engagement.item_id == item_id:
            raise ZeroDivisionError(f"{engagement.user_id} breaks the fold")

    monkeypatch.setattr("streams.label_agent.fold_shown", breaking)


def break_labels(monkeypatch: pytest.MonkeyPatch, breaks: Callable[[str, ShownState], bool]) -> None:
    """Labels with a bug: they cannot be had of some members' rows."""

    def breaking(user_id: str, state: ShownState, window_ms: int) -> dict[str, RankingLabels]:
        if breaks(user_id, state):
            raise KeyError(user_id)
        return labels_of_row(user_id, state, window_ms)

    monkeypatch.setattr("streams.label_agent.labels_of_row", breaking)


def dead_letters_counted(worker: Worker) -> float | None:
    return worker.metrics.registry.get_sample_value("nowrank_worker_dead_letters_total", {"reason": POISON})


def test_what_breaks_the_fold_is_a_dead_letter_and_every_other_record_counts(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    publish_some(world, 60, seed=8)
    break_fold(monkeypatch, "c")
    worker = work(settings, world, batch=20)
    poison = [
        record for record in world.records if b'"item_id":"c"' in (record.value or b"") and record.topic != "rankings"
    ]
    assert len(poison) > 3
    assert sorted(letter.name for letter in world.dead) == sorted(f"{one.log}-{one.offset}" for one in poison)
    assert {letter.reason for letter in world.dead} == {POISON}
    assert dead_letters_counted(worker) == len(poison)
    assert not [letter for letter in world.dead if "u0" in letter.message or "u1" in letter.message]
    assert newest_labels(world.labels) == world.expected()
    ends = {log: one.next_offset for log, one in worker.stage.checkpoints.items()}
    assert ends == {record.log: record.offset + 1 for record in world.records}


def test_a_repaired_fold_labels_the_dead_letters_that_are_sent_again(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    publish_some(world, 60, seed=8)
    with monkeypatch.context() as broken:
        break_fold(broken, "c")
        work(settings, world, batch=20)
    without, letters, world.dead = world.expected(), world.dead, []
    for letter in letters:
        world.append(letter.topic, letter.broker_ts_ms, letter.raw)
    work(settings, world)
    assert newest_labels(world.labels) == world.expected() != without


def test_a_record_after_which_the_row_can_have_no_labels_is_a_dead_letter_and_stays_out_of_the_row(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def knows_c(user_id: str, state: ShownState) -> bool:
        return any(one.item_id == "c" for reactions in state.reactions.values() for one in reactions)

    break_labels(monkeypatch, knows_c)
    world = World()
    publish_some(world, 60, seed=8)
    work(settings, world, batch=20)
    assert len(world.dead) > 3
    assert newest_labels(world.labels) == world.expected()
    monkeypatch.undo()
    publish_some(world, 20, seed=12)  # the rows are as good as new: nothing of the poison is in them
    work(settings, world)
    assert newest_labels(world.labels) == world.expected()


def test_a_row_that_can_have_no_labels_keeps_only_its_own_users_records(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    publish_some(world, 30, seed=9)
    work(settings, world)
    break_labels(monkeypatch, lambda user_id, state: user_id == "u1")
    before = len(world.records)
    publish_some(world, 30, seed=10)
    work(settings, world)
    users = {f"{one.log}-{one.offset}": b'"user_id":"u1"' in (one.value or b"") for one in world.records[before:]}
    assert sorted(letter.name for letter in world.dead) == sorted(name for name, is_u1 in users.items() if is_u1)
    assert newest_labels(world.labels) == world.expected()


def test_a_dead_letter_counts_once_although_its_users_row_is_refused(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    publish_some(world, 40, seed=2)
    break_fold(monkeypatch, "c")
    zombie, by_others = Worker(settings, world), World()
    by_others.records = world.records

    async def hold(labels: list[RankingLabels]) -> None:
        """The others work while the zombie's first message is on its way."""
        if not by_others.labels:
            await asyncio.to_thread(work, settings, by_others, 3)
        await world.send(labels)

    zombie.stage._send_labels = hold
    asyncio.run(zombie.catch_up(random.Random(9), batch=100))
    refused = zombie.metrics.registry.get_sample_value("nowrank_worker_row_conflicts_total", {"stage": "labels"})
    assert refused is not None
    assert refused > 0
    assert dead_letters_counted(zombie) == len(world.dead) == len({letter.name for letter in world.dead}) > 0
