"""The commands `up`, `down` and `status`.

Enters: arguments. Leaves: a running stack, or none, and what there is to know about it. Called by the command line.
"""

import argparse
import json
import sys
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import psutil

from infra.addresses import hide_password
from infra.clock import now_ms
from infra.embedded.control import run_stack, start_stack, stop_stack
from infra.embedded.plan import PARTS, make_plan
from infra.embedded.stack_file import DAMAGED, running_stack
from infra.errors import StackError
from infra.restarts import REST_S
from infra.settings import Settings, load_settings
from infra.text_table import aligned

_UP_EXAMPLES = """\
examples:
  nowrank up                        everything, in this terminal, until Ctrl-C
  nowrank up --detach               the same in the background; `nowrank down` ends it
  nowrank up --only broker,redis    the servers alone
  NOWRANK_KAFKA=kafka:9092 NOWRANK_REDIS=redis:6379 nowrank up
                                    workers, scorer and canary on servers of your own

A part that ends is started again, at most 30 s later. Where a stack runs already, exit code 1 says that a part of it is
not ready, or that it was started without a part that is asked for.

Ports are free loopback ports, chosen at each start; `nowrank status` and stack.json in the state folder (.nowrank) name
them. The broker keeps its log in memory: when it starts, the embedded store is emptied, for its rows count events of
that log. For development on one machine; in production use Apache Kafka and Redis."""

_ANEW = "To start everything anew: `nowrank down`, then `nowrank up`; the embedded broker loses its log by that."


def up_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `nowrank up`."""
    parser.epilog = _UP_EXAMPLES
    parser.add_argument(
        "--detach", "-d", action="store_true", help="return when everything is ready and leave it running"
    )
    parser.add_argument(
        "--only", type=_part_names, default=PARTS, metavar="PARTS", help=f"some of {','.join(PARTS)} (default: all)"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="stream workers to start (default: NOWRANK_WORKERS, which is 1)"
    )


def up(args: argparse.Namespace) -> int:
    """Start the stack, or say what is running; 1 when that lacks a part that is asked for, or a part is not ready."""
    settings = load_settings(running_stack=False)
    if args.workers is not None:
        settings = replace(settings, workers=args.workers)
    if settings.workers < 1:
        raise StackError(
            f"{settings.workers} workers were asked for; there must be at least 1 (leave workers out with --only)"
        )
    running = running_stack(settings.state_dir.resolve())
    if running is not None and (running["state"] == "running" or not args.detach):
        running["processes"] = [_with_true_state(process) for process in running["processes"]]
        print(f"already {running['state']}:")
        print(_table(running))
        if lacking := _lacking(running, settings, args.only):
            print(lacking, file=sys.stderr)
            return 1
    elif args.detach:
        start_stack(settings, only=args.only, say=_say)
    else:
        run_stack(settings, args.only, _say)
    return 0


def down_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `nowrank down`: none."""
    parser.epilog = (
        "example:\n  nowrank down\n\nOur own processes end first, then the servers. Redis keeps its rows on disk."
    )


def down(args: argparse.Namespace) -> int:
    """Stop the stack; nothing to stop is no failure."""
    settings = load_settings(running_stack=False)
    print("stopped" if stop_stack(settings, say=_say) else f"no stack is running in {settings.state_dir}")
    return 0


def status_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `nowrank status`."""
    parser.epilog = (
        "examples:\n  nowrank status\n  nowrank status --json | python -m json.tool\n\n"
        "Exit code 0 when every part is ready, 1 when nothing runs or a part is not ready."
    )
    parser.add_argument("--json", action="store_true", help="print what stack.json holds, but for a password")


def status(args: argparse.Namespace) -> int:
    """Print what is running, and where."""
    settings: Settings = load_settings(running_stack=False)
    running = running_stack(settings.state_dir.resolve())
    if running is not None:
        running["processes"] = [_with_true_state(process) for process in running["processes"]]
        if running.get("redis"):
            running["redis"] = hide_password(running["redis"])
    if args.json:
        print(json.dumps(running or {"state": "stopped", "processes": []}, indent=2))
    elif running is None:
        print(f"no stack is running in {settings.state_dir}; start one with `nowrank up`")
    else:
        print(_table(running))
    return 0 if running is not None and running["state"] == "running" and _all_ready(running) else 1


def _all_ready(running: dict[str, Any]) -> bool:
    return all(process["state"] == "ready" for process in running["processes"])


def _lacking(running: dict[str, Any], settings: Settings, only: Collection[str]) -> str | None:
    """What keeps a stack that runs from being the one that was asked for; None when nothing does."""
    if running["state"] != "running":
        return f"nowrank: the stack is {running['state']}: see `nowrank status`, then try again."
    if not _all_ready(running):
        return _not_ready(running)
    plan = make_plan(replace(settings, kafka=running["kafka"], redis=running["redis"]), only)
    runs = {process["name"] for process in running["processes"]}
    absent = [part.name for part in (*plan.servers, *plan.processes, *plan.watchers) if part.name not in runs]
    return f"nowrank: this stack was started without {', '.join(absent)}. {_ANEW}" if absent else None


def _not_ready(running: dict[str, Any]) -> str:
    names = [process["name"] for process in running["processes"] if process["state"] != "ready"]
    if any(process["state"] == DAMAGED for process in running["processes"]):
        return (
            f"nowrank: {', '.join(names)} is damaged: what runs cannot be told from it. `nowrank down` ends the stack."
        )
    return (
        f"nowrank: not ready: {', '.join(names)}. What has ended is started again by itself, at most {REST_S:g} s "
        f"later, and its log says why it ended. {_ANEW}"
    )


def _with_true_state(process: dict[str, Any]) -> dict[str, Any]:
    """What `stack.json` holds of a part, and that its process has `ended` where it has since it was written."""
    pid = process["pid"]
    runs = pid is not None and psutil.pid_exists(pid)
    return {**process, "state": "ended"} if process["state"] in ("starting", "ready") and not runs else process


def _table(running: dict[str, Any]) -> str:
    rows = [("PART", "STATE", "PID", "UP", "RESTARTS", "ADDRESS")]
    for process in running["processes"]:
        up_s = (now_ms() - process["started_ms"]) // 1000
        rows.append(
            (
                process["name"],
                process["state"],
                str(process["pid"] or "-"),
                f"{up_s} s",
                str(process["restarts"]),
                process["address"],
            )
        )
    for name, key in (("broker", "kafka"), ("redis", "redis")):
        if name in running.get("yours", []):
            rows.append((name, "yours", "-", "-", "-", running[key]))
    lines = aligned(rows)
    lines += [f"{process['name']} {process['failure']}" for process in running["processes"] if process.get("failure")]
    return "\n".join([*lines, f"supervisor pid {running.get('pid', '-')}, logs in {running.get('log_dir', '-')}"])


def _part_names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"{name!r} is no part of the stack; its parts are {', '.join(PARTS)}")
    return names


def _say(line: str) -> None:
    print(line, flush=True)
