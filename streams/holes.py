"""Holes in what a fetch brought: offsets that it left out.

Enters: where a log goes on, and the records that came. Leaves: whether to fetch them again. Called by the workers'
consumer.

The embedded broker shows a record before an earlier one that another producer is appending at the same time; fetched
again, both are there. On Apache Kafka a hole is a mark that ended a transaction, or records that expired unread, and
stays.
"""

import logging
from collections.abc import Sequence
from typing import Any

HOLE_TRIES = 100  # fetches that must not have filled a hole before it counts as one that stays
log = logging.getLogger(__name__)


def find_hole(begin: int, records: Sequence[Any]) -> int | None:
    """The first offset from `begin` on that is not among the records (in order, at least one), up to their last; None
    without one.
    """
    first, last = records[0].offset, records[-1].offset
    if first <= begin and last - first < len(records):
        return None
    for record in records:
        if record.offset > begin:
            return begin
        begin = record.offset + 1
    return None


class Holes:
    """The holes of a consumer's partitions. Once one has stayed, the partition's holes are not waited for any more."""

    def __init__(self) -> None:
        self._tries: dict[Any, tuple[int, int]] = {}
        self._staying: set[Any] = set()

    def may_fill(self, tp: Any, begin: int, records: Sequence[Any]) -> bool:
        """Whether the records, which should begin at the offset `begin`, have a hole that another fetch may fill."""
        if tp in self._staying or (hole := find_hole(begin, records)) is None:
            return False
        tried, tries = self._tries.get(tp, (hole, 0))
        self._tries[tp] = (hole, tries + 1 if tried == hole else 1)
        if self._tries[tp][1] <= HOLE_TRIES:
            return True
        log.warning(
            "%s-%d has no record at offset %d, and goes on behind it: the mark of a transaction, or records that "
            "expired before they were read",
            tp.topic, tp.partition, hole,
        )  # fmt: skip
        self._staying.add(tp)
        return False
