"""The commands of this room: `data`, `import`, `topics`.

Enters: parsed arguments. Leaves: an exit code, and text or JSON on standard output. Called by `nowrank.cli`.
"""

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from infra.clock import now_ms
from infra.connected import broker_settings
from infra.errors import BadInput
from infra.logs import quiet_kafka
from infra.outputs import prepare_file
from infra.settings import Settings, load_settings

if TYPE_CHECKING:
    from streams.imports import ImportSummary
    from streams.producer import Producer

MOVIELENS = "movielens-100k"


def data_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank data`."""
    parser.add_argument("action", choices=("get", "list"), help="get a data set, or list those that can be got")
    parser.add_argument("name", nargs="?", choices=(MOVIELENS,), help="which one")
    parser.epilog = """examples:
  nowrank data list
  nowrank data get movielens-100k      from GroupLens; else from the copy in the recbole wheel, fetched with pip"""


def data(args: argparse.Namespace) -> int:
    """Get a public data set into the state folder."""
    from streams.sources.movielens_files import LICENCE, get_movielens, is_complete, movielens_folder

    state_dir = load_settings().state_dir
    if args.action == "list":
        folder = movielens_folder(state_dir)
        print(f"{MOVIELENS}  {'in ' + str(folder) if is_complete(folder) else 'not here'}")
        return 0
    if args.name is None:
        raise BadInput("missing_field", f"say which data set: `nowrank data get {MOVIELENS}`")
    get_movielens(state_dir, print)
    print(LICENCE)
    return 0


def import__arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank import`."""
    parser.add_argument(
        "file", help=f"a .csv, .tsv, .jsonl, .ndjson or .parquet file, a folder of .parquet files, or {MOVIELENS}"
    )
    parser.add_argument("--items", action="store_true", help="the file is a catalogue of titles, not of events")
    parser.add_argument(
        "--map", action="append", default=[], metavar="THEIRS=OURS", help="the file's column THEIRS is our field OURS"
    )
    parser.add_argument("--type", choices=("play", "click", "thumb"), help="type of the rows that name none")
    parser.add_argument(
        "--time-unit", choices=("ms", "s"), default="ms", help="unit of times that are numbers (default: ms)"
    )
    parser.add_argument(
        "--keep-time",
        action="store_true",
        help="keep old times; otherwise the newest event becomes one hour old, all others with it",
    )
    parser.add_argument("--dry-run", action="store_true", help="check every row, publish nothing")
    parser.add_argument(
        "--rejects", type=Path, metavar="FILE", help="write every rejected row's number, field and rule as JSON lines"
    )
    parser.add_argument("--json", action="store_true", help="print the summary, rejected rows included, as JSON")
    parser.epilog = """columns are named as the fields of the events:
  type (play, click, thumb), user_id, item_id, event_ts_ms; watched_ms, duration_ms (play); value (thumb: up,
  double_up, down, none); optional: event_id, session_id, ranking_id, position, task, query, source_item_id, country
and of titles: item_id, title; optional: kind, genres, people, countries (a|b in CSV), year, available_from_ms, deleted
times are numbers since 1970, Parquet's timestamps and dates (UTC where they name no zone), or ISO 8601 with Z or an
offset; a file whose times all look like seconds of 1980 to 2100, or like dates such as 20200705, is refused unless
--time-unit s says that they are seconds; ids are text or whole numbers; text is taken as it is written, so an id 7.0
of a CSV file (of a column of whole numbers with gaps, say) is not the id 7, while the number 7.0 of a Parquet file is:
the summary names such columns; in a .tsv file a quote is text, except where quotes enclose a whole cell, and no cell
holds a tab or a line's end

examples:
  nowrank import movielens-100k
  nowrank import plays.csv --type play --map customer=user_id --map time=event_ts_ms --time-unit s
  nowrank import titles.jsonl --items
  nowrank import events.parquet --dry-run --json

exit code: 0 when every row was imported, 1 when a row was rejected (the good ones are published) or not acknowledged"""


def import_(args: argparse.Namespace) -> int:
    """Publish a file of events, a catalogue, or a data set."""
    from streams.import_report import print_summary
    from streams.producer import BULK_LINGER_MS, Producer

    quiet_kafka()
    settings = load_settings()
    with _rejects(args) as rejects:
        if args.dry_run:
            summary = _import_with(args, settings, None)
        else:
            with Producer(settings, linger_ms=BULK_LINGER_MS) as producer:
                summary = _import_with(args, settings, producer)
        rejects.writelines(msgspec.json.encode(rejection) + b"\n" for rejection in summary.rejections)
    if args.json:
        print(msgspec.json.encode(summary).decode())
    else:
        print_summary(summary, args.dry_run)
    return 0 if summary.complete else 1


def _rejects(args: argparse.Namespace) -> BinaryIO:
    """Where rejected rows are written, opened before anything is published; raises `BadInput`."""
    path = Path(os.devnull) if args.rejects is None else args.rejects
    prepare_file(path, [Path(args.file)])
    return path.open("wb")


def _import_with(args: argparse.Namespace, settings: Settings, producer: "Producer | None") -> "ImportSummary":
    from streams.imports import import_events, import_items, import_log
    from streams.progress import progress_bar
    from streams.sources.table import TableOptions, read_mapping

    options = TableOptions(read_mapping(args.map), args.time_unit == "s", args.type)
    if args.file == MOVIELENS and not Path(MOVIELENS).is_file():
        from streams.sources.log_files import MOVIELENS_AS_IT_IS, refuse_description
        from streams.sources.movielens import load_movielens
        from streams.sources.movielens_files import movielens_folder

        refuse_description(options, MOVIELENS_AS_IT_IS)
        log = load_movielens(movielens_folder(settings.state_dir), None if args.keep_time else now_ms())
        return import_log(log, MOVIELENS, producer, progress_bar, only_items=args.items)
    if args.items:
        return import_items(Path(args.file), options, producer, progress_bar)
    return import_events(Path(args.file), options, now_ms(), producer, progress_bar, args.keep_time)


def topics_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank topics`."""
    parser.add_argument(
        "action",
        choices=("create", "list", "schema"),
        help="create what is missing, list what is there, or print the JSON Schema of the events",
    )
    parser.epilog = """examples:
  nowrank topics create                          with NOWRANK_PARTITIONS and NOWRANK_REPLICATION
  NOWRANK_KAFKA=broker:9092 nowrank topics list
  nowrank topics schema > events.schema.json     what producers may publish"""


def topics(args: argparse.Namespace) -> int:
    """Create or list the topics, or print what goes on them."""
    from streams.events import events_schema
    from streams.topics import create_topics, describe_topics

    if args.action == "schema":
        print(json.dumps(events_schema(), indent=2))
        return 0
    settings = broker_settings()
    if args.action == "create":
        print("created:", ", ".join(create_topics(settings)) or "nothing, all were there")
        return 0
    for name, partitions, records in describe_topics(settings):
        state = (
            f"{partitions:>4} partitions {records:>12} records" if partitions else "   missing: `nowrank topics create`"
        )
        print(f"{name:<14}{state}")
    return 0
