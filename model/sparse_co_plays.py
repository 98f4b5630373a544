"""Co-play counts of a large catalogue: the same as `neighbours.CoPlays`, with a dictionary for each title that has
neighbours.

Enters: plays, one by one, each with the titles played just before. Leaves: scores, and the artifact's table. Called by
the replay.
"""

import numpy as np

from model.neighbours import Floats, Ints, NeighbourTable, Pairs, Sources, shrunk_cosine


class SparseCoPlays:
    """Counts that grow play by play; memory grows with the pairs that were seen, about 100 bytes each."""

    def __init__(self, capacity: int = 1024) -> None:
        self._rows: dict[int, dict[int, int]] = {}
        self.plays_V = np.zeros(capacity, np.float32)

    def add(self, played: int, recent: list[int]) -> None:
        """Count one play of slot `played` by a user whose last titles, without `played`, are `recent`."""
        self._hold(max([played, *recent]))
        self.plays_V[played] += 1
        own = self._rows.setdefault(played, {})
        for slot in recent:
            own[slot] = own.get(slot, 0) + 1
            other = self._rows.setdefault(slot, {})
            other[played] = other.get(played, 0) + 1

    def scores(self, sources: Sources, candidates_N: Ints) -> Floats:
        """The (N,) scores of the candidates."""
        return shrunk_cosine(self.block(sources.slots_S, candidates_N), self.plays_V, sources, candidates_N)

    def block(self, slots_S: Ints, candidates_N: Ints) -> Floats:
        """The (S, N) counts of some titles with the candidates."""
        counts_SN = np.zeros((len(slots_S), len(candidates_N)), np.float32)
        few = len(candidates_N) < 1000
        for place, slot in enumerate(slots_S.tolist()):
            row = self._rows.get(slot)
            if not row:
                continue
            if few:
                counts_SN[place] = [row.get(candidate, 0) for candidate in candidates_N.tolist()]
            else:
                counts_V = np.zeros(len(self.plays_V), np.float32)
                counts_V[np.fromiter(row, np.int64, len(row))] = np.fromiter(row.values(), np.float32, len(row))
                counts_SN[place] = counts_V[candidates_N]
        return counts_SN

    def pairs(self, size: int) -> Pairs:
        """The pairs among the first `size` slots."""
        held = [
            (slot, other, count)
            for slot in range(size)
            for other, count in sorted(self._rows.get(slot, {}).items())
            if other < size
        ]
        rows, columns, counts = np.array(held, np.int64).reshape(-1, 3).T
        return Pairs(rows, columns, counts.astype(np.float32))

    def table(self, size: int) -> NeighbourTable:
        """The counts of the first `size` slots as a sparse table."""
        return NeighbourTable.of(self.pairs(size), self.plays_V, size)

    def _hold(self, slot: int) -> None:
        if slot >= len(self.plays_V):
            grown = np.zeros(max(slot + 1, 2 * len(self.plays_V)), np.float32)
            grown[: len(self.plays_V)] = self.plays_V
            self.plays_V = grown
