"""Delta chains: does the delta log hold exactly the deltas that the events give, in their order?

Enters: deltas as the events give them, and as the delta log holds them, repeats dropped. Leaves: pairs that differ.
Called by `verify`. Pure.

A delta depends only on its own log's past for its user (protocol rule 6), and a delta partition has the new deltas of
one event log in the order of the events. So two running hashes for each (delta partition, event log) tell whether any
was lost, doubled, altered or moved, in constant memory.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from features.delta import Delta
from streams.deltas import SourcedDelta, encode_deltas, partition_of
from streams.log_records import Record

ChainName = tuple[int, str]


@dataclass(slots=True)
class Chain:
    """How many deltas there were, and a hash of them all."""

    count: int = 0
    digest: Any = field(default_factory=lambda: blake2b(digest_size=16))

    def add(self, sourced: SourcedDelta) -> None:
        """The next delta."""
        self.count += 1
        self.digest.update(encode_deltas([sourced]))


class DeltaChains:
    """The chains of the events before `ends` (by event log): as `given` by the events and as `held` by the log."""

    def __init__(self, ends: dict[str, int], partitions: int) -> None:
        self.given: dict[ChainName, Chain] = {}
        self.held: dict[ChainName, Chain] = {}
        self._ends = ends
        self._partitions = partitions

    def give(self, record: Record, deltas: Iterable[Delta]) -> None:
        """The deltas that an event gives."""
        if record.offset >= self._ends.get(record.log, 0):
            return
        for ordinal, delta in enumerate(deltas):
            name = (partition_of(delta, self._partitions), record.log)
            self.given.setdefault(name, Chain()).add(SourcedDelta(record.log, record.offset, ordinal, delta))

    def hold(self, partition: int, deltas: Iterable[SourcedDelta]) -> None:
        """New deltas of a message in the delta log."""
        for sourced in deltas:
            if sourced.offset < self._ends.get(sourced.log, 0):
                self.held.setdefault((partition, sourced.log), Chain()).add(sourced)

    def compare(self, partitions: Iterable[int], sources: Iterable[str]) -> Iterator[tuple[ChainName, Chain, Chain]]:
        """Name, given and held of each chain that differs, of those of these delta partitions and event logs."""
        wanted, known = set(partitions), set(sources)
        for name in sorted({*self.given, *self.held}):
            if name[0] in wanted and name[1] in known:
                given, held = self.given.get(name, Chain()), self.held.get(name, Chain())
                if given.digest.digest() != held.digest.digest():
                    yield name, given, held
