"""The scorer's commands: run one, of one process or of several, ask one.

Enters: parsed arguments. Leaves: an exit code. Called by `nowrank scorer` and `nowrank rank`.
"""

import argparse
import contextlib
import signal
import sys
from typing import TYPE_CHECKING

import msgspec

from infra.addresses import MAX_PORT
from infra.errors import InvalidRequest, ScorerUnavailable, SettingsError
from infra.logs import configure_logs
from infra.settings import Settings, load_settings
from serving.contract import DEFAULT_PER_ROW, DEFAULT_ROWS
from streams.events import TaskName

if TYPE_CHECKING:
    from serving.processes import Address

DEFAULT_PORT = 8080


def scorer_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank scorer`."""
    parser.add_argument("--host", help="address to listen on (default: NOWRANK_SCORER_HOST, 127.0.0.1)")
    parser.add_argument("--port", type=int, help=f"port to listen on (default: NOWRANK_SCORER_PORT, {DEFAULT_PORT})")
    parser.epilog = (
        "examples:\n"
        "  nowrank scorer                            beside a running `nowrank up`: the same broker, store and model\n"
        "  NOWRANK_REDIS=store:6379 NOWRANK_KAFKA=broker:9092 nowrank scorer --host 0.0.0.0 --port 8080\n"
        "  NOWRANK_SCORER_PROCESSES=4 nowrank scorer  four processes on one port, whose metrics add up\n\n"
        "It starts without a store, a broker or a model, says so in each answer, and picks each up when it comes."
    )


def scorer(args: argparse.Namespace) -> int:
    """Run the scorer until it is told to end."""
    from serving.processes import Address, run_processes

    settings = load_settings()
    configure_logs(settings.log_level, "scorer")
    port = args.port if args.port is not None else settings.scorer_port or DEFAULT_PORT
    if not 0 < port <= MAX_PORT:
        raise SettingsError(f"the port is {port}; it must be between 1 and {MAX_PORT}")
    address = Address(args.host or settings.scorer_host, port)
    return _serve(settings, address) if settings.scorer_processes == 1 else run_processes(settings, address)


def _serve(settings: Settings, address: "Address") -> int:
    """One process: this one."""
    import uvicorn

    from serving.connections import server_config
    from serving.process import ScorerProcess

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn ends in good order, then raises the signal again
    process = ScorerProcess(settings)
    config = server_config(process.app, settings, process.metrics, host=address.host, port=address.port)
    server = uvicorn.Server(config)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once it has ended
        server.run()
    if not server.started:
        raise ScorerUnavailable("the scorer could not start; the lines before say why")
    return 0


def rank_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank rank`."""
    parser.add_argument("--user", required=True, help="whom to rank for")
    parser.add_argument(
        "--task",
        choices=("pre_query", "search", "more_like_this"),
        help="default: search with --query, more_like_this with --source",
    )
    parser.add_argument("--query", help="what was typed so far")
    parser.add_argument("--source", metavar="ITEM", help="the title that the member is looking at")
    parser.add_argument("--country", help="two capital letters")
    parser.add_argument(
        "--items",
        nargs="+",
        metavar="ITEM",
        help="the titles to put in order; without them the scorer finds candidates",
    )
    parser.add_argument("--limit", type=int, default=10, help="how many titles (default: 10)")
    parser.add_argument(
        "--explain", action="store_true", help="show the parts of each score, and the features of the first title"
    )
    parser.add_argument("--groups", action="store_true", help="show labelled rows of titles instead of one list")
    parser.add_argument("--rows", type=int, default=DEFAULT_ROWS, help=f"at most (default: {DEFAULT_ROWS})")
    parser.add_argument(
        "--per-row", type=int, default=DEFAULT_PER_ROW, help=f"titles in a row at most (default: {DEFAULT_PER_ROW})"
    )
    parser.add_argument(
        "--log",
        action="store_true",
        help="count the answer as shown to the member (an impression of each title); "
        "reproduce, skew and training see only logged answers",
    )
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    parser.add_argument(
        "--url", help="where the scorer is (default: NOWRANK_SCORER_URL, else the running embedded stack's)"
    )
    parser.epilog = (
        "examples:\n"
        "  nowrank rank --user 42\n"
        "  nowrank rank --user 42 --query 'star w' --country DE\n"
        "  nowrank rank --user 42 --source 50 --explain\n"
        "  nowrank rank --user 42 --country DE --groups\n"
        "  NOWRANK_API_TOKEN=TOKEN nowrank rank --user 42   of a scorer that wants a token\n"
    )


def rank(args: argparse.Namespace) -> int:
    """Ask for a ranking and print it."""
    from serving.client import Scorer
    from serving.console import print_answer

    implied: TaskName = "search" if args.query is not None else "more_like_this" if args.source else "pre_query"
    task: TaskName = args.task or implied
    try:
        with Scorer(args.url, timeout_s=10.0) as client:
            answer = client.rank(
                args.user,
                task,
                query=args.query,
                source_item_id=args.source,
                country=args.country,
                items=args.items,
                limit=args.limit,
                explain=args.explain,
                groups=args.groups,
                rows=args.rows,
                per_row=args.per_row,
                log=args.log,
            )
    except InvalidRequest as error:
        if error.reason != "unauthorized":
            raise
        raise InvalidRequest(error.reason, f"{error.message}; set NOWRANK_API_TOKEN to one of the scorer's") from error
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode())
    else:
        print_answer(answer, sys.stdout, is_logged=args.log)
    return 0
