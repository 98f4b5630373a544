"""The scorer's speed under load, as ratios to its floor and to a straightforward scorer, all measured in one run.

Enters: arguments. Leaves: a table, and with `--json` a file. Run as `python -m benchmarks.serving --json FILE`, and by
`make bench-serving`; `docs/performance.md` explains every figure.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.contenders import wait_until_applied
from benchmarks.floor import Floor
from benchmarks.freshness import SETTLE_S, Load
from benchmarks.library_memory import LibraryMemory
from benchmarks.load import append
from benchmarks.mix import to_loaded
from benchmarks.processes import Worker
from benchmarks.progress import Progress
from benchmarks.questions import Question, given_questions, keystroke_questions, live_records, more_titles
from benchmarks.ranking_figures import (
    check_agreement,
    compare_latency,
    compare_throughput,
    measure_cell,
    percentiles,
    summarise_floor,
    time_over_floor,
)
from benchmarks.ranking_model import get_model
from benchmarks.ranking_processes import ScorerProcess, SdkScorer, phase_means_ms
from benchmarks.report import machine, publish, versions
from benchmarks.servers import running_servers
from benchmarks.serving_plan import (
    AGREEMENT_QUESTIONS,
    ASKED,
    ASKED_EVENTS,
    AT_ONCE,
    CANDIDATES,
    LIBRARY,
    QUESTIONS,
    RATE_PER_S,
    TITLES,
    Plan,
    labels_of,
    make_plan,
)
from benchmarks.serving_report import serving_table
from benchmarks.staleness import measure_staleness
from features.catalogue import Item
from features.feast_repo.apply import apply_feast
from infra.clock import monotonic_s, now_ms
from infra.errors import NowrankError
from infra.settings import Settings, load_settings
from streams.labels import Log
from streams.producer import Producer
from streams.sources.movielens import load_movielens
from streams.sources.movielens_files import get_movielens

PACKAGES = ("fastapi", "uvicorn", "starlette", "onnxruntime", "torch", "numpy")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Scene:
    """What stands while it is measured, and what is asked: with candidates, by their number, and letter by letter."""

    settings: Settings
    ours: ScorerProcess
    theirs: SdkScorer
    floor: Floor
    given: dict[int, list[Question]]
    typed: list[Question]


def measure(folder: Path, log: Log, artifact_path: Path, plan: Plan, say: Say) -> dict[str, Any]:
    """Everything on one pair of servers: memory while they are filled, the rest under load."""
    with running_servers(folder) as (settings, _), LibraryMemory(settings, plan.sizes) as library:
        settings = replace(settings, artifact_dir=str(artifact_path.resolve()))
        with Worker(settings) as worker:
            fill(settings, worker, log, plan, say)
            apply_feast(settings)
            say("memory of a million titles")
            memory = library.finish()
            figures = measure_scorers(settings, worker, log, plan, say)
    near_cache = {"near_cache_at_a_million": memory["mb_at_a_million"]["rows"]}
    figures["memory_mb"] = near_cache | figures["memory_mb"]
    return figures | {"memory": memory}


def fill(settings: Settings, worker: Worker, log: Log, plan: Plan, say: Say) -> None:
    """Titles onto the catalogue's topic, and the log's past through the worker."""
    say(f"{TITLES:,} titles and {plan.events:,} events into empty servers")
    with Producer(settings) as producer:
        producer.send_items(all_titles(log))
    records = [to_loaded(event, settings.partitions) for event in plan.split(log)[0]]
    worker.wait_until_ready()
    progress = Progress(settings)
    append(settings.kafka, records)
    progress.note(records)
    wait_until_applied(worker, progress)
    progress.close()


def all_titles(log: Log) -> list[Item]:
    """The real titles, then the synthetic ones."""
    return [*log.items, *more_titles(log.items, TITLES)]


def measure_scorers(settings: Settings, worker: Worker, log: Log, plan: Plan, say: Say) -> dict[str, Any]:
    """Start both scorers, see that they score alike, and measure them under load."""
    past, live = plan.split(log)
    known = labels_of(log, past[-ASKED_EVENTS:])
    labels = [*known, *labels_of(log, live[:ASKED_EVENTS])]
    given = {number: given_questions(labels, log.items, number, QUESTIONS) for number in CANDIDATES}
    with ScorerProcess(settings) as ours, SdkScorer(settings, settings.artifact_path) as theirs:
        ours.wait_until_warm(TITLES)
        theirs.wait_until_warm()
        say("do both score the same model?")
        agreement = check_agreement(
            ours.port, theirs.port, given_questions(known, log.items, ASKED, AGREEMENT_QUESTIONS)
        )
        floor = Floor(settings, all_titles(log), settings.artifact_path)
        typed = keystroke_questions(labels, log.items, QUESTIONS)
        scene = Scene(settings, ours, theirs, floor, given, typed)
        records = list(live_records(live, now_ms(), RATE_PER_S, settings.partitions))
        with Load(settings, records, RATE_PER_S) as load:
            load.begin()
            time.sleep(SETTLE_S)
            figures = measure_under_load(scene, worker, plan, say)
        floor.close()
        figures["vs_sdk"]["agreement"] = agreement
        figures["memory_mb"] = {"scorer_process": round(ours.rss_bytes() / 1e6, 1), "titles": TITLES}
    figures["load"]["outlasted_the_measurements"] = figures["load"]["took_s"] + SETTLE_S < plan.load_s
    return figures


def measure_under_load(scene: Scene, worker: Worker, plan: Plan, say: Say) -> dict[str, Any]:
    """Every figure that is taken while events are folded, and what the worker did meanwhile."""
    progress = Progress(scene.settings)
    before, idle, applied = worker.usage(), scene.ours.usage(), progress.events_applied()
    time.sleep(SETTLE_S)
    idle = idle.until(scene.ours.usage())
    figures = measure_ratios(scene, plan, say)
    cells = []
    for number in CANDIDATES:
        for at_once in AT_ONCE:
            say(f"{number:,} candidates, {at_once} at once")
            cells.append(measure_cell(scene.ours.port, scene.ours.usage, scene.given[number], at_once, plan.seconds))
    used, applied = before.until(worker.usage()), progress.events_applied() - applied
    progress.close()
    load = {
        "asked_per_s": RATE_PER_S,
        "records_per_s": round(applied / used.at_s, 1),
        "worker_cores": round(used.cpu_s / used.at_s, 2),
        "scorer_cores_without_requests": round(idle.cpu_s / idle.at_s, 3),
        "took_s": round(used.at_s, 1),
    }
    return figures | {"cells": cells, "load": load}


def measure_ratios(scene: Scene, plan: Plan, say: Say) -> dict[str, Any]:
    """What has a limit: over the floor, against the straightforward scorer, staleness."""
    ours, theirs, asked = scene.ours, scene.theirs, scene.given[ASKED]
    floors = {}
    for name, questions in (("floor", asked), ("keystroke", scene.typed)):
        say(f"requests beside their floor: {name}")
        phases = ours.phases()
        floors[name] = summarise_floor(time_over_floor(ours.port, scene.floor, questions, plan.requests))
        floors[name]["phases_mean_ms"] = phase_means_ms(phases, ours.phases())
    say("the straightforward scorer")
    latency = compare_latency(ours.port, theirs.port, asked, plan.sdk_requests)
    throughput = compare_throughput((ours.port, theirs.port), asked, AT_ONCE[-1], plan.seconds, plan.rounds)
    say("staleness of the near cache")
    staleness = measure_staleness(scene.settings, ours.port, plan.changes)
    return {
        "floor_ratio": floors["floor"].pop("ratio"),
        "vs_sdk": {
            "latency": latency.pop("ratio"),
            "throughput": throughput.pop("ratio"),
            "latency_detail": latency,
            "throughput_detail": throughput,
        },
        "search_keystroke": floors["keystroke"].pop("ratio"),
        "staleness_ms": percentiles(staleness) | {"changes": len(staleness)},
        **floors,
    }


def make_parser() -> argparse.ArgumentParser:
    """The arguments of a run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure to FILE")
    parser.add_argument("--events", type=int, default=60_000, help="events folded before anything is asked (60,000)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each cell; all else goes with it (5)")
    parser.add_argument(
        "--library", type=int, default=LIBRARY, help="titles in memory, and twice as many, for the line (100,000)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="about a minute that shows that it works; no figures to quote"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON."""
    given = make_parser().parse_args(arguments)
    began_s = monotonic_s()

    def say(line: str) -> None:
        print(f"{monotonic_s() - began_s:6.0f} s  {line}", file=sys.stderr, flush=True)

    state_dir = load_settings(running_stack=False).state_dir.resolve()
    plan = make_plan(given.events, given.seconds, given.library, given.quick)
    try:
        log = load_movielens(get_movielens(state_dir, say), now_ms())
        artifact_path = get_model(state_dir / "benchmarks", log, plan.labels, say)
        load_before = os.getloadavg()
        with tempfile.TemporaryDirectory(prefix="nowrank-benchmark-") as folder:
            figures = measure(Path(folder), log, artifact_path, plan, say)
    except NowrankError as error:
        print(f"benchmarks.serving: {error}", file=sys.stderr)
        return 1
    words = sys.argv[1:] if arguments is None else arguments
    figures |= {
        "machine": machine(load_before),
        "versions": versions() | {name: version(name) for name in PACKAGES},
        "command": " ".join(("python -m benchmarks.serving", *words)),
        "quick": given.quick,
        "took_s": round(monotonic_s() - began_s, 1),
    }
    publish(figures, serving_table(figures), given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
