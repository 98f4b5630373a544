"""The offsets that item rows contain, by slot, in twelve bytes each.

Enters: rows as the near cache has read them. Leaves: the offsets by log, for the rankings log. Held by `library.py`.

All deltas of a title come in one partition of the delta log, so that a number and an offset say it all. What is
otherwise, after another number of partitions was given to the log, is kept as it was stored.
"""

import re
from array import array
from functools import cache

from features.rows import decode_contained
from streams.topics import DELTAS

NO_ROW, OTHERWISE = -1, -2
_LOG = re.compile(rf"{DELTAS}-(0|[1-9]\d{{0,8}})")


class RowOffsets:
    """Slots that were never put have no row; `count` is how many have one."""

    def __init__(self) -> None:
        self.count = 0
        self._partitions = array("i")
        self._offsets = array("q")
        self._otherwise: dict[int, bytes] = {}

    def put(self, slot: int, contained: bytes) -> None:
        """What the slot's row contains; empty: there is no row any more."""
        missing = slot + 1 - len(self._partitions)
        self._partitions.extend([NO_ROW] * missing)
        self._offsets.extend([0] * missing)
        self.count += bool(contained) - (self._partitions[slot] != NO_ROW)
        self._partitions[slot], self._offsets[slot] = _pack(contained)
        self._otherwise.pop(slot, None)
        if self._partitions[slot] == OTHERWISE:
            self._otherwise[slot] = contained

    def get(self, slot: int) -> dict[str, int]:
        """The offsets by log; none where there is no row."""
        if slot >= len(self._partitions) or self._partitions[slot] == NO_ROW:
            return {}
        if self._partitions[slot] == OTHERWISE:
            return decode_contained(self._otherwise[slot])
        return {f"{DELTAS}-{self._partitions[slot]}": self._offsets[slot]}


def _pack(contained: bytes) -> tuple[int, int]:
    offsets = decode_contained(contained)
    if not offsets:
        return NO_ROW, 0
    [(log, offset), *others] = offsets.items()
    partition = _partition(log)
    return (OTHERWISE, 0) if others or partition is None else (partition, offset)


@cache  # as many as the delta log has partitions
def _partition(log: str) -> int | None:
    found = _LOG.fullmatch(log)
    return None if found is None else int(found[1])
