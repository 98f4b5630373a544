"""Aging neighbours: tables that examples see about as old as requests will.

Enters: a replay and the span of time of its examples. Leaves: scores by co-plays and by EASE as an artifact of that
time would give them. Called by the data set builders.

An artifact holds its tables as they were when it was trained. Were examples to see them as of the label, training would
learn to trust them more than they are worth by the time of a request: on news, pairs are hours old.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from model.ease import fit_ease
from model.neighbours import NeighbourTable, Sources
from model.replay import Replay

# How often they are fitted along the training part.
FITS = 6

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


class AgedTable:
    """The last fit of a table: none at first."""

    def __init__(self, fit: Callable[[], NeighbourTable]) -> None:
        self._fit = fit
        self._table: NeighbourTable | None = None

    def renew(self) -> None:
        """Fit it again."""
        self._table = self._fit()

    def scores_of_each(self, sources: Sequence[Sources], candidates_N: Ints) -> Floats:
        """The (K, N) scores of the candidates with each of K sources; 0 for titles that came after the fit."""
        if self._table is None:
            return np.zeros((len(sources), len(candidates_N)), np.float32)
        size = len(self._table.begins) - 1
        known = [Sources(slots_S[slots_S < size], weights_S[slots_S < size]) for slots_S, weights_S in sources]
        held_N = candidates_N < size
        scores_KN = self._table.scores_of_each(known, np.where(held_N, candidates_N, 0))
        return np.where(held_N, scores_KN, np.float32(0.0)).astype(np.float32)


class AgingNeighbours:
    """Co-plays and EASE of a replay: nothing before the first label that is kept up with, then FITS fits evenly from
    `begin_ms` to `end_ms`.
    """

    def __init__(self, replay: Replay, begin_ms: int, end_ms: int) -> None:
        self.co_plays = AgedTable(lambda: replay.co_plays.table(len(replay.table)))
        self.ease = AgedTable(lambda: fit_ease(replay.engaged.values(), len(replay.table)))
        self._step_ms = max(1, (end_ms - begin_ms) // FITS)
        self._due_ms = begin_ms

    def keep_up(self, now_ms: int) -> None:
        """Fit again when the last fit is too old; what the replay holds must be older than `now_ms`."""
        if now_ms >= self._due_ms:
            self.co_plays.renew()
            self.ease.renew()
            self._due_ms = now_ms + self._step_ms
