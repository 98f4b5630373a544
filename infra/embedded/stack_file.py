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
from typing import Any

import psutil

from infra.clock import monotonic_s
from infra.errors import StackError
from infra.settings import STACK_FILE, STACK_LOCK, stack_lives

TARGETS_FILE = "prometheus-targets.json"
LOCK_TIMEOUT_S = 1.0
START_TOLERANCE_MS = 2000


@contextlib.contextmanager
def hold_lock(state_dir: Path) -> Iterator[None]:
    """Be the one stack of `state_dir`; raises `StackError` when there is another.

    The kernel frees the lock when the process ends, however it ends.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    with (state_dir / STACK_LOCK).open("a+") as lock:
        deadline_s = monotonic_s() + LOCK_TIMEOUT_S  # `stack_lives` holds it for an instant
        while not _try_lock(lock.fileno()):
            if monotonic_s() > deadline_s:
                raise StackError(f"a stack is already running in {state_dir}; see `nowrank status`")
            time.sleep(0.02)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def running_stack(state_dir: Path) -> dict[str, Any] | None:
    """The content of `stack.json` when its supervisor lives, else None; what a killed one left does not count."""
    if not stack_lives(state_dir):
        return None
    content = _read(state_dir / STACK_FILE)
    pid_text = (state_dir / STACK_LOCK).read_text()
    if str(content.get("pid")) == pid_text:
        return content
    return {"state": "starting", "pid": int(pid_text) if pid_text else None, "processes": []}


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
        (state_dir / name).unlink(missing_ok=True)


def end_leftovers(state_dir: Path) -> list[str]:
    """Kill what a supervisor left that was killed itself, and return the names.

    Only where the kernel does not do that (anything but Linux) is there something to kill. A process counts only when
    its start time is the recorded one: its number may belong to somebody else by now.
    """
    ended = []
    for process in _read(state_dir / STACK_FILE).get("processes", []):
        try:
            left = psutil.Process(process["pid"])
            is_ours = abs(left.create_time() * 1000 - process["started_ms"]) < START_TOLERANCE_MS
            if is_ours and left.status() != psutil.STATUS_ZOMBIE:
                os.killpg(left.pid, signal.SIGKILL)
                ended.append(process["name"])
        except (psutil.NoSuchProcess, ProcessLookupError, KeyError, TypeError):
            continue
    remove_files(state_dir)
    return ended


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def _replace(path: Path, content: object, *, mode: int = 0o666) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode=mode)
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)
