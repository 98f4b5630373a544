"""Several scorer processes on one port: started together, started again when one ends, ended together.

Enters: settings and an address. Leaves: an exit code, once all have ended. Called by `nowrank scorer` when
NOWRANK_SCORER_PROCESSES is more than 1.

They inherit one listening socket, and whoever is idle takes the next connection: a process that is busy scoring does
not. With a socket for each (SO_REUSEPORT) the kernel would give a connection to one of them at once, busy or not, and
lose what waits for a process that ends; here it waits for the others. Each child's standard input is a pipe that this
process never writes to: its end tells the child that the parent is gone.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from infra.errors import ScorerUnavailable
from infra.restarts import RESTART_LIMIT, RESTART_WINDOW_S, describe_end, ends_lately, pause_s
from infra.settings import Settings, child_environment
from infra.shared_metrics import forget_gauges

METRICS_FOLDER = "nowrank-metrics-"  # then the owner's process id
BACKLOG = 2048
# A child that ends with this code was told something that another start will not change.
UNUSABLE = 78
# Below the ten seconds that the embedded stack and Docker leave the whole of it.
END_TIMEOUT_S = 8.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Address:
    """Where all of them listen."""

    host: str
    port: int


def run_processes(settings: Settings, address: Address) -> int:
    """Run them until told to end; raises `ScorerUnavailable` when one cannot be kept running."""
    with _listen(address) as listener, _metrics_folder() as folder:
        return asyncio.run(_Processes(settings, listener, folder).run())


class _Processes:
    def __init__(self, settings: Settings, listener: socket.socket, folder: Path) -> None:
        self._settings = settings
        self._listener = listener
        self._folder = folder
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._ending = asyncio.Event()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told.set)
        count = self._settings.scorer_processes
        host, port = self._listener.getsockname()[:2]
        print(f"scorer: {count} processes on {host}:{port}", flush=True)
        keepers = [asyncio.create_task(self._keep(number)) for number in range(count)]
        waiter = asyncio.create_task(told.wait())
        try:
            done, _ = await asyncio.wait([waiter, *keepers], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await self._end(keepers)
            waiter.cancel()
        return 0

    async def _keep(self, number: int) -> None:
        """Start one process, and again whenever it ends; raises `ScorerUnavailable` when that happens too often."""
        ends_s: deque[float] = deque()
        while not self._ending.is_set():
            process = self._running[number] = await self._start(number)
            code = await process.wait()
            forget_gauges(self._folder, number)
            if self._ending.is_set():
                return
            if code == UNUSABLE:
                raise ScorerUnavailable("the scorer could not start; the lines before say why")
            wait_s = _next_pause_s(ends_s, number, code)
            log.warning("scorer process %d %s; it is started again in %.1f s", number, describe_end(code), wait_s)
            await asyncio.sleep(wait_s)

    async def _start(self, number: int) -> asyncio.subprocess.Process:
        descriptor = self._listener.fileno()
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "serving.one_of_several", str(number), str(descriptor), str(self._folder)),
            env=child_environment(self._settings),
            stdin=asyncio.subprocess.PIPE,
            pass_fds=(descriptor,),
            start_new_session=True,  # Ctrl-C in the terminal reaches this process only, which ends them in order
        )

    async def _end(self, keepers: "list[asyncio.Task[None]]") -> None:
        """SIGTERM to all, SIGKILL to those that are still there after END_TIMEOUT_S."""
        self._ending.set()
        for process in self._running.values():
            _signal(process, signal.SIGTERM)
        waits = [asyncio.create_task(process.wait()) for process in self._running.values()]
        _, late = await asyncio.wait(waits, timeout=END_TIMEOUT_S) if waits else (set(), set())
        if late:
            log.warning("%d scorer processes did not end within %g s and are killed", len(late), END_TIMEOUT_S)
            for process in self._running.values():
                _signal(process, signal.SIGKILL)
            await asyncio.wait(late)
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)


def _next_pause_s(ends_s: deque[float], number: int, code: int) -> float:
    """How long to wait before the next start, longer each time; raises `ScorerUnavailable` when there were too many."""
    ends = ends_lately(ends_s)
    if ends > RESTART_LIMIT:
        raise ScorerUnavailable(
            f"scorer process {number} {describe_end(code)}, for the {ends}th time within {RESTART_WINDOW_S:g} s; "
            "all are ended; the lines before say why"
        )
    return pause_s(ends)


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ScorerUnavailable(
            f"the scorer cannot listen on {address.host}:{address.port}: {error}; choose another --host or --port"
        ) from error


@contextlib.contextmanager
def _metrics_folder() -> Iterator[Path]:
    for left in Path(tempfile.gettempdir()).glob(f"{METRICS_FOLDER}*"):  # of parents that were killed
        owner = left.name.removeprefix(METRICS_FOLDER).partition("-")[0]
        if owner.isdecimal() and _is_gone(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{METRICS_FOLDER}{os.getpid()}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return pid == os.getpid()  # in a container the next process often has the number of the last


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
