"""One run of the simulation: everything from one seed.

Enters: a seed. Leaves: the differences between store and logs, empty when the protocol held. Called by
`test_simulation.py`; `python -m tests.faults.simulation_run SEED` repeats one run and prints what it did.
"""

import contextlib
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest import mock

import features.top_targets
import features.user
import streams.deltas
from tests.faults.simulation import Simulation, Stuck
from tests.faults.simulation_network import Call
from tests.faults.simulation_oracle import differences
from tests.faults.simulation_poison import breaking_folds
from tests.faults.simulation_worker import STAGES, Worker

MIN_RECORDS, MAX_RECORDS = 10, 36
MAX_STEPS = 700
MAX_WORKERS = 4
FAULTS = ("crash", "lose", "retry", "pipeline", "pause", "join", "rebalance", "snapshot", "rollback", "empty", "gap")
GAPS_DAYS = (60, 91, 150, 366, 425)


@dataclass(frozen=True, slots=True)
class Plan:
    """How often each action is tried, relative to the others; a fault that is not named never happens."""

    faults: dict[str, float]
    records: int

    @classmethod
    def of(cls, rng: random.Random) -> "Plan":
        """Some faults often, some seldom, some never."""
        kinds = {fault: rng.choice((0.0, 0.3, 1.0, 3.0)) for fault in FAULTS}
        return cls(kinds, rng.randint(MIN_RECORDS, MAX_RECORDS))


@contextlib.contextmanager
def small_world() -> Iterator[None]:
    """Windows and capacities so small that a few records overflow them, and folds that break on poison."""
    sizes = (
        (features.user, "SEEN_CAPACITY", 4),
        (features.user, "RECENT_CAPACITY", 5),
        (features.user, "TITLE_CAPACITY", 3),
        (features.user, "THUMB_CAPACITY", 3),
        (features.top_targets, "CAPACITY", 2),
        (streams.deltas, "MAX_DELTAS_PER_MESSAGE", 3),
    )
    with breaking_folds(), contextlib.ExitStack() as patches:
        for module, name, size in sizes:
            patches.enter_context(mock.patch.object(module, name, size))
        yield


class Outcome(NamedTuple):
    """What was found different, and what happened how often."""

    differences: list[str]
    totals: Counter[tuple[str, str]]


def run(seed: int, faults: Mapping[str, float] | None = None, tell: Callable[[str], None] = lambda _: None) -> Outcome:
    """The run of this seed; `faults` happen as often as they say, whatever the plan."""
    with small_world():
        return SeededRun(seed, faults or {}, tell).run()


class SeededRun:
    """Chooses the actions."""

    def __init__(self, seed: int, faults: Mapping[str, float], tell: Callable[[str], None]) -> None:
        self._rng = random.Random(seed)
        self._plan = Plan.of(self._rng)
        self._world = Simulation(self._rng)
        self._tell = tell
        self._actions = {
            "move": 60.0,
            "fetch": 14.0,
            "publish": 9.0,
            "resume": 1.0,
            "heartbeat": 0.5,
            **{fault: 0.45 * weight for fault, weight in {**self._plan.faults, **faults}.items()},
        }

    def run(self) -> Outcome:
        """Act, drain, compare."""
        world, rng = self._world, self._rng
        world.rebalance([world.start_worker() for _ in range(rng.randint(1, 2))])
        names, weights = list(self._actions), list(self._actions.values())
        published = 0
        for action in rng.choices(names, weights, k=MAX_STEPS):
            if action == "publish":
                published += 1
            if published > self._plan.records:
                break
            self._act(action)
        try:
            world.drain()
        except Stuck as error:
            return Outcome([str(error)], world.tally.totals)
        self._tell(f"drained {sum(map(len, world.logs.records.values()))} records, {world.started} workers")
        found = [f"a worker ended with {error!r}" for error in world.errors()]
        found += differences(world.logs, world.server, world.had_gap)
        return Outcome(found, world.tally.totals)

    def _act(self, action: str) -> None:
        world, rng = self._world, self._rng
        calls, active = world.movable(), world.active()
        if action in FAULTS:
            self._hurt(action, calls, active)
            return
        match action:
            case "move" if calls:
                call = rng.choice(calls)
                if call.is_executed or rng.random() < 0.7:
                    world.finish(call)
                else:
                    world.execute(call)
            case "fetch" if active:
                worker, stage = rng.choice(active), rng.choice(STAGES)
                if worker.can_fetch(stage):
                    worker.fetch(stage, rng.choice((1, 2, 4, 8)), rng)
            case "publish":
                world.publish()
            case "heartbeat" if active:
                rng.choice(active).heartbeat()
            case "resume":
                for worker in world.workers.values():
                    worker.is_paused = False

    def _hurt(self, fault: str, calls: list[Call[Any]], active: list[Worker]) -> None:
        world, rng = self._world, self._rng
        waiting = [call for call in calls if call.process in world.workers]
        sends = [call for call in waiting if call.kind == "send" and not call.is_executed]
        writes = [call for call in waiting if call.kind == "write_rows" and not call.is_executed]
        self._tell(fault)
        world.tally.totals["tried", fault] += 1
        match fault:
            case "crash" if world.workers:
                world.crash(rng.choice(list(world.workers.values())))
            case "lose" if waiting:
                world.lose(rng.choice(waiting), rng.random() < 0.7)
            case "retry" if sends:
                world.retry(rng.choice(sends))
            case "pipeline" if writes:
                world.break_in_pipeline(rng.choice(writes), rng.randrange(4))
            case "pause" if active:
                rng.choice(active).is_paused = True
            case "join" if len(world.workers) < MAX_WORKERS:
                world.start_worker()
                self._rebalance()
            case "rebalance" if world.workers:
                self._rebalance()
            case "snapshot":
                world.snapshot()
            case "rollback":
                world.rollback()
            case "empty":
                world.empty()
            case "gap" if rng.random() < 0.3:
                world.gap(rng.choice(GAPS_DAYS))

    def _rebalance(self) -> None:
        """Among all workers, or, as a group that has lost sight of some, among the others."""
        members = self._world.active() or list(self._world.workers.values())
        if self._rng.random() < 0.3:
            members = self._rng.sample(members, self._rng.randint(1, len(members)))
        self._world.rebalance(members)


if __name__ == "__main__":
    for line in run(int(sys.argv[1]), tell=print).differences:
        print(line)
