"""When a process that ended by itself is started again, and when it is given up.

Enters: the times of its ends, its exit code. Leaves: a count, a pause, words. Called by the embedded stack's supervisor
and by a scorer of several processes; standard library only, since the scorer's image has no psutil.
"""

import signal
from collections import deque

from infra.clock import monotonic_s

RESTART_LIMIT = 8  # ends within RESTART_WINDOW_S; with one more it rests for REST_S, or is given up
RESTART_WINDOW_S = 60.0
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
REST_S = 30.0


def ends_lately(ends_s: deque[float]) -> int:
    """Add an end, now; how many there were within `RESTART_WINDOW_S`. Older ones leave `ends_s`."""
    now_s = monotonic_s()
    ends_s.append(now_s)
    while now_s - ends_s[0] > RESTART_WINDOW_S:
        ends_s.popleft()
    return len(ends_s)


def pause_s(ends: int) -> float:
    """How long to wait before the next start: twice as long after each of the latest ends, the first included."""
    return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (ends - 1)))


def describe_end(returncode: int | None) -> str:
    """How a process ended, in words."""
    if returncode is not None and returncode < 0:
        return f"was ended by {signal.Signals(-returncode).name}"
    return f"ended with exit code {returncode}"
