"""The simulation's worker: the real stages, and around them what the worker's process does with Faust and the broker.

Enters: assignments and the order to fetch, from the scheduler. Leaves: calls on the network. Called by `simulation.py`.

A worker is gone once a stage raises what a worker cannot continue from, or once it is killed; nothing it awaits will
ever come, but a call that was under way may still arrive at the far side.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, TypeVar

from features.online_store import FencedStore
from infra.errors import StoreFenced
from infra.metrics import Metrics
from streams.checkpoints import Checkpoint, decode_checkpoints
from streams.dead_letters import DeadLetter
from streams.deltas import SourcedDelta, send_deltas
from streams.events import FUTURE_LIMIT_MS
from streams.log_records import Record, log_name
from streams.session_agent import STAGE as SESSION_STAGE
from streams.session_agent import SessionStage
from streams.stage import SharedStore
from streams.target_agent import STAGE as TARGET_STAGE
from streams.target_agent import TargetStage
from streams.topics import DELTAS
from tests.faults.simulation_logs import PARTITIONS, Logs, TopicPartition
from tests.faults.simulation_network import CallFailed, Network
from tests.faults.simulation_store import SimulatedRedis, SimulatedStore

STAGES = (SESSION_STAGE, TARGET_STAGE)
BATCHES_AHEAD = 2
CACHE_BYTES = 40_000
T = TypeVar("T")


class Tally(Metrics):
    """Metrics as plain totals by name and stage: thousands of runs observe them millions of times."""

    def __init__(self) -> None:
        self.totals: Counter[tuple[str, str]] = Counter()

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        self.totals[name, labels.get("stage", "")] += int(amount)

    def observe(self, name: str, value: float, **labels: str) -> None:
        pass

    def set(self, name: str, value: float, **labels: str) -> None:
        pass


class NetworkStore(SharedStore):
    """The worker's store connection; a call of it stands still at the network instead of on a thread."""

    def __init__(self, store: SimulatedStore, worker: "Worker") -> None:
        super().__init__(store)
        self._worker = worker

    async def call(self, method: Callable[..., T], *args: Any) -> T:
        async with self._lock:
            try:
                return await self._worker.call(method.__name__, partial(method, self._store, *args))
            except CallFailed as error:
                raise StoreFenced(str(error)) from error


class Worker:
    """One process with both stages, one connection and one producer."""

    def __init__(self, name: str, network: Network, server: SimulatedRedis, logs: Logs, tally: Tally) -> None:
        self.name = name
        self.is_alive = True
        self.is_paused = False
        self.errors: list[BaseException] = []
        self.generation = -1
        self.positions: dict[TopicPartition, int] = {}
        self.store = SimulatedStore(server)
        self._network = network
        self._logs = logs
        self._tally = tally
        self._shared = NetworkStore(self.store, self)
        self.session = SessionStage(
            self._shared, self._send_deltas, self._send_dead_letters, tally, FUTURE_LIMIT_MS, CACHE_BYTES
        )
        self.target = TargetStage(self._shared, self._send_dead_letters, tally, CACHE_BYTES)
        self._busy = {stage: asyncio.Lock() for stage in STAGES}
        self._ahead = dict.fromkeys(STAGES, 0)
        self._beats = False
        self._tasks: list[asyncio.Task[None]] = []

    def assign(self, generation: int, partitions: Iterable[TopicPartition]) -> None:
        """The group gives this worker these partitions, once its batches are done."""
        self.positions = {}
        self._start(self._begin(generation, list(partitions)))

    def heartbeat(self) -> None:
        """Check the fence."""
        if not self._beats:
            self._beats = True
            self._start(self._beat())

    def can_fetch(self, stage: str) -> bool:
        """Whether there is something new for the stage, and room for it."""
        return self._ahead[stage] < BATCHES_AHEAD and bool(self._unread(stage))

    def fetch(self, stage: str, count: int, rng: random.Random) -> None:
        """Take up to `count` records for the stage's next batch: each log in order, the logs in any interleaving."""
        records: list[Record] = []
        while len(records) < count and (unread := self._unread(stage)):
            partition = rng.choice(unread)
            taken = self._logs.read(partition, self.positions[partition], rng.randint(1, count - len(records)))
            self.positions[partition] += len(taken)
            records += [record._replace(generation=self.generation) for record in taken]
        if records:
            self._ahead[stage] += 1
            self._start(self._apply(stage, records))

    def _unread(self, stage: str) -> list[TopicPartition]:
        return [
            partition
            for partition, position in self.positions.items()
            if (partition[0] == DELTAS) == (stage == TARGET_STAGE) and position < self._logs.end(partition)
        ]

    async def _begin(self, generation: int, partitions: list[TopicPartition]) -> None:
        async with self._busy[SESSION_STAGE], self._busy[TARGET_STAGE]:
            self.generation, self.positions = generation, {}
            session, target = [
                decode_checkpoints(await self._shared.call(FencedStore.read_checkpoints, stage)) for stage in STAGES
            ]
            starts = {}
            for topic, partition in partitions:
                checkpoints = target if topic == DELTAS else session
                checkpoint = checkpoints.setdefault(log_name(topic, partition), Checkpoint(log_id=topic))
                starts[topic, partition] = checkpoint.next_offset
            self.session.begin(session)
            self.target.begin(target)
        self.positions = starts

    async def _apply(self, stage: str, records: list[Record]) -> None:
        async with self._busy[stage]:
            own = [record for record in records if record.generation == self.generation]
            if own:
                await (self.session if stage == SESSION_STAGE else self.target).apply(own)
            self._ahead[stage] -= 1

    async def _beat(self) -> None:
        await self._shared.call(FencedStore.write_checkpoints, SESSION_STAGE, {})
        self._beats = False

    async def _send_deltas(self, deltas: list[SourcedDelta]) -> int:
        async def send(partition: int, message: bytes) -> None:
            await self.call("send", partial(self._logs.append_deltas, partition, message))

        return await send_deltas(deltas, PARTITIONS, send)

    async def _send_dead_letters(self, letters: list[DeadLetter]) -> None:
        for letter in letters:
            await self.call("dead letter", partial(self._logs.dead.append, letter))

    def call(self, kind: str, action: Callable[[], T]) -> Awaitable[T]:
        """A call on the network; a process that has ended makes none, and nothing it awaits ever comes."""
        return self._network.call(self.name, kind, action) if self.is_alive else self._network.loop.create_future()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks = [task for task in self._tasks if not task.done()]
        self._tasks.append(self._network.loop.create_task(self._or_end(work)))
        self._network.loop.run_ready()

    async def _or_end(self, work: Coroutine[Any, Any, None]) -> None:
        """What a stage raises ends the process at once; only the causes that the simulation made are in order."""
        try:
            await work
        except (StoreFenced, CallFailed) as error:
            self._tally.totals["ended", "rolled back" if "went back" in str(error) else type(error).__name__] += 1
            self.is_alive = False
        except Exception as error:  # noqa: BLE001 - the process's edge
            self.errors.append(error)
            self.is_alive = False
