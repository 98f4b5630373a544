"""A broker that is away, or comes back with another log."""

import os
import re
import signal
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import KafkaAdminClient

from infra.clock import monotonic_s
from infra.embedded import start_stack, stop_stack
from infra.embedded.control import SUPERVISOR_LOG
from infra.embedded.plan import log_dir, module_command
from infra.embedded.stack_file import running_stack
from infra.settings import Settings, child_environment
from streams.runtime import CANNOT_CONTINUE
from streams.topics import FOLDED_TOPICS, THUMBS, TOPICS, create_topics, read_topic_ids
from tests.faults.cases import Case
from tests.faults.exactness import check_exact
from tests.faults.processes import Child, Worker, wait_until
from tests.faults.workload import Load, Workload, send
from tests.faults.world import World

pytestmark = pytest.mark.slow

EVENTS_PER_S = 300
AWAY_S = 20.0
REMEDY = "nowrank rebuild"
EVERY_TOPIC = tuple(spec.name for spec in TOPICS)


@pytest.mark.parametrize("how", ["silent", "refusing"])
def test_broker_unreachable_for_20_s(proxied_world: World, case: Case, how: str) -> None:
    case.expects("folded again within seconds of its return; every row equal")
    world, workload = proxied_world, Workload(seed=21)
    assert world.proxy is not None
    worker = world.worker().keep()
    worker.wait_until_ready()
    with Load(world.settings, workload, EVENTS_PER_S):
        wait_until(lambda: worker.metric("nowrank_worker_records_total") > EVENTS_PER_S, "it is under load")
        if how == "silent":
            world.broker.send_signal(signal.SIGSTOP)
        else:
            world.proxy.cut()
        before = sum(world.next_offsets().values())
        time.sleep(AWAY_S)  # the fault itself
        offsets = world.next_offsets()
        assert sum(offsets.values()) - before < 2 * EVENTS_PER_S, "the broker was away for most of the time"
        if how == "silent":
            world.broker.send_signal(signal.SIGCONT)
        else:
            world.proxy.mend()
        seconds = wait_until(lambda: sum(world.next_offsets().values()) > sum(offsets.values()), "it folds again")
    case.observes(f"after {seconds:.1f} s, {len(worker.exit_codes)} ends; {world.check_exact(workload)}")


def test_embedded_broker_restarted(tmp_path: Path, case: Case) -> None:
    case.expects("the stack empties the store and says so; the rows are those of the new log")
    settings = Settings(state_dir=tmp_path)
    started = start_stack(settings, only=("broker", "redis", "worker"), tied=True, say=lambda _: None)
    settings = replace(settings, kafka=started["kafka"], redis=started["redis"])
    try:
        before, after = Workload(seed=22, items=60), Workload(seed=23)
        send(settings, before.take(1_000))
        check_exact(settings, before)
        worker = part_of(settings, "session-0")
        os.kill(part_of(settings, "broker")["pid"], signal.SIGKILL)
        wait_until(
            lambda: (
                (now := part_of(settings, "session-0"))["restarts"] > worker["restarts"] and now["state"] == "ready"
            ),
            "the worker is started again",
        )
        send(settings, after.take(500))
        compared = check_exact(settings, after)
        said = (log_dir(settings) / SUPERVISOR_LOG).read_text()
    finally:
        stop_stack(settings, say=lambda _: None)
    assert "came back empty: the events it held are lost" in said
    [emptied] = re.findall(r"redis +emptied: (.*)", said)
    case.observes(f"{emptied}; {compared}")


def part_of(settings: Settings, name: str) -> dict[str, Any]:
    """What the stack says of one of its processes."""
    stack = running_stack(settings.state_dir)
    assert stack is not None
    return next(process for process in stack["processes"] if process["name"] == name)


def test_worker_refuses_another_log(world: World, case: Case) -> None:
    case.expects(f"exit code {CANNOT_CONTINUE}, '{REMEDY}', no row changed; after that command every row equal")
    after, worker = Workload(seed=25), worker_with_rows(world, seed=24)
    worker.terminate()
    rows = stored_hashes(world)
    world.restart_broker()
    send(world.settings, after.take(2_000))  # longer than the other: only its id tells
    assert refused(world.worker("worker-1").start())
    assert stored_hashes(world) == rows
    case.observes(f"refused; {after_rebuild(world, after)}")


def test_log_replaced_under_a_running_worker(world: World, case: Case) -> None:
    case.expects(f"the worker ends, '{REMEDY}'; after that command every row equal")
    after, worker = Workload(seed=27), worker_with_rows(world, seed=26)
    world.restart_broker()
    began_s = monotonic_s()
    send(world.settings, after.take(2_000))
    assert refused(worker)
    case.observes(f"ended after {monotonic_s() - began_s:.0f} s; {after_rebuild(world, after)}")


@pytest.mark.parametrize("topics", [(THUMBS,), EVERY_TOPIC], ids=["one", "all"])
def test_log_deleted_under_a_running_worker(world: World, case: Case, topics: tuple[str, ...]) -> None:
    case.expects(f"the worker ends, and again, '{REMEDY}'; after that command every row equal")
    after, worker = Workload(seed=29), worker_with_rows(world, seed=28)
    delete_topics(world.settings, topics)
    began_s = monotonic_s()
    assert refused(worker)
    seconds = monotonic_s() - began_s
    assert refused(world.worker("worker-1").start())
    delete_topics(world.settings, set(FOLDED_TOPICS).difference(topics))  # or the rows of `after` would count more
    create_topics(world.settings)
    send(world.settings, after.take(500))
    case.observes(f"ended after {seconds:.0f} s; {after_rebuild(world, after)}")


def test_every_topic_deleted_under_a_running_worker_that_makes_none_anew(world: World, case: Case) -> None:
    case.expects(f"the worker ends, and again, '{REMEDY}'")
    worker = world.worker(stages="target").start()  # who reads the catalogue has the broker make its topic
    worker.wait_until_ready()
    delete_topics(world.settings, EVERY_TOPIC)
    began_s = monotonic_s()
    assert refused(worker)
    assert read_topic_ids(world.settings) == {}
    seconds = monotonic_s() - began_s
    assert refused(world.worker("worker-1", stages="target").start())
    case.observes(f"ended after {seconds:.0f} s")


def delete_topics(settings: Settings, topics: Collection[str]) -> None:
    """Delete topics, as an operator's mistake does."""
    admin = KafkaAdminClient(bootstrap_servers=settings.kafka)
    admin.delete_topics(list(topics))
    admin.close()


def worker_with_rows(world: World, seed: int) -> Worker:
    """A running worker that has applied 500 events exactly."""
    workload, worker = Workload(seed=seed), world.worker("worker-0").start()
    worker.wait_until_ready()
    send(world.settings, workload.take(500))
    world.check_exact(workload)
    return worker


def refused(worker: Worker) -> bool:
    """Whether the worker ended because of the log, and said what to do."""
    return worker.wait() == CANNOT_CONTINUE and REMEDY in worker.log()


def stored_hashes(world: World) -> dict[bytes, Any]:
    """Every row's hash as it stands in the store, bytes and all."""
    with world.client() as client:
        pipeline: Any = client.pipeline(transaction=False)
        keys = [key for key in client.scan_iter(count=1_000) if not key.startswith(b"nowrank:")]
        for key in keys:
            pipeline.hgetall(key)
        return dict(zip(keys, pipeline.execute(), strict=True))


def after_rebuild(world: World, workload: Workload) -> str:
    """Run the remedy and a new worker, and hold every row to the new log."""
    command = Child(
        module_command("nowrank.cli", "rebuild"), child_environment(world.settings), world.folder / "rebuild.log"
    )
    assert command.start().wait() == 0, command.log()
    world.worker("worker-2").start().wait_until_ready()
    return world.check_exact(workload)
