"""Redis that is away, killed, older, empty, slow or refuses writes: every row is right once it is back."""

import shutil
import signal
import time
from collections.abc import Callable

import pytest
import redis

from infra.embedded.servers import LOOPBACK, free_port
from tests.faults.cases import Case
from tests.faults.processes import Worker, wait_until
from tests.faults.proxy import TcpProxy
from tests.faults.workload import Load, Workload
from tests.faults.world import World

pytestmark = pytest.mark.slow

EVENTS_PER_S = 300
AWAY_S = 20.0
REFUSING_S = 5.0
SLOW_S = 0.2
AOF = "appendonly.aof"


def folds(worker: Worker, records: int) -> Callable[[], bool]:
    """Whether the worker's present process has folded at least so many records."""
    return lambda: worker.is_ready() and worker.metric("nowrank_worker_records_total") > records


def run_through(world: World, workload: Workload, fault: Callable[[], None]) -> Worker:
    """A worker under load; `fault` happens in the midst of it, and the load goes on until it folds again."""
    worker = world.worker().keep()
    worker.wait_until_ready()
    with Load(world.settings, workload, EVENTS_PER_S):
        wait_until(folds(worker, 2 * EVENTS_PER_S), "it is under load")
        fault()
        wait_until(lambda: worker.exit_codes, "the worker has noticed")
        wait_until(folds(worker, EVENTS_PER_S), "it folds again")
    return worker


def test_redis_away_for_20_s(world: World, case: Case) -> None:
    case.expects("the worker ends, and again until Redis is back; every row equal")

    def fault() -> None:
        world.redis.send_signal(signal.SIGTERM)
        world.redis.wait()
        time.sleep(AWAY_S)  # the fault itself
        world.redis.start()

    workload = Workload(seed=11)
    worker = run_through(world, workload, fault)
    case.observes(f"{len(worker.exit_codes)} ends; {world.check_exact(workload)}")


def test_redis_killed_and_restarted_from_its_append_only_file(world: World, case: Case) -> None:
    case.expects("SIGKILL: up to 1 s of writes is lost, and folded again; every row equal")

    def fault() -> None:
        world.redis.kill()
        world.redis.start()

    workload = Workload(seed=12)
    worker = run_through(world, workload, fault)
    case.observes(f"{len(worker.exit_codes)} ends; {world.check_exact(workload)}")


def test_redis_restarted_from_an_older_snapshot(world: World, case: Case) -> None:
    case.expects("rows and checkpoints go back together, the log is folded again; every row equal")
    folder = world.folder / "redis"
    workload = Workload(seed=13)
    gone_back = 0

    def fault() -> None:
        nonlocal gone_back
        before = world.next_offsets()
        shutil.copy(folder / AOF, world.folder / "snapshot.aof")
        wait_until(lambda: sum(world.next_offsets().values()) > sum(before.values()) + 3 * EVENTS_PER_S, "rows move on")
        after = world.next_offsets()
        world.redis.kill()
        shutil.copy(world.folder / "snapshot.aof", folder / AOF)
        world.redis.start()
        gone_back = sum(after.values()) - sum(before.values())

    run_through(world, workload, fault)
    case.observes(f"{gone_back} events back; {world.check_exact(workload)}")


def test_redis_restarted_empty(world: World, case: Case) -> None:
    case.expects("the worker ends, and folds the whole log again; every row equal")

    def fault() -> None:
        world.redis.kill()
        shutil.rmtree(world.folder / "redis")
        (world.folder / "redis").mkdir()
        world.redis.start()

    workload = Workload(seed=14)
    worker = run_through(world, workload, fault)
    case.observes(f"{len(worker.exit_codes)} ends; {world.check_exact(workload)}")


def test_redis_200_ms_away(world: World, case: Case) -> None:
    case.expects("no end, no loss: larger batches; every row equal")
    workload = Workload(seed=15)
    with TcpProxy(world.redis.address) as proxy:
        worker = world.worker(redis=proxy.address).keep()
        worker.wait_until_ready()
        proxy.delay_s = SLOW_S / 2  # there and back
        with Load(world.settings, workload, EVENTS_PER_S):
            wait_until(folds(worker, 8 * EVENTS_PER_S), "it folds, slowly")
        compared = world.check_exact(workload)
        sums = [
            worker.metric(f"nowrank_worker_batch_{what}") for what in ("records_sum", "seconds_sum", "records_count")
        ]
    records, seconds, batches = sums
    assert worker.exit_codes == []
    assert seconds / batches > SLOW_S, "the proxy does delay"
    case.observes(f"{records / batches:.0f} records and {seconds / batches:.1f} s a batch; {compared}")


@pytest.mark.parametrize("reason", ["out of memory", "read-only replica"])
def test_redis_refuses_writes(world: World, case: Case, reason: str) -> None:
    case.expects(f"{reason}: the worker ends, and again until writes are accepted; every row equal")

    def fault() -> None:
        with world.client() as client:
            refuse(client)
            wait_until(lambda: not is_writable(client), "writes are refused")
            time.sleep(REFUSING_S)  # the fault itself
            accept(client)

    def refuse(client: redis.Redis) -> None:
        if reason == "out of memory":
            client.config_set("maxmemory", "1")
        else:
            client.replicaof(LOOPBACK, free_port())  # nobody listens there: it keeps its rows and takes no writes

    def accept(client: redis.Redis) -> None:
        if reason == "out of memory":
            client.config_set("maxmemory", "0")
        else:
            client.replicaof("NO", "ONE")

    workload = Workload(seed=16)
    worker = run_through(world, workload, fault)
    case.observes(f"{len(worker.exit_codes)} ends; {world.check_exact(workload)}")


def is_writable(client: redis.Redis) -> bool:
    """Whether the store accepts a write."""
    try:
        client.set("faults:probe", "1", ex=60)
    except redis.ResponseError:
        return False
    return True
