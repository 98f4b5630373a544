"""What the embedded stack writes about itself: a lock, held while it lives, and `stack.json`: what runs where.

Enters: the supervisor's parts. Leaves: files in the state folder. Called by the stack; read by `load_settings`,
`nowrank status` and Prometheus.
"""

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec
import psutil

from infra.clock import monotonic_s, now_ms
from infra.errors import StackError
from infra.settings import ADDRESSES, STACK_FILE, STACK_LOCK, read_stack_file, stack_lives, unusable

TARGETS_FILE = "prometheus-targets.json"
DAMAGED = "damaged"  # the state of a stack.json that stands among the parts
LOCK_TIMEOUT_S = 1.0
START_TOLERANCE_MS = 2000


class _Process(TypedDict):
    name: str
    state: str
    pid: Annotated[int, msgspec.Meta(gt=0)] | None
    address: str
    restarts: int
    started_ms: int


class _StackFile(TypedDict):
    state: str
    pid: int
    kafka: str
    redis: str
    scorer_url: str
    processes: list[_Process]


@contextlib.contextmanager
def hold_lock(state_dir: Path) -> Iterator[None]:
    """Be the one stack of `state_dir`; raises `StackError` when there is another, or the folder cannot be used.

    The kernel frees the lock when the process ends, however it ends.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        opened = (state_dir / STACK_LOCK).open("a+")
    except OSError as error:
        raise unusable(state_dir, error) from error
    with opened as lock:
        deadline_s = monotonic_s() + LOCK_TIMEOUT_S  # `stack_lives` holds it for an instant
        while not _try_lock(lock.fileno()):
            if monotonic_s() > deadline_s:
                raise StackError(f"a stack is already running in {state_dir}; see `nowrank status`")
            time.sleep(0.02)
        if not _is_whole(read_stack_file(state_dir / STACK_FILE)):  # or it would be taken for ours
            remove_files(state_dir)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def running_stack(state_dir: Path) -> dict[str, Any] | None:
    """The content of `stack.json` when its supervisor lives, else None; what a killed one left does not count.

    A damaged `stack.json` stands among the parts, as one that is damaged: `up`, `down` and `status` go on. Raises
    `StackError` when the folder cannot be read.
    """
    if not stack_lives(state_dir):
        return None
    path = state_dir / STACK_FILE
    was_there = path.exists()
    content, pid = read_stack_file(path), _lock_holder(state_dir)
    is_whole = _is_whole(content)
    if is_whole and content["pid"] == pid:
        return content
    found: dict[str, Any] = {"state": "starting", "pid": pid, "processes": [], **dict.fromkeys(ADDRESSES, "")}
    # A file that appears, or goes, while it is read is not damaged: it reads as nothing.
    if was_there and path.exists() and not is_whole and pid is not None and psutil.pid_exists(pid):
        damaged = {"name": path.name, "state": DAMAGED, "address": "`nowrank down` ends the stack"}
        found |= {"state": "running", "processes": [{**damaged, "pid": None, "restarts": 0, "started_ms": now_ms()}]}
    return found


def write_stack(state_dir: Path, content: dict[str, Any]) -> None:
    """Replace `stack.json` in one step, so that no reader sees half of it; only its owner may read it, since the
    store's address may hold a password.
    """
    _replace(state_dir / STACK_FILE, content, mode=0o600)


def write_targets(state_dir: Path, targets: dict[str, list[str]]) -> None:
    """What Prometheus scrapes, in its `file_sd` format: job -> addresses."""
    _replace(
        state_dir / TARGETS_FILE,
        [{"targets": found, "labels": {"job": job}} for job, found in targets.items() if found],
    )


def remove_files(state_dir: Path) -> None:
    """Take back what `write_stack` and `write_targets` wrote."""
    for name in (STACK_FILE, TARGETS_FILE):
        try:
            (state_dir / name).unlink(missing_ok=True)
        except OSError as error:
            raise unusable(state_dir / name, error) from error


def end_leftovers(state_dir: Path) -> list[str]:
    """Kill what a supervisor left that was killed itself, and return the names.

    Only where the kernel does not do that (anything but Linux) is there something to kill. A process counts only when
    its start time is the recorded one: its number may belong to somebody else by now.
    """
    ended = []
    content = read_stack_file(state_dir / STACK_FILE)
    for process in content["processes"] if _is_whole(content) else []:
        if process["pid"] is None:  # it could not be started; psutil takes None for the process that asks
            continue
        try:
            left = psutil.Process(process["pid"])
            is_ours = abs(left.create_time() * 1000 - process["started_ms"]) < START_TOLERANCE_MS
            if is_ours and left.status() != psutil.STATUS_ZOMBIE:
                os.killpg(left.pid, signal.SIGKILL)
                ended.append(process["name"])
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    remove_files(state_dir)
    return ended


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_holder(state_dir: Path) -> int | None:
    """The supervisor's process number; None while it has not written it yet."""
    try:
        return int((state_dir / STACK_LOCK).read_text())
    except ValueError:
        return None


def _is_whole(content: dict[str, Any]) -> bool:
    """Whether a `stack.json` holds what `up`, `down` and `status` rely on."""
    try:
        msgspec.convert(content, _StackFile)
    except msgspec.ValidationError:
        return False
    return True


def _replace(path: Path, content: object, *, mode: int = 0o666) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode=mode)
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)
