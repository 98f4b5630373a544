"""Arguments that say which log, and what a number of things may be: the same for all commands of this room.

Enters: a parser; parsed arguments. Leaves: the log. Called by the commands' files.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra import clock
from infra.errors import BadInput
from infra.settings import Settings

if TYPE_CHECKING:
    from streams.labels import Log

MOVIELENS = "movielens-100k"
# The greatest that every library here takes.
GREATEST_SEED = 2**32 - 1


def counted(text: str) -> int:
    """The type of an argument that says how many; raises `argparse.ArgumentTypeError` for anything but 1 or more."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def seed(text: str) -> int:
    """The type of an argument that is a seed; raises `argparse.ArgumentTypeError` for anything but 0 to
    GREATEST_SEED.
    """
    if not text.isascii() or not text.isdigit() or int(text) > GREATEST_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to {GREATEST_SEED}")
    return int(text)


def share(text: str) -> float:
    """The type of an argument that is a share; raises `argparse.ArgumentTypeError` for anything but 0 to 1."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share from 0 to 1")
    return value


def from_zero(text: str) -> float:
    """The type of an argument that is a quantity; raises `argparse.ArgumentTypeError` for anything but a finite number
    from 0 on.
    """
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no finite number from 0 on")
    return value


def above_zero(text: str) -> float:
    """The type of an argument that is a quantity and not nothing; raises `argparse.ArgumentTypeError` for anything but
    a finite number above 0.
    """
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no finite number above 0")
    return value


def _number(text: str) -> float:
    """NaN, which no comparison holds for, when it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def add_log_arguments(parser: argparse._ActionsContainer, *, named: bool = False) -> None:
    """Which log, how its columns are called, and how much of it; the log's own argument is `--log` where `named`."""
    how: dict[str, Any] = {"metavar": "LOG"} if named else {"nargs": "?"}
    parser.add_argument(
        "--log" if named else "log",
        **how,
        default=MOVIELENS,
        help=f"{MOVIELENS} (default), a folder that holds its files, a file that `nowrank import` takes, or the "
        "Parquet file of Globo's clicks",
    )
    parser.add_argument("--items", type=Path, metavar="FILE", help="the titles of a file of events")
    parser.add_argument(
        "--map", action="append", default=[], metavar="THEIRS=OURS",
        help="the column THEIRS is our field OURS, in the file of events, in that of --items, or in both",
    )  # fmt: skip
    parser.add_argument("--type", choices=("play", "click", "thumb"), help="type of the rows that name none")
    parser.add_argument(
        "--time-unit", choices=("ms", "s"), default="ms", help="unit of times that are numbers (default: ms)"
    )
    parser.add_argument("--max-events", type=counted, metavar="N", help="only about the first N events of the log")
    parser.add_argument("--hours", type=above_zero, metavar="H", help="only the first H hours of the log")


def refuse_log_arguments(args: argparse.Namespace, beside: str, *, log_is_read: bool = False) -> None:
    """Raises `BadInput` when a log is described `beside` what takes no notice of that: what it is, and why. With
    `log_is_read`, LOG itself may be given.
    """
    parser = argparse.ArgumentParser()
    add_log_arguments(parser)
    given = [
        "a log" if name == "log" else f"--{name.replace('_', '-')}"
        for name, default in vars(parser.parse_args([])).items()
        if getattr(args, name) != default and not (name == "log" and log_is_read)
    ]
    if given:
        raise BadInput("invalid_field", f"{', '.join(given)} cannot go with {beside}")


def log_of(args: argparse.Namespace, settings: Settings) -> "Log":
    """The log at its own times: nothing that the model sees depends on the date, and the hours of the day stay true."""
    from streams.sources.log_files import LogSource, load_log
    from streams.sources.table import TableOptions, read_mapping

    options = TableOptions(read_mapping(args.map), args.time_unit == "s", args.type)
    begin_s = clock.monotonic_s()
    source = LogSource(args.log, args.items, options, args.hours, args.max_events)
    log = load_log(source, settings.state_dir, clock.now_ms())
    took_s = clock.monotonic_s() - begin_s
    print(f"{len(log.labels):,} labels, {len(log.items):,} titles read in {took_s:.0f} s", file=sys.stderr)
    return log
