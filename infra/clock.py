"""The only reader of the clocks.

Enters: nothing. Leaves: the time. Called by the processes' edges, which pass `now_ms` down to pure code.
"""

import time


def now_ms() -> int:
    """Milliseconds since the Unix epoch, UTC."""
    return time.time_ns() // 1_000_000


def monotonic_s() -> float:
    """Seconds on a clock that never goes back; for durations only."""
    return time.perf_counter()


def thread_cpu_s() -> float:
    """Seconds of CPU that this thread has used: other processes do not change it."""
    return time.thread_time()


def cpu_s() -> float:
    """Seconds of processor time that this process has used; on a shared machine a fairer budget than a watch."""
    return time.process_time()
