"""Commands of the stream workers: `nowrank worker`, `nowrank dead-letters`.

Enters: arguments. Leaves: a running worker, or dead letters on the terminal. Called by `nowrank.cli`.
"""

import argparse
import json
from collections import Counter

from infra.errors import NowrankError
from infra.settings import NO_BROKER, Settings, load_settings

WORKER_EXAMPLES = """examples:
  NOWRANK_KAFKA=broker:9092 NOWRANK_REDIS=store:6379 nowrank worker
  NOWRANK_METRICS_PORT=9100 nowrank worker      health and metrics on http://127.0.0.1:9100"""

DEAD_LETTER_EXAMPLES = """examples:
  nowrank dead-letters list                     counts by reason, then one line each
  nowrank dead-letters show plays-3-1042        one in full, with its bytes
  nowrank dead-letters resend plays-3-1042      send its bytes to its topic again
  nowrank dead-letters resend --reason poison   the same for all of a reason"""


def worker_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank worker`: none, the settings say everything."""
    parser.epilog = WORKER_EXAMPLES


def worker(args: argparse.Namespace) -> int:
    """Run a stream worker until SIGTERM or Ctrl-C."""
    from infra.logs import configure_logs
    from streams.app import run_worker

    settings = _connected_settings(needs_store=True)
    configure_logs(settings.log_level, settings.worker_id)
    run_worker(settings)
    return 0


def dead_letters_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank dead-letters`."""
    parser.add_argument("action", choices=("list", "show", "resend"))
    parser.add_argument("name", nargs="?", help="topic-partition-offset of the refused record")
    parser.add_argument("--reason", help="only dead letters of this reason")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.epilog = DEAD_LETTER_EXAMPLES


def dead_letters(args: argparse.Namespace) -> int:
    """List, show or resend dead letters."""
    from streams.dead_letters import find_dead_letter, read_dead_letters, resend

    settings = _connected_settings(needs_store=False)
    if args.action == "show" or args.name:
        if not args.name:
            raise NowrankError(
                "name the dead letter to show, e.g. plays-3-1042; `nowrank dead-letters list` names them"
            )
        letters = [find_dead_letter(settings, args.name)]
    else:
        letters = [letter for letter in read_dead_letters(settings) if args.reason in (None, letter.reason)]
    if args.action == "resend":
        if not args.name and not args.reason:
            raise NowrankError("name a dead letter, or a --reason, to resend")
        print(f"sent {resend(settings, letters)} records again")
        return 0
    for reason, count in (
        Counter(letter.reason for letter in letters).most_common() if args.action == "list" and not args.json else ()
    ):
        print(f"{count:>8} {reason}")
    if not letters and not args.json:
        print("there are no dead letters" + (f" of reason {args.reason!r}" if args.reason else ""))
    for letter in letters:
        if args.json:
            print(
                json.dumps(
                    {"name": letter.name, "reason": letter.reason, "message": letter.message, "value": letter.value}
                )
            )
        else:
            print(f"{letter.name}  {letter.reason}: {letter.message}")
    if args.action == "show" and not args.json:
        print(repr(letters[0].raw))
    return 0


def _connected_settings(needs_store: bool) -> Settings:
    settings = load_settings()
    if not settings.kafka:
        raise NowrankError(NO_BROKER)
    if needs_store and not settings.redis:
        raise NowrankError("no store is set: start one with `nowrank up`, or set NOWRANK_REDIS=host:port")
    return settings
