"""The processes that are measured: workers and baselines, their readiness and their CPU time.

Enters: settings, commands. Leaves: running processes tied to this one, and what they have used. Called by the
measurements.
"""

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import psutil
from prometheus_client.parser import text_string_to_metric_families

from infra.clock import monotonic_s
from infra.embedded.child import dies_with_parent, log_tail
from infra.embedded.plan import module_command
from infra.embedded.servers import LOOPBACK, free_port
from infra.errors import NowrankError
from infra.settings import STAGES, Settings, child_environment

POLL_S = 0.01
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0
LOG_LINES = 15


@dataclass(frozen=True, slots=True)
class Usage:
    """The clock and a process's CPU time (user and system, all its threads) at one moment."""

    at_s: float
    cpu_s: float

    def until(self, later: "Usage") -> "Usage":
        """What passed and was used in between."""
        return Usage(later.at_s - self.at_s, later.cpu_s - self.cpu_s)


def usage_of(pid: int) -> Usage:
    """The CPU time of a process until now, in steps of 10 ms."""
    times = psutil.Process(pid).cpu_times()
    return Usage(monotonic_s(), times.user + times.system)


class Child:
    """A process of ours with its output in a file, ended with the block that it was started in."""

    def __init__(self, command: tuple[str, ...], environment: dict[str, str], log_path: Path) -> None:
        self.log_path = log_path
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                preexec_fn=dies_with_parent(signal.SIGKILL),
                text=True,
            )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, name="child-output", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def usage(self) -> Usage:
        """Its CPU time until now."""
        return usage_of(self.pid)

    def rss_bytes(self) -> int:
        """The memory that it holds now."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def say(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def wait_for_line(self, text: str, timeout_s: float) -> str:
        """The first line of its standard output that ends with `text`."""
        self.wait_until(lambda: any(line.endswith(text) for line in self.lines), f"{text!r} on its output", timeout_s)
        return next(line for line in self.lines if line.endswith(text))

    def wait_until(self, is_so: Callable[[], bool], what: str, timeout_s: float, poll_s: float = POLL_S) -> None:
        """Wait for a condition; raises `NowrankError` when the process ends or the time is up before."""
        deadline_s = monotonic_s() + timeout_s
        while not is_so():
            if self._process.poll() is not None:
                self._reader.join()
                if is_so():
                    return
                raise NowrankError(
                    f"a measured process ended with {self._process.returncode} before {what}{self._log()}"
                )
            if monotonic_s() > deadline_s:
                raise NowrankError(f"{what} did not happen within {timeout_s:g} s{self._log()}")
            time.sleep(poll_s)

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """End it, by force after STOP_TIMEOUT_S."""
        if self._process.poll() is None:
            self._process.send_signal(signal_number)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._reader.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))

    def _log(self) -> str:
        return f"; the end of {self.log_path}:\n{log_tail(self.log_path, LOG_LINES)}"


class StageProcess(Child):
    """One stage of a stream worker, started as the stack starts it."""

    def __init__(self, settings: Settings, stage: str, name: str) -> None:
        self._port = free_port()
        settings = replace(settings, worker_id=name, stages=stage, metrics_port=self._port, metrics_host=LOOPBACK)
        super().__init__(
            module_command("nowrank.cli", "worker"),
            child_environment(settings),
            settings.state_dir / "logs" / f"{name}.log",
        )

    def is_ready(self) -> bool:
        """Whether `/health/ready` answers with 200 now."""
        return get_text(self._port, "/health/ready")[0] == http.HTTPStatus.OK

    def samples(self) -> Iterator[Any]:
        """Its metrics; costs it some milliseconds."""
        for family in text_string_to_metric_families(get_text(self._port, "/metrics")[1]):
            yield from family.samples


class Worker:
    """A stream worker as the stack starts it: a process for each stage, which are measured together."""

    def __init__(self, settings: Settings, number: int = 0) -> None:
        self._stages = [StageProcess(settings, stage, f"{stage}-{number}") for stage in STAGES]

    def usage(self) -> Usage:
        """The CPU time of both stages until now."""
        parts = [stage.usage() for stage in self._stages]
        return Usage(parts[0].at_s, sum(part.cpu_s for part in parts))

    def rss_bytes(self) -> int:
        """The memory that both stages hold now."""
        return sum(stage.rss_bytes() for stage in self._stages)

    def send_signal(self, number: int) -> None:
        """Send both stages a signal."""
        for stage in self._stages:
            stage.send_signal(number)

    def wait_until(self, is_so: Callable[[], bool], what: str, timeout_s: float, poll_s: float = POLL_S) -> None:
        """Wait for a condition; raises `NowrankError` when stage 1's process ends or the time is up before."""
        self._stages[0].wait_until(is_so, what, timeout_s, poll_s)

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """End both stages."""
        for stage in self._stages:
            stage.stop(signal_number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_until_ready(self) -> None:
        """Wait until it holds its partitions and has sought to where each goes on; it fetches from here on."""
        for stage in self._stages:
            stage.wait_until(stage.is_ready, "a worker's partitions", START_TIMEOUT_S)

    def is_ready(self) -> bool:
        """Whether both stages hold partitions now."""
        return all(stage.is_ready() for stage in self._stages)

    def counters(self) -> Counter[str]:
        """Its metrics, summed over their labels; costs it some milliseconds."""
        sums: Counter[str] = Counter()
        for sample in self._samples():
            sums[sample.name] += sample.value
        return sums

    def means(self, histogram: str) -> dict[str, float]:
        """The mean of a histogram's observations, for each combination of its labels."""
        parts: dict[str, dict[str, float]] = {}
        for sample in self._samples():
            if sample.name in (f"{histogram}_sum", f"{histogram}_count"):
                labels = " ".join(sample.labels[name] for name in sorted(sample.labels))
                parts.setdefault(labels, {})[sample.name.removeprefix(f"{histogram}_")] = sample.value
        return {labels: part["sum"] / part["count"] for labels, part in sorted(parts.items()) if part.get("count")}

    def _samples(self) -> Iterator[Any]:
        for stage in self._stages:
            yield from stage.samples()


def python_module(module: str, *arguments: str) -> tuple[str, ...]:
    """A module of these benchmarks as a process."""
    return (sys.executable, "-m", module, *arguments)


def environment(settings: Settings) -> dict[str, str]:
    """The environment for a module of these benchmarks: these settings, and the repository's root to import from."""
    places = (str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", ""))
    return {**child_environment(settings), "PYTHONPATH": os.pathsep.join(filter(None, places))}


def get_text(port: int, path: str) -> tuple[int, str]:
    """Status and body of a GET; 0 when nobody listens."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()
