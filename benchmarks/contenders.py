"""The contenders: a worker, the bare agent and the naive agent, which take turns on one machine.

Enters: settings of a running broker and store. Leaves: what each turn took. Called by `saturation.py`.

All three live side by side and hold their partitions; all but the one whose turn it is are stopped (SIGSTOP), so that
it has the machine to itself. Turns of a few seconds meet the same machine: its speed drifts, and with it every absolute
figure, but not their ratio.
"""

import signal
from dataclasses import replace
from typing import Protocol

from benchmarks.processes import Child, Usage, Worker, environment, python_module
from benchmarks.progress import Progress
from infra.errors import NowrankError
from infra.settings import Settings
from streams.topics import CLICKS, EVENT_TOPICS, PLAYS, THUMBS

TURN_TIMEOUT_S = 300.0
JOIN_TIMEOUT_S = 180.0


class Contender(Protocol):
    """One that takes turns."""

    @property
    def process(self) -> Child | Worker:
        """What runs and is measured."""

    def wait_until_joined(self) -> None:
        """Wait until it holds its partitions and waits for records."""

    def finish(self, records: int) -> None:
        """Wait until it has done the `records` that were appended for this turn."""


def take_turn(contender: Contender, records: int) -> Usage:
    """Let it run until it has done the records that were appended; the others must be stopped."""
    before = contender.process.usage()
    contender.process.send_signal(signal.SIGCONT)
    contender.finish(records)
    used = before.until(contender.process.usage())
    pause(contender)
    return used


def pause(contender: Contender) -> None:
    """Stop it where it is."""
    contender.process.send_signal(signal.SIGSTOP)


def end(contender: Contender) -> None:
    """End it for good, stopped or not."""
    contender.process.stop(signal.SIGKILL)


class TurnWorker:
    """A stream worker with its own settings, but for a session timeout that outlasts the others' turns."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._progress = progress
        self.process = Worker(replace(settings, broker_session_timeout_s=60.0, stall_timeout_s=TURN_TIMEOUT_S))

    def wait_until_joined(self) -> None:
        self.process.wait_until_ready()

    def finish(self, records: int) -> None:
        wait_until_applied(self.process, self._progress)


class BareAgent:
    """`baselines/bare_agent.py` on the same topics."""

    def __init__(self, settings: Settings) -> None:
        arguments = (settings.kafka, str(settings.state_dir / "bare"), *EVENT_TOPICS)
        self._reported = 0
        self.process = Child(
            python_module("benchmarks.baselines.bare_agent", *arguments),
            environment(settings),
            settings.state_dir / "logs" / "bare.log",
        )

    def wait_until_joined(self) -> None:
        self.process.wait_for_line("assigned", JOIN_TIMEOUT_S)

    def finish(self, records: int) -> None:
        self._reported += records
        self.process.wait_for_line(f"counted {self._reported}", TURN_TIMEOUT_S)


class NaiveAgent:
    """`baselines/naive_agent.py` on the same topics but `rankings`, with a database of its own in the same Redis."""

    def __init__(self, settings: Settings, turn_events: int) -> None:
        folder = settings.state_dir / "naive"
        self._turns = 0
        own = replace(settings, redis=f"{settings.redis},db=1")
        arguments = (settings.kafka, str(settings.partitions), str(turn_events), str(folder), PLAYS, CLICKS, THUMBS)
        self.process = Child(
            python_module("benchmarks.baselines.naive_agent", *arguments),
            environment(own),
            settings.state_dir / "logs" / "naive.log",
        )

    def wait_until_joined(self) -> None:
        self.process.wait_for_line("assigned", JOIN_TIMEOUT_S)

    def finish(self, records: int) -> None:
        self._turns += 1
        self.process.wait_for_line(f"done {self._turns}", TURN_TIMEOUT_S)


def wait_until_applied(worker: Worker, progress: Progress) -> None:
    """Wait until both stages have applied everything; raises `NowrankError` when the process ends or takes too long."""
    worker.wait_until(progress.is_session_done, "stage 1's last checkpoint", TURN_TIMEOUT_S)
    ends = progress.delta_ends()
    worker.wait_until(lambda: progress.is_target_done(ends), "stage 2's last checkpoint", TURN_TIMEOUT_S)


def check_applied(progress: Progress) -> None:
    """Raise `NowrankError` unless stage 2 stands at the delta log's exact end."""
    if not progress.is_target_done(progress.exact_delta_ends()):
        raise NowrankError("the delta log goes on behind what was taken for its end: the figures are too low")
