"""Scaling: two workers on two partitions against one, and where the CPU goes.

Enters: a running broker and store with two partitions a topic. Leaves: events/s of one and of two workers. Called by
`streams.py`.

The logs are appended while the workers hold their partitions and wait, alternately for one worker and for both.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from statistics import median
from typing import Any

from benchmarks.contenders import wait_until_applied
from benchmarks.load import append
from benchmarks.mix import Loaded, Mix
from benchmarks.processes import Usage, Worker, usage_of
from benchmarks.progress import Progress
from infra.clock import monotonic_s
from infra.embedded import EmbeddedServers
from infra.settings import Settings

PARTITIONS = 2
# Longer than the group's session timeout: whoever left has left by then.
STEADY_S = 8.0
STEADY_TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True)
class Turn:
    """How long a slice took, and the CPU of everybody meanwhile."""

    took_s: float
    cpu_s: dict[str, float]
    shares: list[float]


def measure_scaling(
    settings: Settings, servers: EmbeddedServers, mix: Mix, slice_events: int, rounds: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Alternate slices for one worker and for two; the first round warms up and is left out."""
    progress = Progress(settings)
    records = mix.records(settings.partitions)
    turns: dict[int, list[Turn]] = {1: [], 2: []}
    with Worker(settings) as first:
        for place in range(rounds + 1):
            for workers in (1, 2):
                with ExitStack() as second:
                    everybody = [first]
                    if workers == 2:
                        everybody.append(second.enter_context(Worker(settings, 1)))
                    wait_until_steady(everybody)
                    turn = _take_turn(settings, servers, everybody, progress, list(islice(records, slice_events)))
                say(f"{workers} worker{'s' * (workers - 1)}: {slice_events / turn.took_s:,.0f} events/s")
                if place:
                    turns[workers].append(turn)
    progress.close()
    return summarise(turns[1], turns[2], slice_events)


def summarise(one: list[Turn], two: list[Turn], slice_events: int) -> dict[str, Any]:
    """The median of the rounds' ratios, with the CPU that everybody used as a share of one core."""
    ratios = [alone.took_s / both.took_s for alone, both in zip(one, two, strict=True)]
    return {
        "ratio": round(median(ratios), 3),
        "one_events_per_s": round(median(slice_events / turn.took_s for turn in one), 1),
        "two_events_per_s": round(median(slice_events / turn.took_s for turn in two), 1),
        "cores_used": {"one": _cores(one), "two": _cores(two)},
        "cpu_per_event_us": {
            name: round(median(1e6 * turn.cpu_s[name] / slice_events for turn in one), 2) for name in one[-1].cpu_s
        },
        "share_of_records_of_each_of_two": two[-1].shares,
    }


def wait_until_steady(workers: list[Worker]) -> None:
    """Wait until all workers have held their partitions for STEADY_S, each its own."""
    since_s = [monotonic_s()]

    def is_steady() -> bool:
        if not all(worker.is_ready() for worker in workers):
            since_s[0] = monotonic_s()
        return monotonic_s() - since_s[0] > STEADY_S

    for worker in workers:
        worker.wait_until_ready()
    workers[0].wait_until(is_steady, "a steady assignment", STEADY_TIMEOUT_S, poll_s=0.1)


def _take_turn(
    settings: Settings, servers: EmbeddedServers, workers: list[Worker], progress: Progress, records: list[Loaded]
) -> Turn:
    usages: dict[str, Callable[[], Usage]] = {
        **{name: partial(usage_of, servers.pid(name)) for name in ("broker", "redis")},
        **{f"worker-{number}": worker.usage for number, worker in enumerate(workers)},
    }
    before = {name: usage() for name, usage in usages.items()}
    records_before = [_records(worker) for worker in workers]
    began_s = monotonic_s()
    append(settings.kafka, records)
    progress.note(records)
    wait_until_applied(workers[0], progress)
    took_s = monotonic_s() - began_s
    used: dict[str, Usage] = {name: before[name].until(usage()) for name, usage in usages.items()}
    own = [_records(worker) - earlier for worker, earlier in zip(workers, records_before, strict=True)]
    return Turn(
        took_s, {name: one.cpu_s for name, one in used.items()}, [round(count / len(records), 3) for count in own]
    )


def _records(worker: Worker) -> float:
    return worker.counters()["nowrank_worker_events_total"]


def _cores(turns: list[Turn]) -> dict[str, float]:
    """Each process's CPU a second, and all of them together, in the median turn."""
    names = list(turns[-1].cpu_s)
    shares = {name: round(median(turn.cpu_s[name] / turn.took_s for turn in turns), 2) for name in names}
    return {**shares, "together": round(sum(shares.values()), 2)}
