"""Durations without the pauses of the machine: on a shared one everything may stand still for seconds.

Enters: nothing. Leaves: seconds. Called by tests that say how long something may take at most, and by `conftest.py`,
which repeats a test that failed during a pause.
"""

import threading
import time
from functools import cache

TICK_S = 0.01
# A tick that takes longer was one of the machine's pauses, not of the code under test: it counts this much.
LONGEST_TICK_S = 0.05


class _Ticking:
    """Adds up the ticks of a thread of its own."""

    def __init__(self) -> None:
        self.running_s = 0.0
        self.paused_s = 0.0
        self._last_s = time.monotonic()
        threading.Thread(target=self._run, name="running-time", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(TICK_S)
            now_s = time.monotonic()
            ran_s = min(now_s - self._last_s, LONGEST_TICK_S)
            self.running_s += ran_s
            self.paused_s += now_s - self._last_s - ran_s
            self._last_s = now_s


@cache
def _ticking() -> _Ticking:
    return _Ticking()


def running_s() -> float:
    """Seconds on a clock that stands still while the machine does; for differences, to some hundredths of a second."""
    return _ticking().running_s


def paused_s() -> float:
    """Seconds that the machine has stood still since the first call; for differences, as above."""
    return _ticking().paused_s
