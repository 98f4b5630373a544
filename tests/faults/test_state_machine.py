"""The simulation under Hypothesis: it looks for a short list of actions after which a row does not equal the log."""

import random
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.faults.simulation import Simulation
from tests.faults.simulation_mutations import RULES
from tests.faults.simulation_network import Call
from tests.faults.simulation_oracle import differences
from tests.faults.simulation_run import MAX_WORKERS, small_world
from tests.faults.simulation_worker import STAGES, Worker
from tests.faults.simulation_workload import AGES_MS, INVALID, ITEMS, THUMBS, USERS

QUICK = settings(max_examples=30, stateful_step_count=40, deadline=None)
UNTIL_FOUND = settings(QUICK, max_examples=200, database=None, phases=[Phase.generate], report_multiple_bugs=False)
PLACES = st.integers(0, 7)
users, items, ages_ms = st.sampled_from(USERS), st.sampled_from(ITEMS), st.sampled_from(AGES_MS)


class Workers(RuleBasedStateMachine):
    """Every action of the simulation, in an order that Hypothesis chooses and shrinks; what a place does not find is
    left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.small = small_world()
        self.small.__enter__()
        self.world: Simulation

    @initialize(seed=st.integers(0, 1000), workers=st.integers(1, 2))
    def begin(self, seed: int, workers: int) -> None:
        self.world = Simulation(random.Random(seed))
        self.world.rebalance([self.world.start_worker() for _ in range(workers)])

    @rule(user=users, item=items, age_ms=ages_ms)
    def click(self, user: str, item: str, age_ms: int) -> None:
        self.world.workload.click(user, item, age_ms)

    @rule(user=users, item=items, age_ms=ages_ms, watched_ms=st.sampled_from((0, 30, 95)))
    def play(self, user: str, item: str, age_ms: int, watched_ms: int) -> None:
        self.world.workload.play(user, item, watched_ms, age_ms)

    @rule(user=users, item=items, age_ms=ages_ms, value=st.sampled_from(THUMBS))
    def thumb(self, user: str, item: str, age_ms: int, value: str) -> None:
        self.world.workload.thumb(user, item, value, age_ms)

    @rule()
    def ranking(self) -> None:
        self.world.workload.ranking()

    @rule(place=PLACES)
    def repeat(self, place: int) -> None:
        self.world.workload.repeat(-1 - place)

    @rule(which=st.integers(0, len(INVALID) - 1))
    def invalid(self, which: int) -> None:
        self.world.workload.invalid(which)

    @rule(user=users, item=items)
    def poison(self, user: str, item: str) -> None:
        self.world.workload.poison(user, item)

    @rule(days=st.sampled_from((91, 366, 425)))
    def gap(self, days: int) -> None:
        self.world.gap(days)

    @rule(place=PLACES, stage=st.sampled_from(STAGES), count=st.sampled_from((1, 3, 8)))
    def fetch(self, place: int, stage: str, count: int) -> None:
        worker = self._worker(place, self.world.active())
        if worker and worker.can_fetch(stage):
            worker.fetch(stage, count, self.world.rng)

    @rule(place=PLACES, steps=st.integers(1, 6))
    def step(self, place: int, steps: int) -> None:
        """Let a worker's calls be answered, one after the other."""
        worker = self._worker(place, self.world.active())
        for _ in range(steps):
            own = self.world.network.of(worker.name) if worker else []
            if own:
                self.world.finish(own[place % len(own)])

    @rule(place=PLACES)
    def execute(self, place: int) -> None:
        """A call is carried out, and its answer takes its time; or it is that of a process that has ended."""
        waiting = [call for call in self.world.movable() if not call.is_executed]
        if waiting:
            self.world.execute(waiting[place % len(waiting)])

    @rule(place=PLACES, awaits=st.integers(0, 8))
    def crash(self, place: int, awaits: int) -> None:
        """A worker dies after so many more of its awaits."""
        self.step(place, awaits)
        worker = self._worker(place, list(self.world.workers.values()))
        if worker:
            self.world.crash(worker)

    @rule(place=PLACES, is_executed=st.booleans())
    def lose(self, place: int, is_executed: bool) -> None:
        waiting = self._waiting()
        if waiting:
            self.world.lose(waiting[place % len(waiting)], is_executed)

    @rule(place=PLACES)
    def retry(self, place: int) -> None:
        sends = [call for call in self._waiting() if call.kind == "send" and not call.is_executed]
        if sends:
            self.world.retry(sends[place % len(sends)])

    @rule(place=PLACES, after=st.integers(0, 3))
    def break_in_pipeline(self, place: int, after: int) -> None:
        writes = [call for call in self._waiting() if call.kind == "write_rows" and not call.is_executed]
        if writes:
            self.world.break_in_pipeline(writes[place % len(writes)], after)

    @rule(place=PLACES)
    def pause(self, place: int) -> None:
        worker = self._worker(place, self.world.active())
        if worker:
            worker.is_paused = True

    @rule()
    def resume(self) -> None:
        for worker in self.world.workers.values():
            worker.is_paused = False

    @rule(place=PLACES)
    def heartbeat(self, place: int) -> None:
        worker = self._worker(place, self.world.active())
        if worker:
            worker.heartbeat()

    @precondition(lambda self: len(self.world.workers) < MAX_WORKERS)
    @rule()
    def join(self) -> None:
        self.world.start_worker()
        self.world.rebalance(self.world.active())

    @rule(forgotten=PLACES)
    def rebalance(self, forgotten: int) -> None:
        """Among all that the group sees; it may have lost sight of one, which goes on as a zombie."""
        members = list(self.world.workers.values())
        if forgotten < len(members) and len(members) > 1:
            del members[forgotten]
        if members:
            self.world.rebalance(members)

    @rule()
    def snapshot(self) -> None:
        self.world.snapshot()

    @rule()
    def rollback(self) -> None:
        self.world.rollback()

    @rule()
    def empty(self) -> None:
        self.world.empty()

    @invariant()
    def no_worker_ends_for_another_reason(self) -> None:
        assert self.world.errors() == []

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self.world.drain()
                assert differences(self.world.logs, self.world.server, self.world.had_gap) == []
        finally:
            self.small.__exit__(None, None, None)

    def _worker(self, place: int, workers: list[Worker]) -> Worker | None:
        return workers[place % len(workers)] if workers else None

    def _waiting(self) -> list[Call[Any]]:
        return [call for call in self.world.movable() if call.process in self.world.workers]


def test_no_order_of_actions_makes_a_row_differ_from_the_log() -> None:
    run_state_machine_as_test(Workers, settings=QUICK)


@pytest.mark.slow
def test_no_order_of_many_actions_makes_a_row_differ_from_the_log() -> None:
    run_state_machine_as_test(Workers, settings=settings(QUICK, max_examples=300, stateful_step_count=80))


def test_the_state_machine_finds_a_broken_rule() -> None:
    with RULES["a message's deltas for a row are one write (12)"].break_it(), pytest.raises(AssertionError):
        run_state_machine_as_test(Workers, settings=UNTIL_FOUND)
