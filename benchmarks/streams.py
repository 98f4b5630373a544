"""The stream workers' speed, as ratios to named baselines, all measured in one run on servers of its own.

Enters: arguments. Leaves: a table, and with `--json` a file. Run as `python -m benchmarks.streams --json FILE`, and by
`make bench-streams`; `docs/performance.md` explains every figure.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.freshness import find_saturation, measure_freshness
from benchmarks.growth import grow
from benchmarks.memory import measure_memory
from benchmarks.mix import Mix, load_mix, synthetic_mix
from benchmarks.report import machine, publish, table, versions
from benchmarks.saturation import Turns, measure_saturation
from benchmarks.scaling import PARTITIONS, measure_scaling
from benchmarks.servers import running_servers
from infra.clock import monotonic_s
from infra.errors import NowrankError
from infra.settings import load_settings

HALF, NINETY = 0.5, 0.9


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of each measurement."""

    turns: Turns
    seconds: float
    scaling_events: int
    scaling_rounds: int
    entities: int


def make_plan(events: int, seconds: float, quick: bool) -> Plan:
    """The whole run, or one that only shows that everything works."""
    if quick:
        turns = Turns(events=4_000, slice_events=2_000, naive_events=10, ranking_turns=2, slice_rankings=100)
        return Plan(turns, seconds=2.0, scaling_events=3_000, scaling_rounds=1, entities=1_000)
    return Plan(Turns(events), seconds, scaling_events=events // 5, scaling_rounds=3, entities=events // 2)


def measure(folder: Path, mix: Mix, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything, one after the other, each on servers of its own."""
    say("costs: a worker, a bare agent and a naive agent in turns")
    with running_servers(folder / "saturation") as (settings, _):
        saturation = measure_saturation(settings, mix, plan.turns, say)
    figures = saturation.figures
    say("saturation: the greatest load that a worker keeps up with")
    saturation_per_s, tried = find_saturation(
        folder / "loads", mix, saturation.events_per_s, max(2.0, plan.seconds / 2), say
    )
    freshness = {}
    for share in (0.0, HALF, NINETY):
        rate_per_s = share * saturation_per_s
        say(f"freshness at {share:.0%} of saturation: {rate_per_s:,.0f} events/s")
        freshness[share] = measure_freshness(folder / f"freshness-{share:.0%}", mix, rate_per_s, plan.seconds)
    say("scaling: one and two workers on two partitions")
    with running_servers(folder / "scaling", PARTITIONS) as (settings, servers):
        scaling = measure_scaling(settings, servers, mix, plan.scaling_events, plan.scaling_rounds, say)
    say(f"memory: {plan.entities:,} users and as many items")
    with running_servers(folder / "memory") as (settings, _):
        memory = measure_memory(settings, plan.entities, saturation.rows)
    half = freshness[HALF]
    return {
        "cpu_per_event_ratio": figures.pop("cpu_per_event_ratio"),
        "vs_naive": figures.pop("vs_naive"),
        "freshness_ratio": half["ratio"],
        "freshness_ms": {view: half[f"{view}_ms"]["p50"] for view in ("session", "target")},
        "scaling": scaling.pop("ratio"),
        "events": mix.name,
        "saturation_per_s": round(saturation_per_s, 1),
        **figures,
        "saturation_tried": tried,
        "at_50_percent": half,
        "at_90_percent": freshness[NINETY],
        "without_load": freshness[0.0],
        "scaling_detail": scaling,
        "memory": memory,
        "growth": grow(saturation_per_s, scaling["cpu_per_event_us"], memory),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure to FILE")
    parser.add_argument(
        "--events", type=int, default=200_000, help="events at saturation; scaling and memory go with it (200,000)"
    )
    parser.add_argument("--seconds", type=float, default=25.0, help="probing at each load (25)")
    parser.add_argument("--synthetic", action="store_true", help="do not look for MovieLens-100k")
    parser.add_argument("--quick", action="store_true", help="a minute that shows that it works; no figures to quote")
    given = parser.parse_args(arguments)
    began_s = monotonic_s()

    def say(line: str) -> None:
        print(f"{monotonic_s() - began_s:6.0f} s  {line}", file=sys.stderr, flush=True)

    state_dir = load_settings(running_stack=False).state_dir.resolve()
    try:
        mix = synthetic_mix() if given.synthetic else load_mix(state_dir, say)
        load_before = os.getloadavg()
        with tempfile.TemporaryDirectory(prefix="nowrank-benchmark-") as folder:
            figures = measure(Path(folder), mix, make_plan(given.events, given.seconds, given.quick), say)
    except NowrankError as error:
        print(f"benchmarks.streams: {error}", file=sys.stderr)
        return 1
    words = sys.argv[1:] if arguments is None else arguments
    figures |= {
        "machine": machine(load_before),
        "versions": versions(),
        "command": " ".join(("python -m benchmarks.streams", *words)),
        "quick": given.quick,
        "took_s": round(monotonic_s() - began_s, 1),
    }
    publish(figures, table(figures), given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
