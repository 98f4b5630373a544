"""Commands that hold the store against the log: `nowrank verify`, `nowrank rebuild`.

Enters: arguments. Leaves: tables or JSON on standard output, and an exit code. Called by `nowrank.cli`.
"""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from infra.connected import broker_settings, require_store
from infra.errors import NowrankError

if TYPE_CHECKING:
    from streams.audit.verify import VerifyReport

VERIFY_EXAMPLES = """recomputes every row from the log and compares it with the store, while workers go on

examples:
  nowrank verify                a table of what was compared, and of the first differences
  nowrank verify --limit 1000   more of them
  nowrank verify --json         everything, for a script

exit code: 0 equal, 1 different, 2 could not be verified (the log no longer holds what the rows began with; the store
has no checkpoint of a log that holds records; broker or store do not answer)

records that no worker has folded yet are no difference: how many there are is printed ("unfolded" in the JSON)"""


REBUILD_EXAMPLES = """fills a new store from the log in a spare database of the same Redis, then puts it in the
live one's place in one atomic call; workers, scorer and Feast's SDK keep their settings

examples:
  nowrank rebuild                              the whole log
  nowrank rebuild --from 2026-01-31T12:00:00   only events that the broker got since then (UTC where no zone is given)
  nowrank rebuild --from 1769860800000         the same, in milliseconds since 1970
  nowrank rebuild --from 5000                  each event partition from this offset on
  nowrank rebuild --from earliest              what the log still has, although the live rows hold more
  nowrank rebuild --keep-old                   leave the old rows in the spare database, to look at"""


def verify_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank verify`."""
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")
    parser.add_argument(
        "--limit", type=int, default=20, metavar="N", help="how many differences to print (default: 20)"
    )
    parser.epilog = VERIFY_EXAMPLES


def verify(args: argparse.Namespace) -> int:
    """Compare every row of the store with a recomputation of the log."""
    from streams.audit.verify import UNVERIFIABLE, verify_store

    try:
        report = verify_store(require_store(broker_settings()))
    except NowrankError as error:
        print(f"nowrank: {error}", file=sys.stderr)
        return UNVERIFIABLE
    if args.json:
        print(json.dumps(_to_json(report)))
    else:
        _print_report(report, args.limit)
    return report.exit_code


def rebuild_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank rebuild`."""
    parser.add_argument("--from", dest="begin", metavar="OFFSET|TIME", help="where to begin in the event topics")
    parser.add_argument(
        "--spare-db", type=int, metavar="N", help="logical database to build in (default: the live store's + 1)"
    )
    parser.add_argument("--keep-old", action="store_true", help="keep the replaced rows in the spare database")
    parser.epilog = REBUILD_EXAMPLES


def rebuild(args: argparse.Namespace) -> int:
    """Fill the store anew from the log and switch to it."""
    from streams.rebuilding.rebuild import rebuild_store

    report = rebuild_store(require_store(broker_settings()), args.begin, args.spare_db, args.keep_old)
    for note in report.notes:
        print(note)
    print(
        f"the new store is in place: {report.events} events and {report.delta_messages} messages of deltas folded "
        f"in {report.seconds:.1f} s"
    )
    return 0


def _to_json(report: "VerifyReport") -> dict[str, object]:
    return {
        "exit_code": report.exit_code,
        "rows": report.rows,
        "records": report.records,
        "deltas": report.deltas,
        "expired": report.expired,
        "unfolded": report.unfolded,
        "differences": [difference._asdict() for difference in report.differences],
        "unverifiable": report.unverifiable,
    }


def _print_report(report: "VerifyReport", limit: int) -> None:
    differing: dict[str, set[str]] = {}
    for difference in report.differences:
        differing.setdefault(difference.family, set()).add(difference.key)
    print(f"{'family':<14}{'rows':>10}{'different':>12}")
    for family in dict.fromkeys((*report.rows, *differing)):
        print(f"{family:<14}{report.rows.get(family, 0):>10}{len(differing.get(family, ())):>12}")
    print(f"{report.records} records read, {report.deltas} deltas compared with the delta log")
    unfolded = sum(report.unfolded.values())
    by_topic = ", ".join(f"{topic} {records}" for topic, records in report.unfolded.items() if records)
    print(f"{unfolded} of {report.records} records are not folded yet" + (f": {by_topic}" if by_topic else ""))
    if report.expired:
        print(f"{report.expired} rows have expired by the expiry rule")
    for reason, rows in report.unverifiable.items():
        print(f"cannot be verified: {f'{rows} rows: ' if rows else ''}{reason}")
    if report.differences:
        print()
    for difference in report.differences[:limit]:
        print(f"{difference.family} {difference.key!r} {difference.feature}")
        print(f"  log gives  {difference.expected}\n  store has  {difference.stored}")
    if len(report.differences) > limit:
        print(f"... and {len(report.differences) - limit} more: --limit shows them")
    equal = "equal as far as it is folded" if unfolded else "equal"
    print((equal, "different", "could not be verified")[report.exit_code])
