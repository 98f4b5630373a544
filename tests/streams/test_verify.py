"""`nowrank verify` on a real broker and Redis with a real worker: it says equal when it is, and finds every lie."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from kafka import KafkaProducer

from features.online_store import CHECKPOINT_KEY, FencedStore, connect, read_states
from features.rows import CONTAINED_FIELD, ITEM, USER, encode_row, encode_value, feature_field
from features.spec import DType
from infra.errors import BrokerUnavailable, StoreUnavailable
from infra.metrics import Metrics
from nowrank.cli import main
from streams.audit.log_reader import LogReader
from streams.audit.store_snapshot import count_keys
from streams.audit.verify import VerifyReport, verify_store
from streams.checkpoints import Checkpoint, decode_checkpoints, encode_checkpoint
from streams.progress import Advance
from streams.session_agent import SessionStage
from streams.stage import SharedStore
from streams.topics import EVENT_TOPICS, FOLDED_TOPICS
from tests.faults.workload import Load, Workload, send
from tests.faults.world import World

pytestmark = pytest.mark.slow

EVENTS = 1_500


def quiet(_what: str, _total: int) -> AbstractContextManager[Advance]:
    return nullcontext(lambda _count: None)


def verified(world: World) -> VerifyReport:
    return verify_store(world.settings, quiet)


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A log, and the store that a worker has made of it; the worker is gone."""
    world = World(tmp_path_factory.mktemp("verify"))
    try:
        workload = Workload(seed=11)
        send(world.settings, workload.take(EVENTS))
        producer = KafkaProducer(bootstrap_servers=world.settings.kafka)
        for topic, value in (("clicks", b"{"), ("plays", b"\xff"), ("thumbs", None), ("deltas", b"no deltas")):
            producer.send(topic, key=b"k", value=value, partition=0).get(10)
        producer.close()
        worker = world.worker().start()
        world.settle()
        worker.terminate()
        yield world
    finally:
        world.close()


@pytest.fixture
def client(folded: World) -> Iterator[redis.Redis]:
    """A client of the store; what a test does to it is undone."""
    with connect(folded.settings.redis) as client:
        any_client: Any = client
        before = {key: any_client.dump(key) for key in any_client.scan_iter()}
        yield client
        client.flushdb()
        for key, dumped in before.items():
            any_client.restore(key, 0, dumped)


def key_of(folded: World, family: Any, value: str) -> bytes:
    return bytes(family.key(value, folded.settings.feast_project))


def test_a_store_that_was_folded_from_the_log_is_equal_to_it(
    folded: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = verified(folded)
    assert report.differences == []
    assert report.exit_code == 0
    assert report.rows == {"user": 40, "item": 30, "query": 3, "source_item": 8, "country": 3}
    assert report.deltas > EVENTS
    assert report.records > EVENTS
    assert set(report.unfolded.values()) == {0}
    monkeypatch.setenv("NOWRANK_KAFKA", folded.settings.kafka)
    monkeypatch.setenv("NOWRANK_REDIS", folded.settings.redis)
    assert main(["verify"]) == 0
    assert capsys.readouterr().out.endswith(f"\n0 of {report.records} records are not folded yet\nequal\n")


def test_the_first_record_of_a_log_that_a_worker_holds_is_not_folded_yet_and_no_doubt(tmp_path: Path) -> None:
    with closing(World(tmp_path)) as world:
        worker = world.worker().start()
        worker.wait_until_ready()
        worker.terminate()
        send(world.settings, Workload(seed=17).take(1))
        report = verified(world)
        assert (report.unverifiable, report.exit_code) == ({}, 0)
        assert sum(report.unfolded.values()) == 1


def test_a_store_into_which_nothing_was_folded_is_not_called_equal(folded: World, client: redis.Redis) -> None:
    client.flushdb()
    report = verified(folded)
    assert (report.differences, report.rows, report.exit_code) == ([], {}, 2)
    assert sum(report.unfolded.values()) == report.records
    assert [reason.split(" of ")[1].split("-")[0] for reason in report.unverifiable] == list(FOLDED_TOPICS)


def test_a_log_without_a_checkpoint_is_named_and_the_rows_are_compared_all_the_same(
    folded: World, client: redis.Redis
) -> None:
    whole = verified(folded)
    client.hdel(CHECKPOINT_KEY + b"session", "plays-0")
    client.hset(key_of(folded, ITEM, "i3"), feature_field("item", "item_as_of_ms"), encode_value(DType.INT64, 7))  # type: ignore[arg-type]
    report = verified(folded)
    [reason] = report.unverifiable
    assert reason.startswith("this store has no checkpoint of plays-0, with ")
    assert (report.rows, [one.feature for one in report.differences]) == (whole.rows, ["item_as_of_ms"])
    client.delete(key_of(folded, ITEM, "i3"))
    client.hset(CHECKPOINT_KEY + b"session", "plays-0", encode_checkpoint(Checkpoint()))
    assert verified(folded).unfolded["plays"] > whole.unfolded["plays"]


def test_records_behind_the_checkpoints_are_counted_by_topic_and_are_no_difference(
    folded: World, client: redis.Redis
) -> None:
    before = verified(folded)
    events = Workload(seed=15).take(100)
    send(folded.settings, events)
    report = verified(folded)
    assert (report.differences, report.exit_code) == ([], 0)
    wanted = Counter(before.unfolded) + Counter(event.topic for event in events)
    assert report.unfolded == {topic: wanted[topic] for topic in FOLDED_TOPICS}


def test_rows_are_compared_at_their_own_version_while_a_worker_goes_on(folded: World, client: redis.Redis) -> None:
    workload = Workload(seed=12)
    worker = folded.worker("live").start()
    worker.wait_until_ready()
    with Load(folded.settings, workload, events_per_s=200):
        reports = [verified(folded) for _ in range(3)]
    worker.terminate()
    assert [report.differences for report in reports] == [[], [], []]
    assert reports[2].records > reports[0].records


@pytest.mark.parametrize("feature", ["item_clicks_1d", "item_as_of_ms"])
def test_a_changed_feature_is_named_with_both_values(folded: World, client: redis.Redis, feature: str) -> None:
    dtype, value = (DType.FLOAT64, 12.5) if feature == "item_clicks_1d" else (DType.INT64, 7)
    client.hset(key_of(folded, ITEM, "i3"), feature_field("item", feature), encode_value(dtype, value))  # type: ignore[arg-type]
    report = verified(folded)
    assert [(one.family, one.key, one.feature) for one in report.differences] == [("item", "i3", feature)]
    assert report.exit_code == 1


def test_a_changed_state_is_found_where_it_differs(folded: World, client: redis.Redis) -> None:
    [state] = read_states(client, folded.settings.feast_project, [(ITEM, "i4")])
    before = state.totals[1]
    state.totals[1] += 1
    key = key_of(folded, ITEM, "i4")
    packed = encode_row(ITEM, state, {})[-1]
    client.hset(key, ITEM.packed_fields[0], packed)  # type: ignore[arg-type]
    found = {(one.key, one.feature): (one.expected, one.stored) for one in verified(folded).differences}
    assert found[("i4", "state.totals[1]")] == (str(before), str(before + 1))


def test_a_difference_of_rounding_is_none(folded: World, client: redis.Redis) -> None:
    [state] = read_states(client, folded.settings.feast_project, [(ITEM, "i4")])
    exact = state.sums[4]
    assert exact > 0
    key, field = key_of(folded, ITEM, "i4"), feature_field("item", "item_clicks_1d")
    client.hset(key, field, encode_value(DType.FLOAT64, exact * (1 + 1e-12)))  # type: ignore[arg-type]
    assert verified(folded).differences == []
    client.hset(key, field, encode_value(DType.FLOAT64, exact * (1 + 1e-6)))  # type: ignore[arg-type]
    assert [one.feature for one in verified(folded).differences] == ["item_clicks_1d"]


def test_a_missing_row_is_a_difference(folded: World, client: redis.Redis) -> None:
    client.delete(key_of(folded, USER, "u5"))
    report = verified(folded)
    assert {(one.family, one.key, one.stored) for one in report.differences} == {("user", "u5", "(missing)")}


def test_damaged_rows_are_one_difference_each_and_hide_no_other(folded: World, client: redis.Redis) -> None:
    client.hset(key_of(folded, USER, "u1"), CONTAINED_FIELD, b"\xff\xffrubbish")  # type: ignore[arg-type]
    for damaged in (key_of(folded, USER, "u2"), key_of(folded, USER, "nobody"), key_of(folded, ITEM, "i1")):
        client.set(damaged, "no row")
    client.delete(key_of(folded, USER, "u5"))
    client.hset(key_of(folded, ITEM, "i3"), feature_field("item", "item_as_of_ms"), encode_value(DType.INT64, 7))  # type: ignore[arg-type]
    report = verified(folded)
    found = {(one.family, one.key, one.feature): one.stored for one in report.differences}
    assert len([one for one in report.differences if one.key != "u5"]) == 5
    assert "offsets of a row cannot be decoded" in found.pop(("user", "u1", "(row)"))
    for name in (("user", "u2"), ("user", "nobody"), ("item", "i1")):
        assert "its key holds something else (WRONGTYPE" in found.pop((*name, "(row)"))
    assert set(found) == {("user", "u5", "(row)"), ("item", "i3", "item_as_of_ms")}
    assert report.exit_code == 1


def test_a_damaged_row_hides_no_delta_that_is_missing(folded: World, client: redis.Redis) -> None:
    any_client: Any = client
    key = CHECKPOINT_KEY + b"target"
    client.set(key_of(folded, USER, "u1"), "no row")
    for log, stored in any_client.hgetall(key).items():
        checkpoint = decode_checkpoints({"": stored})[""]
        checkpoint.first_offset = 1  # as if the delta log's first message had never been sent
        client.hset(key, log, encode_checkpoint(checkpoint))
    assert {one.family for one in verified(folded).differences} > {"delta log"}


def test_a_row_that_no_record_explains_is_a_difference(folded: World, client: redis.Redis) -> None:
    client.copy(key_of(folded, USER, "u5"), key_of(folded, USER, "nobody"))  # type: ignore[arg-type]
    report = verified(folded)
    assert [(one.family, one.key, one.feature) for one in report.differences] == [("user", "nobody", "(row)")]
    assert "no record is about it" in report.differences[0].expected


def test_a_row_behind_its_checkpoint_and_one_that_lost_its_past_are_differences(
    folded: World, client: redis.Redis
) -> None:
    behind, lost = key_of(folded, USER, "u5"), key_of(folded, USER, "u6")
    any_client: Any = client
    old = any_client.dump(behind)
    client.delete(lost)
    worker = folded.worker("behind").start()
    worker.wait_until_ready()
    send(folded.settings, Workload(seed=13, users=7).take(200))
    folded.settle()
    worker.terminate()
    client.restore(behind, 0, old, replace=True)
    differences = verified(folded).differences
    assert {one.key for one in differences if one.family == "user"} == {"u5", "u6"}
    assert {one.feature for one in differences if one.key == "u5"} == {"(row)"}
    assert {one.family for one in differences} <= {"user", "delta log"}  # u6's new thumbs retracted no old ones


def test_what_stage_2_remembers_of_its_log_is_compared_too(folded: World, client: redis.Redis) -> None:
    any_client: Any = client
    key = CHECKPOINT_KEY + b"target"
    log, stored = next(iter(any_client.hgetall(key).items()))
    checkpoint = decode_checkpoints({"": stored})[""]
    source = next(iter(checkpoint.highest))
    checkpoint.highest[source] = (checkpoint.highest[source][0] + 1, 0)
    client.hset(key, log, encode_checkpoint(checkpoint))
    [difference] = verified(folded).differences
    assert (difference.family, difference.key, difference.feature) == ("checkpoint", log.decode(), f"highest[{source}]")


def test_a_delta_that_was_never_sent_is_a_difference(folded: World, client: redis.Redis) -> None:
    any_client: Any = client
    stored = any_client.hgetall(CHECKPOINT_KEY + b"session")
    checkpoints = decode_checkpoints({log.decode(): value for log, value in stored.items()})
    send(folded.settings, Workload(seed=14).take(100))
    asyncio.run(fold_without_sending(folded, checkpoints))
    families = {one.family for one in verified(folded).differences}
    assert families == {"delta log"}


async def fold_without_sending(folded: World, checkpoints: dict[str, Checkpoint]) -> None:
    """Stage 1 with a sender that says that it has sent, and has not."""

    async def send_nothing(_things: Any) -> int:
        return 0

    store = FencedStore(folded.settings.redis, folded.settings.feast_project)
    stage = SessionStage(SharedStore(store), send_nothing, send_nothing, Metrics("worker"), 300_000, 1 << 20)  # type: ignore[arg-type]
    stage.begin(checkpoints)
    with LogReader(folded.settings) as reader:
        for log, span in reader.spans(EVENT_TOPICS).items():
            begin = checkpoints[log].next_offset if log in checkpoints else span.first
            if records := list(reader.read_span(span, begin)):
                await stage.apply(records)
    store.close()


def test_a_log_that_is_another_one_cannot_be_verified(folded: World, client: redis.Redis) -> None:
    any_client: Any = client
    key = CHECKPOINT_KEY + b"session"
    checkpoint = decode_checkpoints({"": any_client.hget(key, "plays-0")})[""]
    checkpoint.log_id = "another"
    client.hset(key, "plays-0", encode_checkpoint(checkpoint))
    report = verified(folded)
    assert report.exit_code == 2
    [(reason, rows)] = report.unverifiable.items()
    assert "plays-0 is another log" in reason
    assert rows > 0
    assert report.rows["user"] + rows == 40


def test_rows_that_began_before_the_log_does_cannot_be_verified(folded: World, client: redis.Redis) -> None:
    """Retention has deleted what the rows began with: the log of now begins at 0, so they began before that."""
    any_client: Any = client
    key = CHECKPOINT_KEY + b"target"
    for log, stored in any_client.hgetall(key).items():
        checkpoint = decode_checkpoints({"": stored})[""]
        checkpoint.first_offset = -5
        client.hset(key, log, encode_checkpoint(checkpoint))
    report = verified(folded)
    assert report.exit_code == 2
    assert all("has lost the 5 records" in reason for reason in report.unverifiable)
    assert set(report.rows) == {"user"}


def test_the_command_prints_a_table_and_ends_with_the_verdict(
    folded: World, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NOWRANK_KAFKA", folded.settings.kafka)
    monkeypatch.setenv("NOWRANK_REDIS", folded.settings.redis)
    send(folded.settings, Workload(seed=16).take(60))
    report = verified(folded)
    assert main(["verify"]) == 0
    printed = capsys.readouterr().out
    unfolded = sum(report.unfolded.values())
    assert f"\n{unfolded} of {report.records} records are not folded yet: plays {report.unfolded['plays']}, " in printed
    assert printed.endswith("\nequal as far as it is folded\n")
    client.delete(key_of(folded, USER, "u1"), key_of(folded, USER, "u2"))
    assert main(["verify", "--limit", "1"]) == 1
    printed = capsys.readouterr().out
    assert "user                  38           2" in printed
    assert "more: --limit shows them" in printed
    assert main(["verify", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert {one["key"] for one in document["differences"]} == {"u1", "u2"}
    assert document["unfolded"] == report.unfolded
    client.flushdb()
    assert main(["verify"]) == 2
    printed = capsys.readouterr().out
    assert "cannot be verified: this store has no checkpoint of " in printed
    assert printed.endswith("\ncould not be verified\n")


def test_a_broker_that_is_away_is_said_so(
    folded: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for nowhere in ("127.0.0.1:1", "localhost:abc"):
        with pytest.raises(BrokerUnavailable, match="no broker answers"):
            verify_store(replace(folded.settings, kafka=nowhere), quiet)
    monkeypatch.setenv("NOWRANK_KAFKA", folded.settings.kafka)
    monkeypatch.setenv("NOWRANK_REDIS", "127.0.0.1:1")
    assert main(["verify"]) == 2
    assert "127.0.0.1:1" in capsys.readouterr().err


def test_a_store_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(StoreUnavailable, match=r"'127.0.0.1:1,password=\*\*\*' does not answer"):
        count_keys("127.0.0.1:1,password=hunter2")
