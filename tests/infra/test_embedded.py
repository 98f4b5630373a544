"""The embedded stack, with its real broker and its real Redis."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from infra.embedded import EmbeddedServers, running_stack, start_stack, stop_stack
from infra.embedded.plan import PARTS, make_plan
from infra.embedded.servers import PORT_RANGE, free_port, redis_binary
from infra.embedded.stack_file import hold_lock, write_stack
from infra.errors import StackError
from infra.settings import Settings, load_settings
from nowrank.cli import main
from streams.topics import CLICKS, TOPICS, create_topics

pytestmark = pytest.mark.slow

SERVERS = ("broker", "redis")


def until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not come true in time"
        time.sleep(0.02)


def ended(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def client_of(address: str) -> redis.Redis:
    host, _, port = address.partition(":")
    return redis.Redis(host, int(port))


def pids(stack: dict) -> dict[str, int]:
    return {process["name"]: process["pid"] for process in stack["processes"]}


def process_of(state_dir: Path, name: str) -> dict:
    stack = running_stack(state_dir)
    assert stack is not None
    return next(process for process in stack["processes"] if process["name"] == name)


def write_own_stack(settings: Settings, state: str, *processes: dict) -> None:
    """A `stack.json` as this process would write it, were it the supervisor."""
    addresses = {"kafka": "", "redis": "127.0.0.1:1", "scorer_url": "", "yours": []}
    write_stack(settings.state_dir, {**addresses, "state": state, "pid": os.getpid(), "processes": list(processes)})


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Settings]:
    """Settings of a stack that the test starts by itself; whatever it left is ended."""
    found = Settings(state_dir=tmp_path)
    yield found
    stop_stack(found)


def test_events_go_through_the_embedded_broker_in_order(topics: Settings) -> None:
    producer = KafkaProducer(bootstrap_servers=topics.kafka, acks="all", enable_idempotence=True)
    sent = [producer.send(CLICKS, value=b"round-trip-%d" % i, partition=1) for i in range(500)]
    offsets = [future.get(10).offset for future in sent]
    producer.close()
    consumer = KafkaConsumer(bootstrap_servers=topics.kafka, auto_offset_reset="earliest", enable_auto_commit=False)
    consumer.assign([TopicPartition(CLICKS, 1)])
    consumer.seek(TopicPartition(CLICKS, 1), offsets[0])
    values: list[bytes] = []
    until(lambda: values.extend(r.value for rs in consumer.poll(200).values() for r in rs) or len(values) >= 500)
    consumer.close()
    assert values == [b"round-trip-%d" % i for i in range(500)]
    assert offsets == list(range(offsets[0], offsets[0] + 500))


def test_topics_are_created_once_with_their_partitions(topics: Settings) -> None:
    assert create_topics(topics) == []
    consumer = KafkaConsumer(bootstrap_servers=topics.kafka)
    found = {spec.name: len(consumer.partitions_for_topic(spec.name) or ()) for spec in TOPICS}
    consumer.close()
    assert found == {spec.name: topics.partitions if spec.partitioned else 1 for spec in TOPICS}


def test_embedded_redis_never_evicts_and_keeps_an_append_only_file(redis_client: redis.Redis) -> None:
    assert redis_client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert redis_client.config_get("appendonly") == {"appendonly": "yes"}
    assert redis_client.config_get("appendfsync") == {"appendfsync": "everysec"}
    assert redis_client.config_get("bind") == {"bind": "127.0.0.1"}


def test_redis_that_is_killed_comes_back_on_its_port_with_its_rows(tmp_path: Path) -> None:
    with EmbeddedServers(tmp_path) as servers:
        client_of(servers.redis).set("row", "value")
        servers.kill("redis")
        until(lambda: servers.restarts("redis") == 1)
        until(lambda: _get(servers.redis, "row") == b"value")


def _get(address: str, key: str) -> bytes | None:
    try:
        return client_of(address).get(key)  # type: ignore[return-value]
    except redis.RedisError:
        return None


def test_servers_end_with_their_block(tmp_path: Path) -> None:
    with EmbeddedServers(tmp_path) as servers:
        both = [servers.pid(name) for name in SERVERS]
    assert all(ended(pid) for pid in both)
    assert threading.active_count() < 50


def test_stack_starts_says_where_it_is_and_stops(own: Settings) -> None:
    said: list[str] = []
    stack = start_stack(own, only=SERVERS, say=said.append)
    assert client_of(stack["redis"]).ping()
    assert create_topics(Settings(kafka=stack["kafka"])) == [], "`up` creates the topics"
    found = load_settings({"NOWRANK_STATE_DIR": str(own.state_dir)})
    assert (found.kafka, found.redis) == (stack["kafka"], stack["redis"])
    assert [line.split()[0] for line in said if " ready in " in line] == ["redis", "broker", "topics"]
    assert stack["yours"] == []
    assert stop_stack(own, say=said.append)
    assert all(ended(pid) for pid in [stack["pid"], *pids(stack).values()])
    assert running_stack(own.state_dir) is None
    assert not own.stack_file.exists()
    assert not stop_stack(own)


def test_second_start_returns_what_is_running(own: Settings) -> None:
    first = start_stack(own, only=("redis",), say=lambda line: None)
    second = start_stack(own, only=SERVERS, say=lambda line: None)
    assert (second["pid"], pids(second)) == (first["pid"], pids(first))


def test_start_while_another_is_starting_waits_for_it_and_leaves_its_log(own: Settings) -> None:
    log = own.state_dir / "logs" / "supervisor.log"
    log.parent.mkdir()
    log.write_text("of the other\n")
    said: list[str] = []
    with hold_lock(own.state_dir), ThreadPoolExecutor() as pool:
        write_own_stack(own, "starting")
        started = pool.submit(start_stack, own, only=("redis",), say=said.append)
        until(lambda: "already starting:" in said or started.done())
        write_own_stack(own, "running")
        assert started.result(30)["state"] == "running"
    assert said[-1] == f"running: another `nowrank up` has started it (supervisor pid {os.getpid()})"
    assert not any("yours" in line for line in said), "the address is one that the stack chose"
    assert [path.name for path in log.parent.iterdir()] == ["supervisor.log"]
    assert log.read_text() == "of the other\n"


def test_start_while_another_is_ending_waits_for_its_end_and_starts(own: Settings) -> None:
    said: list[str] = []
    with ThreadPoolExecutor() as pool:
        with hold_lock(own.state_dir):
            write_own_stack(own, "stopping")
            started = pool.submit(start_stack, own, only=("redis",), say=said.append)
            until(lambda: bool(said) or started.done())
        assert started.result(60)["state"] == "running"
    assert said[0] == f"waiting for the end of a stack that is stopping (supervisor pid {os.getpid()})"


def test_two_ups_at_once_are_one_stack_and_two_successes(own: Settings) -> None:
    with ThreadPoolExecutor() as pool:
        ups = list(pool.map(lambda _: run_cli(own, "up", "--detach", "--only", "redis"), range(2)))
    assert [up.returncode for up in ups] == [0, 0], [up.stdout + up.stderr for up in ups]
    assert "redis     " in (own.state_dir / "logs" / "supervisor.log").read_text()
    assert run_cli(own, "status").returncode == 0


def test_logs_of_the_run_before_are_kept_once(own: Settings) -> None:
    for _ in range(3):
        stack = start_stack(own, only=("redis",), say=lambda line: None)
        stop_stack(own)
    logs = {path.name: path.read_text() for path in (own.state_dir / "logs").iterdir()}
    assert set(logs) == {"redis.log", "redis.previous.log", "supervisor.log", "supervisor.previous.log"}
    assert logs["supervisor.log"].startswith(f"redis     {stack['redis']}")


def test_second_up_says_what_is_running_and_succeeds(own: Settings) -> None:
    stack = start_stack(own, only=("redis",), say=lambda line: None)
    again = run_cli(own, "up", "--only", "redis")
    assert (again.returncode, again.stderr) == (0, "")
    assert "already running" in again.stdout
    assert stack["redis"] in again.stdout


@pytest.mark.parametrize("how", [(), ("--detach",)], ids=["here", "detached"])
def test_up_over_a_stack_without_what_is_asked_for_names_it_and_fails(own: Settings, how: tuple[str, ...]) -> None:
    start_stack(own, only=("redis",), say=lambda line: None)
    again = run_cli(own, "up", *how)
    assert again.returncode == 1
    assert "already running" in again.stdout
    assert "started without broker, session-0, target-0, scorer, canary. To start" in again.stderr


def test_up_beside_one_that_is_starting_says_so_and_fails(own: Settings) -> None:
    with hold_lock(own.state_dir):
        write_own_stack(own, "starting")
        again = run_cli(own, "up")
    assert again.returncode == 1
    assert "already starting" in again.stdout
    assert again.stderr == "nowrank: the stack is starting: see `nowrank status`, then try again.\n"


def test_status_tells_a_running_stack_from_none(own: Settings) -> None:
    assert run_cli(own, "status").returncode == 1
    stack = start_stack(own, only=("redis",), say=lambda line: None)
    status = run_cli(own, "status", "--json")
    assert status.returncode == 0
    assert json.loads(status.stdout)["redis"] == stack["redis"]
    assert stack["redis"] in run_cli(own, "status").stdout


@contextlib.contextmanager
def stack_of(own: Settings, monkeypatch: pytest.MonkeyPatch, **redis: Any) -> Iterator[None]:
    """The commands find a running stack of this one part."""
    monkeypatch.setenv("NOWRANK_STATE_DIR", str(own.state_dir))
    with hold_lock(own.state_dir):
        write_own_stack(own, "running", {"name": "redis", "address": "here", "restarts": 0, "started_ms": 0, **redis})
        yield


def test_status_names_a_part_whose_process_is_gone(
    own: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    with stack_of(own, monkeypatch, state="ready", pid=gone.pid):
        assert main(["status", "--json"]) == 1
        assert json.loads(capsys.readouterr().out)["processes"][0]["state"] == "ended"
        assert main(["status"]) == 1
        assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["redis", "ended"]


def test_status_says_why_a_part_failed(
    own: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with stack_of(own, monkeypatch, state="failed", pid=None, failure="ended with exit code 1"):
        assert main(["status"]) == 1
    assert "redis ended with exit code 1" in capsys.readouterr().out


def test_second_up_names_a_part_that_is_not_ready_and_fails(
    own: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = "ended with exit code 70; restart 9 in 30 s"
    with stack_of(own, monkeypatch, state="restarting", pid=None, restarts=9, failure=failure):
        assert main(["up", "--detach"]) == 1
    said = capsys.readouterr()
    assert "redis ended with exit code 70; restart 9 in 30 s" in said.out
    assert "not ready: redis. What has ended is started again by itself, at most 30 s later" in said.err
    assert "`nowrank down`, then `nowrank up`" in said.err


@pytest.mark.parametrize("appears", [True, False])
def test_state_file_that_appears_or_goes_while_it_is_read_is_not_damaged(
    own: Settings, monkeypatch: pytest.MonkeyPatch, appears: bool
) -> None:
    def read_at_the_wrong_moment(path: Path) -> dict[str, Any]:
        if appears:
            write_own_stack(own, "starting")
        else:
            path.unlink()
        return {}

    with hold_lock(own.state_dir):
        if not appears:
            write_own_stack(own, "stopping")
        monkeypatch.setattr("infra.embedded.stack_file.read_stack_file", read_at_the_wrong_moment)
        stack = running_stack(own.state_dir)
    assert stack is not None
    assert (stack["state"], stack["processes"]) == ("starting", [])


def test_state_file_that_cannot_be_written_for_a_while_keeps_no_part_from_its_restart(own: Settings) -> None:
    stack = start_stack(own, only=("redis",), say=lambda line: None)
    in_the_way = own.state_dir / f"stack.{stack['pid']}.tmp"
    in_the_way.mkdir()
    os.kill(pids(stack)["redis"], signal.SIGKILL)
    log = own.state_dir / "logs" / "supervisor.log"
    until(lambda: log.read_text().count("redis     ") == 2, timeout_s=20)
    assert process_of(own.state_dir, "redis")["pid"] == pids(stack)["redis"], "nobody could write another one"
    assert run_cli(own, "status").returncode == 1
    in_the_way.rmdir()
    until(lambda: process_of(own.state_dir, "redis")["pid"] != pids(stack)["redis"])
    assert process_of(own.state_dir, "redis")["state"] == "ready"
    assert log.read_text().count("stack.json cannot be written") == 1, "said once, not every second"
    assert run_cli(own, "status").returncode == 0


def run_cli(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NOWRANK_")}
    return subprocess.run(
        [sys.executable, "-m", "nowrank.cli", *arguments],
        env={**environment, "NOWRANK_STATE_DIR": str(settings.state_dir)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_foreground_stack_ends_cleanly_on_ctrl_c_and_on_sigterm(own: Settings) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        command = [sys.executable, "-m", "nowrank.cli", "up", "--only", "redis"]
        environment = {**os.environ, "NOWRANK_STATE_DIR": str(own.state_dir), "NOWRANK_REDIS": ""}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as up:
            until(lambda: (running_stack(own.state_dir) or {}).get("state") == "running")
            redis_pid = process_of(own.state_dir, "redis")["pid"]
            up.send_signal(number)
            output, _ = up.communicate(timeout=30)
        assert up.returncode == 0
        assert output.endswith("stopped\n")
        assert ended(redis_pid)
        assert not own.stack_file.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the next `up` ends what is left")
def test_supervisor_that_is_killed_leaves_no_process_and_blocks_no_new_start(own: Settings) -> None:
    stack = start_stack(own, only=SERVERS, say=lambda line: None)
    os.kill(stack["pid"], signal.SIGKILL)
    until(lambda: all(ended(pid) for pid in pids(stack).values()))
    until(lambda: running_stack(own.state_dir) is None)  # its other threads may end a moment after its children
    assert own.stack_file.exists(), "nobody was there to remove it"
    assert load_settings({"NOWRANK_STATE_DIR": str(own.state_dir)}).kafka == ""
    assert start_stack(own, only=("redis",), say=lambda line: None)["pid"] != stack["pid"]


def test_broker_that_comes_back_empty_gets_its_topics_and_an_empty_store(own: Settings) -> None:
    stack = start_stack(own, only=SERVERS, say=lambda line: None)
    client_of(stack["redis"]).set("row", "counted from the log that is about to be lost")
    os.kill(pids(stack)["broker"], signal.SIGKILL)
    until(lambda: process_of(own.state_dir, "broker")["restarts"] == 1)
    until(lambda: process_of(own.state_dir, "broker")["state"] == "ready")
    assert client_of(stack["redis"]).dbsize() == 0
    assert create_topics(Settings(kafka=stack["kafka"])) == []
    assert "redis     emptied: 1 keys" in (own.state_dir / "logs" / "supervisor.log").read_text()


def test_start_with_a_new_broker_empties_the_store_and_says_so(own: Settings) -> None:
    stack = start_stack(own, only=SERVERS, say=lambda line: None)
    client_of(stack["redis"]).set("row", "of the first run")
    stop_stack(own)
    said: list[str] = []
    stack = start_stack(own, only=SERVERS, say=said.append)
    assert client_of(stack["redis"]).dbsize() == 0
    assert any("emptied: 1 keys" in line for line in said)


def test_redis_alone_keeps_its_rows_from_one_start_to_the_next(own: Settings) -> None:
    stack = start_stack(own, only=("redis",), say=lambda line: None)
    client_of(stack["redis"]).set("row", "kept")
    stop_stack(own)
    stack = start_stack(own, only=("redis",), say=lambda line: None)
    assert client_of(stack["redis"]).get("row") == b"kept"


def test_servers_of_the_users_own_are_used_and_neither_started_nor_emptied(own: Settings, topics: Settings) -> None:
    client_of(topics.redis).set("row", "the user's")
    given = Settings(state_dir=own.state_dir, kafka=topics.kafka, redis=topics.redis)
    stack = start_stack(given, only=SERVERS, say=lambda line: None)
    assert (stack["kafka"], stack["redis"], stack["processes"]) == (topics.kafka, topics.redis, [])
    assert stack["yours"] == ["broker", "redis"]
    assert [line.split()[:2] for line in run_cli(own, "status").stdout.splitlines()[1:3]] == [
        ["broker", "yours"],
        ["redis", "yours"],
    ]
    assert client_of(topics.redis).get("row") == b"the user's"


@pytest.mark.parametrize("shown_as", [(), ("--json",)])
def test_status_hides_the_password_of_a_store_of_the_users_own(own: Settings, shown_as: tuple[str, ...]) -> None:
    with hold_lock(own.state_dir):
        given = {"kafka": "", "redis": "127.0.0.1:1,password=a,hunter2", "scorer_url": "", "yours": ["redis"]}
        write_stack(own.state_dir, {**given, "state": "running", "pid": os.getpid(), "processes": []})
        shown = run_cli(own, "status", *shown_as).stdout
        (own.state_dir / "stack.json").unlink()
    assert "127.0.0.1:1,password=***,***" in shown
    assert "hunter2" not in shown


def test_a_start_in_a_folder_that_cannot_be_made_says_so() -> None:
    with pytest.raises(StackError, match="NOWRANK_STATE_DIR"):
        start_stack(Settings(state_dir=Path("/proc/nope")), only=SERVERS, say=lambda line: None)


def test_address_where_nothing_answers_is_named(own: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    address = f"127.0.0.1:{free_port()}"
    dead = Settings(state_dir=own.state_dir, redis=f"{address},password=a,hunter2")
    with pytest.raises(StackError, match="did not start"):
        start_stack(dead, only=("redis",), say=said.append)
    shown = f"{address},password=***,***"
    assert any(f"NOWRANK_REDIS is '{shown}', but nothing answered there" in line for line in said)
    assert "hunter2" not in "".join(said)
    assert running_stack(own.state_dir) is None


def test_workers_without_a_broker_are_refused_before_anything_starts(own: Settings) -> None:
    with pytest.raises(StackError, match="need a broker: add 'broker' to --only, or set NOWRANK_KAFKA"):
        make_plan(own, ("redis", "worker"))


def test_plan_gives_each_process_its_own_port_and_every_address(own: Settings) -> None:
    plan = make_plan(Settings(state_dir=own.state_dir, workers=2), PARTS)
    addresses = [spec.address for spec in [*plan.servers, *plan.processes, *plan.watchers]]
    assert len(set(addresses)) == 8
    for spec in [*plan.processes, *plan.watchers]:
        found = load_settings(spec.environment, running_stack=False)
        assert (found.kafka, found.redis, found.scorer_url) == (
            plan.settings.kafka,
            plan.settings.redis,
            plan.settings.scorer_url,
        )
    workers = [load_settings(spec.environment, running_stack=False) for spec in plan.workers]
    assert [(worker.worker_id, worker.stage_names) for worker in workers] == [
        ("session-0", ("session",)),
        ("target-0", ("target",)),
        ("session-1", ("session",)),
        ("target-1", ("target",)),
    ]


def test_plan_has_workers_of_labels_only_when_they_are_asked_for(own: Settings) -> None:
    parts = ("broker", "redis", "worker")
    assert [spec.name for spec in make_plan(own, parts).workers] == ["session-0", "target-0"]
    asked = make_plan(Settings(state_dir=own.state_dir, label_workers=2), parts)
    assert [spec.name for spec in asked.workers] == ["session-0", "target-0", "labels-0", "labels-1"]
    [found] = {load_settings(spec.environment, running_stack=False).stage_names for spec in asked.workers[2:]}
    assert found == ("labels",)


def test_plan_without_a_canary_has_none(own: Settings) -> None:
    assert make_plan(own, ("broker", "redis", "worker")).watchers == []


def test_only_one_supervisor_holds_a_folder(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from infra.embedded.stack_file import hold_lock\n"
        f"with hold_lock(Path({str(tmp_path)!r})): pass"
    )
    with hold_lock(tmp_path):
        second = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "a stack is already running in" in second.stderr


def test_free_ports_lie_outside_the_range_of_outgoing_connections() -> None:
    assert all(free_port() in PORT_RANGE for _ in range(20))


def test_redis_on_the_path_serves_where_the_wheel_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "redis-server"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    monkeypatch.setattr("infra.embedded.servers.find_spec", lambda package: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert redis_binary() == binary
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(StackError, match=r"install `redis-server` .*, or set NOWRANK_REDIS"):
        redis_binary()


def test_ctrl_c_during_the_start_leaves_nothing(own: Settings) -> None:
    dead = f"127.0.0.1:{free_port()}"  # the start waits for it some seconds
    environment = {**os.environ, "NOWRANK_STATE_DIR": str(own.state_dir), "NOWRANK_KAFKA": dead, "NOWRANK_REDIS": ""}
    command = [sys.executable, "-m", "nowrank.cli", "up", "--only", "redis"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=_with_default_signals
    ) as up:
        until(lambda: any(p["state"] == "ready" for p in (running_stack(own.state_dir) or {}).get("processes", [])))
        redis_pid = process_of(own.state_dir, "redis")["pid"]
        up.send_signal(signal.SIGINT)
        output, _ = up.communicate(timeout=30)
    assert up.returncode == 0
    assert "running; logs" not in output
    assert output.endswith("stopped\n")
    assert ended(redis_pid)


def _with_default_signals() -> None:
    """What runs the tests may ignore some, as `nohup` and a shell's `&` do, and its children would with it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_up_in_the_background_that_is_ended_while_it_waits_leaves_nothing(own: Settings, number: int) -> None:
    dead = f"127.0.0.1:{free_port()}"  # the start waits for it some seconds
    environment = {**os.environ, "NOWRANK_STATE_DIR": str(own.state_dir), "NOWRANK_KAFKA": dead, "NOWRANK_REDIS": ""}
    command = [sys.executable, "-m", "nowrank.cli", "up", "--detach", "--only", "redis"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=_with_default_signals
    ) as up:
        until(lambda: any(p["state"] == "ready" for p in (running_stack(own.state_dir) or {}).get("processes", [])))
        redis_pid = process_of(own.state_dir, "redis")["pid"]
        up.send_signal(number)
        up.communicate(timeout=30)
    assert up.returncode == 128 + number
    assert running_stack(own.state_dir) is None
    assert ended(redis_pid)
