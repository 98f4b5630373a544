"""The time shift: an old log is moved as one block, so that what it holds is recent again.

Enters: the time of a log's newest event, and now. Leaves: the shift. Called by the sources and the import command.
"""

NEWEST_AGE_MS = 3_600_000


def shift_ms(newest_ms: int, now_ms: int) -> int:
    """What to add to every time of a log so that its newest event is one hour old; 0 when it is not older than that."""
    return max(0, now_ms - NEWEST_AGE_MS - newest_ms)
