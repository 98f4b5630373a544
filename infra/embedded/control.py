"""Starting and stopping the stack from outside: in this process, or in one of its own that stays.

Enters: settings. Leaves: a running stack, or none. Called by `nowrank up` and `nowrank down`, the demo and the tests.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from infra.clock import monotonic_s
from infra.embedded.child import dies_with_parent
from infra.embedded.plan import PARTS, log_dir, module_command
from infra.embedded.stack import Stack
from infra.embedded.stack_file import end_leftovers, hold_lock, running_stack
from infra.errors import StackError
from infra.settings import Settings, child_environment, stack_lives, unusable

SUPERVISOR_LOG = "supervisor.log"
STARTING_LOG = "supervisor.{}.starting"  # of a supervisor that does not hold the lock yet, or never will
STOP_TIMEOUT_S = 60.0
EXIT_TIMEOUT_S = 5.0
POLL_INTERVAL_S = 0.05

Say = Callable[[str], None]
_background: list["subprocess.Popen[bytes]"] = []  # supervisors that this process started, to be reaped


def start_stack(
    settings: Settings, *, only: Collection[str] = PARTS, tied: bool = False, say: Say = print
) -> dict[str, Any]:
    """Start the stack in the background and return the content of its `stack.json` once every part is ready; a stack
    that runs already is returned as it is, one that is just starting once it runs.

    Addresses in `settings` are taken for servers of the user's own. With `tied` the stack ends when the calling thread
    does. Raises `StackError` when a part does not start.
    """
    settings = replace(settings, state_dir=settings.state_dir.resolve())
    running = running_stack(settings.state_dir)
    if running is not None and running["state"] == "running":
        return running
    if running is not None and running["state"] == "stopping":
        say(f"waiting for the end of a stack that is stopping (supervisor pid {running['pid']})")
        _wait_until_unlocked(settings.state_dir, STOP_TIMEOUT_S)
    return _start_in_background(settings, only, tied, say)


def run_stack(settings: Settings, only: Collection[str] = PARTS, say: Say = print) -> None:
    """Be the stack's supervisor until SIGINT, SIGTERM or SIGHUP."""
    settings = replace(settings, state_dir=settings.state_dir.resolve())
    with hold_lock(settings.state_dir):
        for name in end_leftovers(settings.state_dir):
            say(f"{name} was left over from a supervisor that was killed, and was ended")
        _begin_logs(log_dir(settings))
        asyncio.run(Stack(settings, only, say).run())


def stop_stack(settings: Settings, *, say: Say = print) -> bool:
    """End the stack and all it started; False when none was running. Raises `StackError` when it does not end."""
    state_dir = settings.state_dir.resolve()
    running = running_stack(state_dir)
    if running is None:
        if state_dir.is_dir():
            for name in end_leftovers(state_dir):
                say(f"{name} was left over from a supervisor that was killed, and was ended")
        return False
    pid = running.get("pid")
    if pid is None:
        raise StackError(f"a stack is just starting in {state_dir}; try again in a second")
    _signal(pid, signal.SIGTERM)
    if not _wait_until_unlocked(state_dir, STOP_TIMEOUT_S):
        say(f"the supervisor (pid {pid}) did not end within {STOP_TIMEOUT_S:g} s and is killed with all its processes")
        _signal(pid, signal.SIGKILL)
        if not _wait_until_unlocked(state_dir, EXIT_TIMEOUT_S):
            raise StackError(
                f"the supervisor (pid {pid}) could not be ended; its log: {running.get('log_dir')}/{SUPERVISOR_LOG}"
            )
        end_leftovers(state_dir)
    _wait_until_ended(pid)
    _background[:] = [child for child in _background if child.poll() is None]
    return True


def _start_in_background(settings: Settings, only: Collection[str], tied: bool, say: Say) -> dict[str, Any]:
    log_path = log_dir(settings) / STARTING_LOG.format(uuid.uuid4().hex)
    try:
        log_path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unusable(settings.state_dir, error) from error
    with log_path.open("wb") as output, log_path.open("rb") as log, _interrupted_by_signals():
        child = subprocess.Popen(
            module_command("nowrank.cli", "up", "--only", ",".join(only)),
            env={**child_environment(settings), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=dies_with_parent(signal.SIGTERM) if tied else None,
        )
        _background.append(child)
        try:
            running = _relay_until_running(settings.state_dir, child, log, say)
            if running["pid"] != child.pid:
                say(f"running: another `nowrank up` has started it (supervisor pid {running['pid']})")
                _end_starting(child)
                log_path.unlink(missing_ok=True)
            return running
        except BaseException:  # an interrupted caller as well must not leave half a stack
            _end_starting(child)
            raise


def _relay_until_running(state_dir: Path, child: "subprocess.Popen[bytes]", log: Any, say: Say) -> dict[str, Any]:
    """Wait for the stack that `child` starts, or for another one that was first; raises `StackError` when there is
    none.
    """
    while True:
        ended = child.poll() is not None
        running = running_stack(state_dir)
        for line in log.read().decode(errors="replace").splitlines():
            say(line)
        if running is not None and running["state"] == "running":
            return running
        if ended and running is None:
            path = Path(log.name)
            raise StackError(
                f"the stack did not start (exit code {child.returncode}); what it said is above and in "
                f"{path if path.exists() else path.with_name(SUPERVISOR_LOG)}"
            )
        time.sleep(POLL_INTERVAL_S)


@contextlib.contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise `SystemExit`, as SIGINT raises `KeyboardInterrupt`; a caller's own handlers stay."""
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # only the main thread may handle signals
    for number in numbers:
        signal.signal(number, _exit_on_signal)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _exit_on_signal(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _end_starting(child: "subprocess.Popen[bytes]") -> None:
    if child.poll() is None:
        child.terminate()
        child.wait()


def _begin_logs(folder: Path) -> None:
    """Begin with empty logs and keep those of the run before as `NAME.previous.log`; what a supervisor in the
    background writes to becomes the `SUPERVISOR_LOG`. The caller holds the lock.
    """
    for path in folder.glob("*.log"):
        if not path.name.endswith(".previous.log"):
            path.replace(path.with_name(f"{path.stem}.previous.log"))
    for path in folder.glob(STARTING_LOG.format("*")):
        if _is_output(path):
            path.replace(path.with_name(SUPERVISOR_LOG))
        else:
            path.unlink(missing_ok=True)


def _is_output(path: Path) -> bool:
    """True for the file that this process' standard output goes to."""
    try:
        return os.path.samestat(path.stat(), os.fstat(1))
    except OSError:  # the file is gone, or the output is closed
        return False


def _wait_until_unlocked(state_dir: Path, timeout_s: float) -> bool:
    deadline_s = monotonic_s() + timeout_s
    while stack_lives(state_dir):
        if monotonic_s() > deadline_s:
            return False
        time.sleep(POLL_INTERVAL_S)
    return True


def _wait_until_ended(pid: int) -> None:
    """The lock is freed a little before the process is gone; a zombie whose parent does not care is gone as well."""
    deadline_s = monotonic_s() + EXIT_TIMEOUT_S
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while process.status() != psutil.STATUS_ZOMBIE and monotonic_s() < deadline_s:
            time.sleep(POLL_INTERVAL_S / 5)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
