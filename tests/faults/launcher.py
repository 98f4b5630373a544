"""A worker with one planned fault: patches the code, then runs `nowrank worker` as it is.

Enters: `python -m tests.faults.launcher FAULT ...`. Leaves: a worker that hurts itself where the fault says. Called by
`processes.Worker`.

    kill STAGE POINT N    SIGKILL to itself at the Nth time that STAGE (session, target) reaches POINT
    stop STAGE POINT N    SIGSTOP at that place; SIGCONT lets it go on there, in the middle of its batch
    hang STAGE N          the Nth batch of STAGE waits for ever; the event loop goes on
    block STAGE N         the Nth batch of STAGE blocks the whole event loop for ever
    poison EVENT_ID       folding this event raises
    hole TOPIC N          the Nth fetch of two or more records of TOPIC lacks its first

POINT: `rows`, deltas acknowledged and no row written; `half`, every other row written; `checkpoint`, all rows written
and no checkpoint.
"""

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import features.user
from features.online_store import FencedStore, Row
from nowrank.cli import main
from streams.app import _Consumer
from streams.session_agent import SessionStage
from streams.target_agent import TargetStage

FOREVER_S = 10_000.0
STAGES: dict[str, Any] = {"session": SessionStage, "target": TargetStage}


def signal_at(number: signal.Signals, stage: str, point: str, nth: int) -> None:
    """Send this process a signal when a stage comes to a point for the nth time.

    To the thread that writes: a signal to the process may reach another thread first, and this one goes on meanwhile,
    past its point.
    """
    write_rows, write_checkpoints = FencedStore.write_rows, FencedStore.write_checkpoints
    is_due = _nth(nth)

    def signalling_rows(store: FencedStore, rows: Any) -> list[bool]:
        rows = list(rows)
        is_ours = bool(rows) and _stage_of(rows[0]) == stage
        if is_ours and point == "rows" and is_due():
            signal.pthread_kill(threading.get_ident(), number)
        if is_ours and point == "half" and len(rows) > 1 and is_due():
            first = write_rows(store, rows[::2])
            signal.pthread_kill(threading.get_ident(), number)
            accepted = [True] * len(rows)
            accepted[::2], accepted[1::2] = first, write_rows(store, rows[1::2])
            return accepted
        return write_rows(store, rows)

    def signalling_checkpoints(store: FencedStore, name: str, checkpoints: dict[str, bytes]) -> None:
        if name == stage and checkpoints and point == "checkpoint" and is_due():
            signal.pthread_kill(threading.get_ident(), number)
        write_checkpoints(store, name, checkpoints)

    setattr(FencedStore, "write_rows", signalling_rows)  # noqa: B010 - to mypy an assignment would change the type
    setattr(FencedStore, "write_checkpoints", signalling_checkpoints)  # noqa: B010


def stall(stage: str, nth: int, *, blocks_loop: bool) -> None:
    """Make the nth batch of a stage last for ever."""
    kind = STAGES[stage]
    apply = kind.apply
    is_due = _nth(nth)

    async def stalling(self: Any, records: Any) -> None:
        if is_due():
            if blocks_loop:
                time.sleep(FOREVER_S)
            await asyncio.sleep(FOREVER_S)
        await apply(self, records)

    kind.apply = stalling


def break_fold(event_id: str) -> None:
    """Make the fold of one event raise, as a defect of ours would."""
    right = features.user.event_id_hash

    def breaking(seen_id: str) -> int:
        if seen_id == event_id:
            raise ZeroDivisionError("this event breaks the fold")
        return right(seen_id)

    setattr(features.user, "event_id_hash", breaking)  # noqa: B010


def leave_out(topic: str, nth: int) -> None:
    """Leave a record out of a fetch, as the embedded broker does while two producers append at the same time."""
    fetch = _Consumer._getmany
    is_due = _nth(nth)

    async def fetching(self: Any, **asked: Any) -> Any:
        fetched = await fetch(self, **asked)
        for tp, records in fetched.items():
            if tp.topic == topic and len(records) > 1 and is_due():
                fetched[tp] = records[1:]
                print(f"a fetch lacks offset {records[0].offset}", flush=True)
        return fetched

    setattr(_Consumer, "_getmany", fetching)  # noqa: B010


def _nth(nth: int) -> Callable[[], bool]:
    """A question that is answered with yes the nth time that it is asked."""
    asked = 0

    def ask() -> bool:
        nonlocal asked
        asked += 1
        return asked == nth

    return ask


def _stage_of(row: Row) -> str:
    return "session" if row.family.name == "user" else "target"


def plan(words: list[str]) -> None:
    """Arm the fault that the words describe."""
    match words:
        case ["kill" | "stop" as action, stage, point, nth]:
            number = signal.SIGKILL if action == "kill" else signal.SIGSTOP
            signal_at(number, stage, point, int(nth))
        case ["hang" | "block" as action, stage, nth]:
            stall(stage, int(nth), blocks_loop=action == "block")
        case ["poison", event_id]:
            break_fold(event_id)
        case ["hole", topic, nth]:
            leave_out(topic, int(nth))
        case _:
            raise SystemExit(f"no fault is called {' '.join(words)!r}")


if __name__ == "__main__":
    plan(sys.argv[1:])
    sys.exit(main(["worker"]))
