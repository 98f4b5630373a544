"""A deterministic simulation of the stream workers: the real apply code, and a world around it that obeys a scheduler.

Enters: actions (produce, fetch, execute and deliver a call, and every fault). Leaves: logs and a store, which the
oracle compares. Called by `simulation_run.py` with actions that a seed chooses, and by the state
machine with those that Hypothesis does.

Every await of the real code is a call on the network, so that a worker can be killed, paused or overtaken at any of
them. Between two actions nothing moves.
"""

import random
from collections.abc import Sequence
from typing import Any

from tests.faults.simulation_logs import ALL_PARTITIONS, Logs
from tests.faults.simulation_network import Call, Network
from tests.faults.simulation_store import Contents, SimulatedRedis
from tests.faults.simulation_worker import STAGES, Tally, Worker
from tests.faults.simulation_workload import Workload

DRAIN_STEPS = 4_000
DAY_MS = 24 * 3600 * 1000
SNAPSHOT_KEPT_MS = 30 * DAY_MS


class Stuck(AssertionError):
    """The workers do not come to the end of the logs."""


class Simulation:
    """The whole world: logs, store, network, group and workers."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.logs = Logs()
        self.server = SimulatedRedis()
        self.network = Network()
        self.tally = Tally()
        self.workload = Workload(rng, self.logs)
        self.workers: dict[str, Worker] = {}
        self.gone: list[Worker] = []
        self.snapshots: list[tuple[int, Contents]] = []
        self.group_generation = 0
        self.members: set[str] = set()
        self.started = 0
        self.had_gap = False

    # time and data

    def advance(self, by_ms: int) -> None:
        """Let time pass; Redis drops what has expired, and a snapshot that is too old is thrown away."""
        self.logs.now_ms += by_ms
        self.server.now_ms = self.logs.now_ms
        self.server.expire()
        oldest_ms = self.logs.now_ms - SNAPSHOT_KEPT_MS
        self.snapshots = [(at_ms, contents) for at_ms, contents in self.snapshots if at_ms >= oldest_ms]

    def publish(self) -> None:
        """One more record of the workload."""
        self.advance(self.rng.choice((1, 1_000, 60_000)))
        self.workload.publish()

    def gap(self, days: int) -> None:
        """Nobody does anything for so long; the workers keep up."""
        self.drain()
        self.had_gap = True
        self.advance(days * DAY_MS)

    # workers

    def start_worker(self) -> Worker:
        """One more process, which the group does not know yet."""
        self.started += 1
        worker = Worker(f"w{self.started}", self.network, self.server, self.logs, self.tally)
        self.workers[worker.name] = worker
        return worker

    def rebalance(self, members: Sequence[Worker]) -> None:
        """The group gives every partition to one of `members`; others are not told."""
        self.group_generation += 1
        self.members = {worker.name for worker in members}
        shares: dict[str, list[tuple[str, int]]] = {worker.name: [] for worker in members}
        for partition in ALL_PARTITIONS:
            shares[self.rng.choice(members).name].append(partition)
        for worker in members:
            worker.assign(self.group_generation, shares[worker.name])
        self.bury()

    def crash(self, worker: Worker) -> None:
        """The process ends where it stands."""
        worker.is_alive = False
        self.bury()

    def bury(self) -> None:
        """Forget who has ended. A call of theirs that was under way may still arrive, once."""
        for worker in [worker for worker in self.workers.values() if not worker.is_alive]:
            del self.workers[worker.name]
            self.gone.append(worker)
            for call in self.network.of(worker.name):
                if call.is_executed or self.rng.random() < 0.5:
                    self.network.calls.remove(call)

    def active(self) -> list[Worker]:
        """The workers that live and are not paused."""
        return [worker for worker in self.workers.values() if not worker.is_paused]

    # calls

    def movable(self) -> list[Call[Any]]:
        """The calls that may move on: not those of paused workers."""
        paused = {worker.name for worker in self.workers.values() if worker.is_paused}
        return [call for call in self.network.calls if call.process not in paused] if paused else self.network.calls

    def execute(self, call: Call[Any]) -> None:
        """Carry a call out at the far side; nobody waits for one whose process has ended."""
        call.execute()
        if call.process not in self.workers:
            self.network.calls.remove(call)

    def deliver(self, call: Call[Any]) -> None:
        """Hand over the outcome; its worker runs to its next calls, or ends."""
        self.network.deliver(call)
        self.bury()

    def finish(self, call: Call[Any]) -> None:
        """Execute, unless that was done, and deliver."""
        if not call.is_executed:
            self.execute(call)
        if call in self.network.calls:
            self.deliver(call)

    def lose(self, call: Call[Any], is_executed: bool) -> None:
        """The caller gets no answer, whether the call was carried out or not."""
        if is_executed and not call.is_executed:
            self.execute(call)
        if call in self.network.calls:
            call.fail()
            self.deliver(call)

    def retry(self, call: Call[Any]) -> None:
        """The client sends it twice; the second arrives whenever the scheduler says."""
        again = call.again()
        self.finish(call)
        self.network.calls.append(again)

    def break_in_pipeline(self, call: Call[Any], after: int) -> None:
        """The connection breaks after so many of the commands that travel together."""
        self.workers[call.process].store.client.break_after = after
        self.finish(call)

    # the store

    def snapshot(self) -> None:
        """Redis writes a backup."""
        self.snapshots.append((self.logs.now_ms, self.server.snapshot()))

    def rollback(self) -> None:
        """Redis is killed and comes back with a backup; what was under way to it is lost."""
        if self.snapshots:
            _, contents = self.rng.choice(self.snapshots)
            self.server.restart_with(contents)
            self.server.expire()

    def empty(self) -> None:
        """Somebody flushes Redis; connections stay."""
        self.server.flush()

    # the end

    def drain(self) -> None:
        """No more faults: whoever lives goes on, a worker that ends is started again, until all logs are folded."""
        for worker in self.workers.values():
            worker.is_paused = False
        is_checked = False
        for _ in range(DRAIN_STEPS):
            if self.network.calls:
                self.finish(self.rng.choice(self.network.calls))
                continue
            if not self.workers:
                self.start_worker()
            if self.members != set(self.workers):
                self.rebalance(list(self.workers.values()))
                is_checked = False
            elif self._fetch_all():
                is_checked = False
            elif is_checked:
                return
            else:
                for worker in self.workers.values():
                    worker.heartbeat()
                is_checked = True
        raise Stuck(f"{len(self.network.calls)} calls are under way after {DRAIN_STEPS} steps without a fault")

    def _fetch_all(self) -> bool:
        ready = [(worker, stage) for worker in self.workers.values() for stage in STAGES if worker.can_fetch(stage)]
        for worker, stage in ready:
            worker.fetch(stage, self.rng.randint(1, 8), self.rng)
        return bool(ready)

    def errors(self) -> list[BaseException]:
        """What ended workers and should not have."""
        return [error for worker in (*self.gone, *self.workers.values()) for error in worker.errors]
