"""The metrics of several processes that answer as one: each counts in files of its own, any of them can read all.

Enters: a folder that the processes share, and each one's number among them. Leaves: their sum in Prometheus' text
format. Called by `metrics.py` in each process, and by the parent when one of them has ended.

The files are named after the number and not after the process id: a process that is started again goes on counting
where the one before it ended, so that no counter falls back, and however many have ended there are no more files.
"""

from dataclasses import dataclass
from os import environ
from pathlib import Path

from prometheus_client import CollectorRegistry, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

# Where prometheus-client itself looks for the folder.
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


@dataclass(frozen=True, slots=True)
class SharedMetrics:
    """The folder, and this process's number."""

    folder: Path
    number: int

    def join(self) -> None:
        """Count in the folder from now on; to be called once, before the first metric is made."""
        environ[_FOLDER] = str(self.folder)
        # The number stands for the process; no other process that runs has it.
        values.ValueClass = values.MultiProcessValue(lambda: self.number)  # type: ignore[no-untyped-call]

    def registry(self) -> CollectorRegistry:
        """What all processes have counted, gauges of those that run."""
        together = CollectorRegistry()
        MultiProcessCollector(together, path=str(self.folder))  # type: ignore[no-untyped-call]
        return together


def forget_gauges(folder: Path, number: int) -> None:
    """Take the gauges of a process that has ended out of the sum; what it counted stays."""
    mark_process_dead(number, path=str(folder))  # type: ignore[no-untyped-call]
