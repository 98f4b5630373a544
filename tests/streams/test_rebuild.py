"""`nowrank rebuild` on a real broker and Redis: the new rows are what the log gives, and until then nothing changes."""

import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import redis
from kafka import KafkaProducer

from features.online_store import CHECKPOINT_KEY, FencedStore, connect, parse_address, read_states
from features.rows import ITEM, USER
from infra.errors import BadInput, CheckpointInvalid, NowrankError, StoreFenced
from infra.settings import child_environment
from serving.near_cache import ItemRow, NearCache
from streams.audit.log_reader import LogReader
from streams.audit.verify import verify_store
from streams.events import decode_record
from streams.log_records import Record
from streams.progress import Advance
from streams.rebuilding.plan import find_begin
from streams.rebuilding.rebuild import rebuild_store
from streams.rebuilding.spare_store import MARKER_KEY, SpareStore, with_db
from streams.topics import DELTAS, create_topics
from tests.faults.processes import Child, wait_until
from tests.faults.workload import Load, Workload, send
from tests.faults.world import World

pytestmark = pytest.mark.slow


def quiet(_what: str, _total: int) -> AbstractContextManager[Advance]:
    return nullcontext(lambda _count: None)


@pytest.fixture
def world(tmp_path: Any) -> Iterator[World]:
    """A broker and a Redis of the test's own."""
    own = World(tmp_path)
    yield own
    own.close()


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world whose log a worker has folded; the worker is gone. Every rebuild leaves it as right as it was."""
    world = World(tmp_path_factory.mktemp("folded"))
    try:
        send(world.settings, Workload(seed=21).take(1_000))
        worker = world.worker().start()
        world.settle()
        worker.terminate()
        yield world
    finally:
        world.close()


def dump(client: Any) -> dict[bytes, bytes]:
    return {key: client.dump(key) for key in client.scan_iter()}


def spare_client(world: World) -> redis.Redis:
    return connect(with_db(world.settings.redis, 1))


def assert_equal_to_the_log(world: World) -> None:
    report = verify_store(world.settings, quiet)
    assert report.differences[:5] == []
    assert report.exit_code == 0
    assert sum(report.rows.values()) > 50


def test_a_rebuild_under_load_changes_no_count_and_the_worker_goes_on_behind_it(world: World) -> None:
    workload = Workload(seed=20)
    send(world.settings, workload.take(1_500))
    worker = world.worker().keep()
    world.settle()
    with Load(world.settings, workload, events_per_s=150):
        report = rebuild_store(world.settings, progress=quiet)
        wait_until(lambda: worker.exit_codes, "the worker met the new store and ended")
        wait_until(worker.is_ready, "it was started again")
    assert report.events >= 1_500
    assert worker.exit_codes == [70]
    world.check_exact(workload)
    with spare_client(world) as spare:
        assert spare.dbsize() == 0


def test_rows_that_were_spoilt_by_hand_are_right_again(folded: World) -> None:
    with folded.client() as client:
        before = dump(client)
        [spoilt, lost, strange] = [USER.key(user, folded.settings.feast_project) for user in ("u1", "u2", "nobody")]
        client.copy(USER.key("u3", folded.settings.feast_project), spoilt, replace=True)  # type: ignore[arg-type]
        client.copy(spoilt, strange)  # type: ignore[arg-type]
        client.delete(lost)
        assert verify_store(folded.settings, quiet).exit_code == 1
        rebuild_store(folded.settings, progress=quiet)
        assert set(dump(client)) == set(before)
    assert_equal_to_the_log(folded)


@pytest.mark.parametrize(
    ("stage", "log"), [("session", "clicks-0"), ("target", "deltas-0"), ("session", None), ("target", None)]
)
def test_a_damaged_checkpoint_is_named_by_worker_and_verify_and_repaired_by_a_rebuild(
    folded: World, stage: str, log: str | None
) -> None:
    key = CHECKPOINT_KEY + stage.encode()
    with folded.client() as client:
        if log is None:
            client.delete(key)
            client.set(key, "no checkpoints")
        else:
            client.hset(key, log, "rubbish")
    damaged = f"the checkpoint {f'of {log}' if log else key.decode()} cannot be decoded"
    named = rf"{damaged} \(.*\): run `nowrank rebuild`"
    with pytest.raises(CheckpointInvalid, match=named):
        verify_store(folded.settings, quiet)
    worker = folded.worker(f"damaged-{stage}-{log}").start()
    assert worker.wait() == 70
    assert re.search(named, worker.log())
    report = rebuild_store(folded.settings, progress=quiet)
    assert f"{damaged}: it is taken for none" in report.notes
    worker.start()
    folded.settle()
    worker.terminate()
    assert_equal_to_the_log(folded)


def test_an_interrupted_rebuild_leaves_the_live_rows_as_they_were_and_can_be_run_again(folded: World) -> None:
    send(folded.settings, Workload(seed=22).take(200))  # not folded yet, and not by the rebuild either
    with folded.client() as client, spare_client(folded) as spare:
        before = dump(client)
        environment = {**child_environment(folded.settings), "PYTHONUNBUFFERED": "1"}
        command = (sys.executable, "-m", "nowrank.cli", "rebuild")
        rebuild = Child(command, environment, folded.folder / "rebuild.log").start()
        wait_until(lambda: spare.dbsize() > 10, "the new store is half built")
        rebuild.send_signal(signal.SIGKILL)
        rebuild.wait()
        assert dump(client) == before
        assert spare.dbsize() > 10
        rebuild_store(folded.settings, progress=quiet)
        assert set(dump(client)) == set(before)
        assert spare.dbsize() == 0
    assert_equal_to_the_log(folded)


def test_the_new_rows_survive_a_restart_of_redis(folded: World) -> None:
    with folded.client() as client:
        client.delete(USER.key("u1", folded.settings.feast_project))
        rebuild_store(folded.settings, progress=quiet)
        wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "the log of Redis is written")
        time.sleep(1.1)  # Redis syncs its log every second
    folded.redis.kill()
    folded.redis.start()
    assert_equal_to_the_log(folded)


def test_the_scorers_near_cache_sees_the_new_rows(folded: World) -> None:
    items: dict[str, ItemRow] = {}
    cache = NearCache(
        folded.settings, lambda rows: items.update({row.item_id: row for row in rows}), lambda _answers: None
    )
    project = folded.settings.feast_project
    with folded.client() as client:
        [right] = read_states(client, project, [(ITEM, "i1")])
        client.copy(ITEM.key("i2", project), ITEM.key("i1", project), replace=True)  # type: ignore[arg-type]
        client.copy(ITEM.key("i2", project), ITEM.key("gone", project))  # type: ignore[arg-type]
        cache.start()
        try:
            wait_until(lambda: "gone" in items and items["gone"].contained, "the near cache holds the spoilt rows")
            assert items["i1"].state.totals != right.totals
            rebuild_store(folded.settings, keep_old=True, progress=quiet)  # nothing is flushed after the switch
            wait_until(lambda: items["i1"].state.totals == right.totals, "the new row is in the near cache")
            wait_until(lambda: not items["gone"].contained, "the row that the log knows nothing of is gone")
        finally:
            cache.stop()


def test_a_worker_that_began_before_the_switch_is_fenced_off_the_new_store(folded: World) -> None:
    store = FencedStore(folded.settings.redis, folded.settings.feast_project)
    [row] = store.read_rows(USER, ["u1"])
    rebuild_store(folded.settings, progress=quiet)
    with pytest.raises(StoreFenced):
        store.write_rows([row])
    assert_equal_to_the_log(folded)


def test_from_an_offset_forgets_what_was_before_it_and_verify_knows(world: World) -> None:
    first, second = Workload(seed=23, users=5), Workload(seed=24, users=5)
    send(world.settings, first.take(400))
    send(world.settings, second.take(400))
    worker = world.worker().keep()
    world.settle()
    with LogReader(world.settings) as reader:
        begin = {log: min(60, span.end) for log, span in reader.spans(["plays"]).items()}
    rebuild_store(world.settings, begin="60", progress=quiet)
    wait_until(lambda: worker.exit_codes, "the worker met the new store and ended")
    send(world.settings, second.take(100))
    world.settle()
    report = verify_store(world.settings, quiet)
    assert report.differences[:5] == []
    assert report.exit_code == 0
    with LogReader(world.settings) as reader:
        later = {
            decode_record("plays", record.value).event_id  # type: ignore[union-attr]
            for log, span in reader.spans(["plays"]).items()
            for record in reader.read_span(span, begin[log])
        }
    titles = [(ITEM, f"i{number}") for number in range(first.items)]
    with world.client() as client:
        states = read_states(client, world.settings.feast_project, titles)
    assert sum(state.totals[2] for state in states) == len(later)


def test_keys_of_others_are_never_put_away(folded: World) -> None:
    with folded.client() as client, spare_client(folded) as spare:
        spare.set("somebody", "else")
        with pytest.raises(NowrankError, match="holds keys that are not a rebuild's"):
            rebuild_store(folded.settings, progress=quiet)
        assert spare.get("somebody") == b"else"
        rebuild_store(folded.settings, spare_db=2, progress=quiet)
        client.set("somebody", "else")
        with pytest.raises(NowrankError, match="such as b'somebody'"):
            rebuild_store(folded.settings, spare_db=2, progress=quiet)
        assert client.get("somebody") == b"else"
        client.delete("somebody")
        spare.flushdb()
    with pytest.raises(NowrankError, match="name another one"):
        rebuild_store(folded.settings, spare_db=0, progress=quiet)
    with pytest.raises(NowrankError, match="no database 99"):
        rebuild_store(folded.settings, spare_db=99, progress=quiet)


def test_of_two_rebuilds_only_the_later_one_can_switch(folded: World) -> None:
    live_address, project = with_db(folded.settings.redis, 5), folded.settings.feast_project
    first, second = SpareStore(live_address, project), SpareStore(live_address, project)
    for spare in (first, second):
        spare.prepare()
        FencedStore(spare.address, project).close()
    with connect(live_address) as client:
        client.set("nowrank:generation", "live")
        with pytest.raises(NowrankError, match="another rebuild has taken the spare database"):
            first.switch()
        first.free()
        assert client.get("nowrank:generation") == b"live"
        second.switch()
        assert client.get("nowrank:generation") != b"live"
        assert client.exists(MARKER_KEY) == 0


def test_a_live_store_of_another_log_begins_anew(world: World) -> None:
    """The broker has lost its log, as the embedded one does: the workers must fold the new log from its beginning."""
    send(world.settings, Workload(seed=26).take(300))
    worker = world.worker().start()
    world.settle()
    worker.terminate()
    world.broker.kill()
    world.broker.start()
    create_topics(world.settings)
    workload = Workload(seed=25)
    send(world.settings, workload.take(300))
    report = rebuild_store(world.settings, progress=quiet)
    assert "another log than before" in report.notes[0]
    assert report.events == 0
    world.worker("after").keep()
    world.check_exact(workload)


def last_delta_messages(world: World) -> list[Record]:
    with LogReader(world.settings) as reader:
        spans = [span for span in reader.spans([DELTAS]).values() if span.end > span.first]
        return [list(reader.read_span(span))[-1] for span in spans]


def test_what_a_worker_sends_late_of_a_replaced_log_is_found_by_verify(world: World) -> None:
    """A delta names its log, but not which log of that name; the limit that docs/reliability.md states."""
    send(world.settings, Workload(seed=29).take(300))
    worker = world.worker().start()
    world.settle()
    worker.terminate()
    late = last_delta_messages(world)
    world.restart_broker()
    send(world.settings, Workload(seed=30).take(300))
    rebuild_store(world.settings, progress=quiet)
    producer = KafkaProducer(bootstrap_servers=world.settings.kafka)
    for message in late:
        producer.send(DELTAS, message.value, partition=message.partition).get(timeout=10)
    producer.close()
    world.worker("after").keep()
    world.settle()
    report = verify_store(world.settings, quiet)
    assert report.exit_code == 1
    assert {one.family for one in report.differences} >= {"delta log"}


def test_where_to_begin_is_an_offset_or_a_time(folded: World) -> None:
    with LogReader(folded.settings) as reader:
        spans = reader.spans(["plays", "deltas"])
        span = spans["plays-0"]
        records = list(reader.read_span(span))
        middle = records[len(records) // 2]
        assert find_begin(reader, spans, None) is None
        assert find_begin(reader, spans, "earliest") == {log: 0 for log in spans if log.startswith("plays")}
        assert find_begin(reader, {"plays-0": span}, "7") == {"plays-0": 7}
        assert find_begin(reader, {"plays-0": span}, "99999") == {"plays-0": span.end}
        at_ms = middle.broker_ts_ms
        first = next(record.offset for record in records if record.broker_ts_ms >= at_ms)
        assert find_begin(reader, {"plays-0": span}, str(at_ms)) == {"plays-0": first}
        assert find_begin(reader, {"plays-0": span}, "2200-01-01") == {"plays-0": span.end}
        with pytest.raises(BadInput, match="--from soon"):
            find_begin(reader, spans, "soon")


def test_the_spare_database_keeps_the_options_of_the_address() -> None:
    spare = with_db("store:6379,db=3,password=p", 4)
    assert parse_address(spare) == {"host": "store", "port": 6379, "db": 4, "password": "p"}
    assert SpareStore("store:6379,db=3", "nowrank").db == 4
