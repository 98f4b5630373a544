"""The watchdog: a worker that makes no progress ends, because a supervisor can start it again and nobody else can.

Enters: beats of the event loop, and what the stages say of themselves. Leaves: nothing, or the process's end with every
thread's stack on standard error. Called by `runtime.py`, twice a second.

The event loop itself is watched from outside Python: each beat arms a timer in C that needs neither the loop nor the
interpreter's lock.
"""

import faulthandler
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from infra.clock import monotonic_s


@dataclass(slots=True)
class Progress:
    """How far one stage has come: when its running batch began (None: it rests), and when its work last moved on."""

    stage: str
    busy_since_s: float | None = None
    moved_s: float = 0.0


class Watchdog:
    """Knows when a worker has stalled."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    def beat(self) -> None:
        """The event loop runs: end the process unless the next beat comes in time.

        Should CPython crash over the stack of a thread that runs on, as 3.11 may, that ends the process too.
        """
        faulthandler.dump_traceback_later(self._timeout_s, exit=True, file=sys.stderr)

    def stop(self) -> None:
        """End the watch; the process is about to end by itself."""
        faulthandler.cancel_dump_traceback_later()

    def stalled(self, stages: Iterable[Progress], lags: dict[str, int]) -> str | None:
        """Why the worker must end: a batch that takes too long, or a log that waits while its stage rests."""
        now_s = monotonic_s()
        for stage in stages:
            if stage.busy_since_s is not None:
                if now_s - stage.busy_since_s > self._timeout_s:
                    return f"stage {stage.stage} has worked on one batch for {now_s - stage.busy_since_s:.0f} s"
            elif lags[stage.stage] and now_s - stage.moved_s > self._timeout_s:
                return (
                    f"{lags[stage.stage]} records wait for stage {stage.stage}, "
                    f"which got none for {now_s - stage.moved_s:.0f} s"
                )
        return None
