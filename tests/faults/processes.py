"""Real processes that the fault tests hurt: servers and workers.

Enters: commands and settings. Leaves: processes that can be killed, stopped, continued and started again. Called by
`world.py` and by the fault tests.
"""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import httpx
import psutil

from infra.clock import monotonic_s
from infra.embedded.child import dies_with_parent
from infra.embedded.plan import module_command
from infra.embedded.servers import free_port
from infra.embedded.supervisor import PartSpec
from infra.settings import Settings, child_environment

REPOSITORY = Path(__file__).parents[2]
READY_TIMEOUT_S = 90.0
POLL_S = 0.05
HTTP_TIMEOUT_S = 10.0
RESTART_PAUSE_S = 0.5
NO_FAULT = ""


def wait_until(
    condition: Callable[[], object], what: str, timeout_s: float = READY_TIMEOUT_S, tell: Callable[[], str] = str
) -> float:
    """Wait until `condition` holds and return the seconds that it took; after `timeout_s` the test fails with what
    `tell` has to say.
    """
    began_s = monotonic_s()
    while not condition():
        assert monotonic_s() - began_s < timeout_s, f"not within {timeout_s:g} s: {what} {tell()}"
        time.sleep(POLL_S)
    return monotonic_s() - began_s


class Child:
    """One process with a log file, in a session of its own; it ends with the thread that started it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log_path: Path) -> None:
        self.command, self.environment, self.log_path = tuple(command), dict(environment), log_path
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it; its log is appended to."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                env=self.environment,
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=dies_with_parent(signal.SIGKILL),
            )
        return self

    @property
    def pid(self) -> int:
        """The id of the process that was started last."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def is_stopped(self) -> bool:
        """Whether SIGSTOP holds it."""
        return self.is_running and psutil.Process(self.pid).status() == psutil.STATUS_STOPPED

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing when it has ended already."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, timeout_s: float = READY_TIMEOUT_S) -> int:
        """Wait until it ends and return its exit code, negative for a signal."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        if self.is_running:
            self.send_signal(signal.SIGKILL)
            self.wait()

    def log(self) -> str:
        """All that it has said."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""


class Server(Child):
    """The embedded broker or Redis as a process of ours, on one port for its whole life."""

    def __init__(self, part: PartSpec) -> None:
        super().__init__(part.command, part.environment, part.log_path)
        self.address = part.address
        self._probe = part.probe

    def start(self) -> Self:
        """Start it and wait until it answers."""
        super().start()
        wait_until(lambda: asyncio.run(self._probe()), f"{self.address} answers")  # type: ignore[arg-type]
        return self


class Worker(Child):
    """A stream worker; `keep` starts it again whenever it ends, as any supervisor does.

    Each name in `faults` makes one start of it a faulty one (see `launcher.py`), in this order; later starts are plain
    `nowrank worker`.
    """

    def __init__(self, settings: Settings, name: str, folder: Path, faults: Sequence[str] = ()) -> None:
        self.name = name
        self.settings = replace(settings, worker_id=name, metrics_port=free_port(), state_dir=folder)
        super().__init__((), {}, folder / f"{name}.log")
        self.exit_codes: list[int] = []
        self._faults = list(faults)
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.settings.metrics_port}", trust_env=False, timeout=HTTP_TIMEOUT_S
        )
        self._stopping = threading.Event()
        self._keeper: threading.Thread | None = None

    def start(self) -> Self:
        """Start it, with the next fault if there is one."""
        fault = self._faults.pop(0) if self._faults else NO_FAULT
        self.command = module_command("nowrank.cli", "worker")
        if fault != NO_FAULT:
            self.command = (sys.executable, "-m", "tests.faults.launcher", *fault.split())
        self.environment = {**child_environment(self.settings), "PYTHONUNBUFFERED": "1"}
        super().start()
        return self

    def keep(self) -> Self:
        """Start it, and again half a second after each end, until `end`; exit codes are kept."""
        self._keeper = threading.Thread(target=self._keep, name=f"keep-{self.name}", daemon=True)
        self._keeper.start()
        return self

    def _keep(self) -> None:
        while not self._stopping.is_set():
            self.start()
            self.exit_codes.append(self.wait(timeout_s=3600.0))
            self._stopping.wait(RESTART_PAUSE_S)

    def is_ready(self) -> bool:
        """Whether it holds partitions and folds."""
        try:
            return self._http.get("/health/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def wait_until_ready(self) -> float:
        """Wait until it is ready and return the seconds that it took."""
        return wait_until(self.is_ready, f"{self.name} is ready", tell=lambda: self.log()[-2_000:])

    def metrics(self) -> dict[str, float]:
        """Every sample that it exposes now, by name and labels."""
        samples = (line.rpartition(" ") for line in self._http.get("/metrics").text.splitlines() if line[:1] != "#")
        return {name: float(value) for name, _, value in samples}

    def metric(self, pattern: str) -> float:
        """The sum of the samples whose name and labels begin with `pattern` (a regular expression)."""
        return sum(value for name, value in self.metrics().items() if re.match(pattern, name))

    def terminate(self) -> tuple[int, float]:
        """SIGTERM; returns the exit code and the seconds until the process had ended."""
        self._stopping.set()
        began_s = monotonic_s()
        self.send_signal(signal.SIGTERM)
        return self.wait(), monotonic_s() - began_s

    def end(self) -> None:
        """Kill it and start it no more."""
        self._stopping.set()
        while self.is_running or (self._keeper is not None and self._keeper.is_alive()):
            if self.is_running:
                self.send_signal(signal.SIGKILL)
            time.sleep(POLL_S)
        self._http.close()
