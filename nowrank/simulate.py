"""The command `nowrank simulate`: a world with a known truth, as files or live on the broker.

Enters: parsed arguments. Leaves: a folder, or records on Kafka; text or JSON on standard output. Called by
`nowrank.cli`. Everything that it writes and prints says that it is synthetic.
"""

import argparse
import dataclasses
import json
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from infra.clock import monotonic_s, now_ms
from infra.errors import BadInput
from infra.logs import quiet_kafka
from model.log_arguments import above_zero

if TYPE_CHECKING:
    from model.simulation.simulator import Plan
    from nowrank.simulate_live import Tally

NOW = "now"
# A session that begins at the last moment is over by then.
PLAYED_OUT_MS = 8 * 3600 * 1000

EXAMPLES = """examples:
  nowrank simulate --members 2000 --titles 1000 --days 14 --seed 1 --out world
  nowrank import world/items.jsonl --items && nowrank import world/events.jsonl --keep-time
  nowrank simulate --moods 0 --out null-world         the null case: no session differs from its member's taste
  nowrank simulate --start now --out recent           the last days, instead of days from 2025-01-01 on
  nowrank simulate --publish --rate 200 --seconds 60  live, to the running broker; without --seconds until Ctrl-C
  nowrank simulate --set pre_query_eta=1.5 --set list_length=20 --out steep

files: items.jsonl, events.jsonl (as `nowrank import` reads them; --keep-time keeps their times equal to the truth's),
rankings.jsonl (as the scorer logs them; `nowrank import` takes no rankings), truth.jsonl (one line for each request),
truth_sessions.jsonl, truth_titles.jsonl, truth_members.jsonl, manifest.json. The same arguments write the same bytes.
The law and every parameter of --set: docs/decisions/0013-a-simulator-with-a-known-truth.md"""


def simulate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank simulate`."""
    parser.add_argument("--members", type=int, default=2_000, metavar="N", help="how many members (default: 2000)")
    parser.add_argument("--titles", type=int, default=1_000, metavar="N", help="how many titles (default: 1000)")
    parser.add_argument("--days", type=int, default=14, metavar="N", help="how many days (default: 14)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of everything random (default: 0)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the files go: an empty or a new folder")
    parser.add_argument(
        "--moods",
        type=float,
        metavar="SHARE",
        help="share of the sessions with a mood (default: 0.7); 0: the null case",
    )
    parser.add_argument(
        "--start", default="2025-01-01", metavar="DATE", help="first day, UTC, or `now`: end now (default: 2025-01-01)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="another parameter of the law, repeatable"
    )
    parser.add_argument("--publish", action="store_true", help="send events to the broker, with the times of now")
    parser.add_argument(
        "--rate", type=above_zero, default=100.0, metavar="EVENTS_PER_S", help="plays, clicks and thumbs (default: 100)"
    )
    parser.add_argument("--seconds", type=above_zero, metavar="S", help="publish for so long (default: until Ctrl-C)")
    parser.add_argument("--json", action="store_true", help="print the manifest, or the totals, as JSON")
    parser.epilog = EXAMPLES


def simulate(args: argparse.Namespace) -> int:
    """Write a simulated world to a folder, or publish it live."""
    if args.publish:
        return _publish(args)
    if args.out is None:
        raise BadInput("missing_field", "say where the files go (--out FOLDER), or --publish them", "out")
    from model.simulation.files import write_simulation
    from streams.progress import progress_bar

    plan = _plan(args, _begin_ms(args.start, args.days))
    begin_s = monotonic_s()
    with progress_bar("simulated minutes", plan.days * 24 * 60) as advance:
        manifest = write_simulation(plan, args.out, advance)
    took_s = monotonic_s() - begin_s
    if args.json:
        print((args.out / "manifest.json").read_text(), end="")
        return 0
    events = sum(manifest.counts.get(topic, 0) for topic in ("plays", "clicks", "thumbs"))
    counts = ", ".join(f"{count:,} {kind}" for kind, count in manifest.counts.items())
    print(f"synthetic: run {manifest.run}: {plan.members:,} members, {plan.titles:,} titles, {plan.days} days")
    print(f"synthetic: {counts}")
    print(f"synthetic: {events:,} plays, clicks and thumbs in {took_s:.1f} s ({events / took_s:,.0f}/s) to {args.out}")
    return 0


def _publish(args: argparse.Namespace) -> int:
    """Live: another label for each run, since the broker's readers know the ids of the last one."""
    from model.simulation.files import SimulationFolder
    from model.simulation.simulator import make_world
    from nowrank.simulate_live import Live, publish_live
    from streams.producer import Producer

    quiet_kafka()
    at_ms = now_ms()
    plan = dataclasses.replace(_plan(args, at_ms), endless=True, label=f"live-{at_ms}")
    with Producer() as producer:
        world = make_world(plan)
        with SimulationFolder(args.out, plan, world) if args.out else nullcontext() as out:
            say = (lambda _line: None) if args.json else print
            say(f"synthetic: run {plan.run} to {producer.address}, {args.rate:,.0f} events/s")
            tally = publish_live(plan, world, producer, Live(args.rate, args.seconds, out, say))
            if out is not None:
                out.finish()
    _print_tally(tally, args.json)
    return 0


def _print_tally(tally: "Tally", as_json: bool) -> None:
    if as_json:
        print(json.dumps({"synthetic": True, **dataclasses.asdict(tally), "events_per_s": tally.events_per_s}))
        return
    print(
        f"synthetic: published {tally.events:,} events, {tally.rankings:,} rankings and {tally.titles:,} titles in "
        f"{tally.took_s:.1f} s ({tally.events_per_s:,.0f} events/s); all acknowledged"
    )


def _plan(args: argparse.Namespace, begin_ms: int) -> "Plan":
    from model.simulation.law import law_with
    from model.simulation.simulator import Plan

    moods = [] if args.moods is None else [f"mood_share={args.moods}"]
    return Plan(
        members=args.members,
        titles=args.titles,
        days=args.days,
        seed=args.seed,
        begin_ms=begin_ms,
        law=law_with([*args.set, *moods]),
    )


def _begin_ms(start: str, days: int) -> int:
    """The first millisecond: of the named day, or so that the last session is over now."""
    if start == NOW:
        return now_ms() - PLAYED_OUT_MS - days * 24 * 3600 * 1000
    try:
        return int(datetime.strptime(start, "%Y-%m-%d").replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        raise BadInput("invalid_field", f"--start {start}: write it as YYYY-MM-DD, or `{NOW}`", "start") from None
