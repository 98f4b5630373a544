"""Where logs end, exactly.

Enters: a consumer without a group, topic-partitions. Leaves: the offset after each one's last record. Called by
whatever reads a topic up to its end or counts its records.

Seen on Tansu 0.6.0, the embedded broker: ListOffsets answers the *first* offset of the last batch + 1, so
`end_offsets` of a log whose last batch holds 1,000 records is 999 short. The high watermark in a fetch's answer is
right on every broker.
"""

from collections.abc import Iterable
from typing import Any

from infra.clock import monotonic_s
from infra.errors import BrokerUnavailable

POLL_MS = 200


def read_log_ends(consumer: Any, partitions: Iterable[Any], timeout_s: float = 10.0) -> dict[Any, int]:
    """The end of each partition, its beginning when it is empty; takes over the consumer's assignment and positions.

    The consumer must not have fetched from these partitions before. Raises `BrokerUnavailable` when the time is up.
    """
    wanted = list(partitions)
    if not wanted:
        return {}
    first, reported = consumer.beginning_offsets(wanted), consumer.end_offsets(wanted)
    ends = {part: first[part] for part in wanted if reported[part] <= first[part]}
    filled = [part for part in wanted if part not in ends]
    consumer.assign(filled)
    for part in filled:
        consumer.seek(part, reported[part] - 1)
    deadline_s = monotonic_s() + timeout_s
    while len(ends) < len(wanted):
        if monotonic_s() > deadline_s:
            raise BrokerUnavailable(
                f"the ends of {len(wanted) - len(ends)} partitions were not seen within {timeout_s} s"
            )
        consumer.poll(timeout_ms=POLL_MS)
        seen = {part: mark for part in filled if part not in ends and (mark := consumer.highwater(part)) is not None}
        consumer.pause(*seen)
        ends.update(seen)
    consumer.resume(*filled)
    return ends
