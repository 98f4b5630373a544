"""`nowrank reproduce`: a logged answer, scored again from what was logged.

Enters: arguments. Leaves: both scores of each title, and an exit code. Called by `nowrank.cli`.
"""

import argparse
from pathlib import Path

from infra.connected import broker_settings
from serving.reproduce import Reproduced, reproduce_logged

EXAMPLES = """examples:
  nowrank reproduce 0c9f63a2-7f9b-4a57-9f57-1df0b6a1f0c4       the answer with this `ranking_id`
  nowrank reproduce 0c9f63a2-... --artifact models/last-week   with the model that made it

exit code: 0 every score is equal to the last bit, but for titles that have changed since; 1 one is not"""


def reproduce_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank reproduce`."""
    parser.add_argument("ranking_id", help="the `ranking_id` of an answer that was logged")
    parser.add_argument(
        "--artifact",
        type=Path,
        metavar="DIR",
        help="the model's folder (default: its variant's current one)",
    )
    parser.epilog = EXAMPLES


def reproduce(args: argparse.Namespace) -> int:
    """Score a logged answer again and compare."""
    settings = broker_settings()
    ranking, scores = reproduce_logged(settings, args.ranking_id, args.artifact)
    print(f"{ranking.task} for one member, model {ranking.model}, {len(scores)} titles")
    print(f"{'place':>5}  {'title':<40}{'logged':>16}{'computed':>16}")
    for place, one in enumerate(scores, 1):
        computed = "not logged" if one.computed is None else f"{one.computed:.7g}"
        print(f"{place:>5}  {one.item_id[:38]:<40}{one.logged:>16.7g}{computed:>16}{_mark(one)}")
    differing = [one for one in scores if one.computed is not None and not one.is_equal]
    unequal = sum(not one.has_changed for one in differing)
    notes = {
        "not logged": sum(one.computed is None for one in scores),
        "differ because titles have changed since, or had just come": len(differing) - unequal,
    }
    print(
        "equal, bit for bit" if not unequal else f"{unequal} scores differ",
        *(f"({count} {note})" for note, count in notes.items() if count),
    )
    return 1 if unequal else 0


def _mark(one: Reproduced) -> str:
    if one.is_equal or one.computed is None:
        return ""
    return "  changed since" if one.has_changed else "  <"
