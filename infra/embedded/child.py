"""One child process: started in its own session, tied to its parent's life, ended together with all it started.

Enters: a command. Leaves: a process, or none. Called by the supervisor, and by whoever starts the supervisor itself in
the background.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def dies_with_parent(signal_number: int) -> Callable[[], None]:
    """What a child runs before its command, so that Linux sends it `signal_number` when the *thread* that started it
    ends.

    Elsewhere it does nothing: there the next `nowrank up` or `down` ends what a killed supervisor left
    (`stack_file.end_leftovers`).
    """
    parent_pid = os.getpid()

    def tie() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
            if os.getppid() != parent_pid:  # the parent ended before the call
                os._exit(1)

    return tie


async def start_child(
    command: tuple[str, ...], environment: Mapping[str, str], log_path: Path
) -> asyncio.subprocess.Process:
    """Start `command` with its output appended to `log_path`; raises `OSError` when it cannot be executed."""
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        return await asyncio.create_subprocess_exec(
            *command,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C in the terminal reaches the supervisor only, which ends the parts in order
            preexec_fn=dies_with_parent(signal.SIGKILL),
        )


async def end_child(process: asyncio.subprocess.Process, timeout_s: float) -> bool:
    """SIGTERM, then SIGKILL after `timeout_s` to it and all it started; False when it had to be killed."""
    ended_by_itself = True
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), timeout_s)
        except TimeoutError:
            ended_by_itself = False
    await kill_child(process)
    return ended_by_itself


async def kill_child(process: asyncio.subprocess.Process) -> None:
    """SIGKILL to the process and to what is left of its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def log_tail(path: Path, lines: int) -> str:
    """The last lines of a log, indented; empty when there is none."""
    try:
        text = path.read_bytes()[-8192:].decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(f"    | {line}" for line in text.splitlines()[-lines:])
