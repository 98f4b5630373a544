"""At saturation: what an event costs a worker, a bare Faust agent and a straightforward one, in alternating turns.

Enters: the mix. Leaves: CPU per event and events/s of each, and of `rankings`. Called by `streams.py`.

Every turn is the same slice of the log, appended while all contenders are stopped. A turn's CPU time is counted from
the moment its process goes on until its last record is applied (the worker: rows and checkpoints of both stages
written), so start-up is in none of it.
"""

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.contenders import BareAgent, Contender, NaiveAgent, TurnWorker, check_applied, end, pause, take_turn
from benchmarks.load import append
from benchmarks.memory import StoredRows, measure_rows
from benchmarks.mix import RANKED_ITEMS, Loaded, Mix, rankings
from benchmarks.processes import Usage
from benchmarks.progress import Progress
from infra.errors import NowrankError
from infra.settings import Settings

COUNTED = ("events", "deltas", "rows_written", "row_conflicts", "row_cache_hits", "row_cache_misses")


@dataclass(frozen=True, slots=True)
class Turns:
    """How many turns, and how long they are; the first of each contender warms up and is left out."""

    events: int
    slice_events: int = 20_000
    naive_events: int = 50
    ranking_turns: int = 4
    slice_rankings: int = 500

    @property
    def number(self) -> int:
        """Turns of the mix, the first included."""
        return max(2, self.events // self.slice_events)


@dataclass(frozen=True, slots=True)
class Saturation:
    """What was measured; `rows` are the rows as the mix left them."""

    figures: dict[str, Any]
    events_per_s: float
    rows: StoredRows


def measure_saturation(settings: Settings, mix: Mix, turns: Turns, say: Callable[[str], None]) -> Saturation:
    """Let the three take turns over the mix, then two of them over rankings."""
    progress = Progress(settings)
    records = mix.take(turns.number * turns.slice_events, settings.partitions)
    slices = [records[at : at + turns.slice_events] for at in range(0, len(records), turns.slice_events)]
    worker, bare = TurnWorker(settings, progress), BareAgent(settings)
    naive = NaiveAgent(settings, turns.naive_events)
    everybody: list[Contender] = [worker, bare, naive]
    try:
        say("the worker, the bare agent and the naive agent join their groups")
        for contender in everybody:
            contender.wait_until_joined()
        for contender in everybody:
            pause(contender)
        used: dict[Contender, list[Usage]] = {contender: [] for contender in everybody}
        for place, own in enumerate(slices):
            _append(settings, progress, own)
            order = (worker, bare) if place % 2 else (bare, worker)
            for contender in order:
                used[contender].append(take_turn(contender, len(own)))
            used[naive].append(take_turn(naive, turns.naive_events))
            say(_describe(place, used[worker][-1], used[bare][-1], used[naive][-1], turns))
        check_applied(progress)
        rows = measure_rows(settings, records)
        figures = summarise(used[worker][1:], used[bare][1:], used[naive][1:], turns)
        end(naive)
        figures["rankings"] = _measure_rankings(settings, mix, turns, progress, worker, bare)
        check_applied(progress)
        worker.process.send_signal(signal.SIGCONT)
        figures["counters"] = check_counters(worker.process.counters())
    finally:
        for contender in everybody:
            end(contender)
        progress.close()
    return Saturation(figures, figures["events_per_s"]["worker"], rows)


def summarise(worker: list[Usage], bare: list[Usage], naive: list[Usage], turns: Turns) -> dict[str, Any]:
    """The medians over the turns; a ratio is the median of the turns' ratios, worker and baseline side by side."""
    per_s = [turns.slice_events / used.at_s for used in worker]
    naive_per_s = [turns.naive_events / used.at_s for used in naive]
    ratios = [ours.cpu_s / theirs.cpu_s for ours, theirs in zip(worker, bare, strict=True)]
    return {
        "cpu_per_event_ratio": round(median(ratios), 3),
        "cpu_per_event_ratio_turns": [round(ratio, 3) for ratio in ratios],
        "cpu_per_event_us": {"worker": _cpu_us(worker, turns.slice_events), "bare": _cpu_us(bare, turns.slice_events)},
        "events_per_s": {
            "worker": round(median(per_s), 1),
            "bare": round(median(turns.slice_events / used.at_s for used in bare), 1),
            "naive": round(median(naive_per_s), 2),
        },
        "vs_naive": round(median(ours / theirs for ours, theirs in zip(per_s, naive_per_s, strict=True)), 1),
    }


def check_counters(counters: Mapping[str, float]) -> dict[str, float]:
    """What the worker counted; raises `NowrankError` when it refused or skipped any of these good, new events."""
    for name in ("nowrank_worker_dead_letters_total", "nowrank_worker_duplicates_total"):
        if counters[name]:
            raise NowrankError(f"the worker counted {name} {counters[name]:g}; the figures are not of the whole work")
    return {name: counters[f"nowrank_worker_{name}_total"] for name in COUNTED}


def _measure_rankings(
    settings: Settings, mix: Mix, turns: Turns, progress: Progress, worker: TurnWorker, bare: BareAgent
) -> dict[str, Any]:
    number = turns.ranking_turns * turns.slice_rankings
    records = rankings(mix.events, number, settings.partitions)
    used: dict[Contender, list[Usage]] = {worker: [], bare: []}
    for at in range(0, number, turns.slice_rankings):
        own = records[at : at + turns.slice_rankings]
        _append(settings, progress, own)
        for contender in (worker, bare):
            used[contender].append(take_turn(contender, len(own)))
    impressions = RANKED_ITEMS
    cpu_us = _cpu_us(used[worker][1:], turns.slice_rankings)
    per_s = median(turns.slice_rankings / one.at_s for one in used[worker][1:])
    return {
        "impressions_each": impressions,
        "cpu_per_ranking_us": {"worker": cpu_us, "bare": _cpu_us(used[bare][1:], turns.slice_rankings)},
        "cpu_per_impression_us": round(cpu_us / impressions, 2),
        "rankings_per_s": round(per_s, 1),
        "impressions_per_s": round(per_s * impressions, 1),
    }


def _describe(place: int, worker: Usage, bare: Usage, naive: Usage, turns: Turns) -> str:
    costs = [1e6 * used.cpu_s / turns.slice_events for used in (worker, bare)]
    return (
        f"turn {place}: worker {costs[0]:.0f} us an event, {turns.slice_events / worker.at_s:,.0f} events/s; "
        f"bare {costs[1]:.0f} us, {turns.slice_events / bare.at_s:,.0f} events/s; "
        f"naive {turns.naive_events / naive.at_s:,.0f} events/s"
    )


def _append(settings: Settings, progress: Progress, records: Sequence[Loaded]) -> None:
    append(settings.kafka, records)
    progress.note(records)


def _cpu_us(used: list[Usage], records: int) -> float:
    return round(median(1e6 * one.cpu_s / records for one in used), 2)
