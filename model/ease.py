"""EASE: which titles make which likely, as a linear model in closed form.

Enters: the titles that each member engaged. Leaves: a `NeighbourTable` of its weights. Called by `aging.py`
(fitted again as time goes on) and by training (the table of the artifact).

EASE^R (Steck: Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019): B minimises |X - X B|^2 + ridge |B|^2
with a diagonal of zeros, so with P = (X'X + ridge I)^-1 it is B_ij = -P_ij / P_jj. The score of candidate j for sources
i with weights a_i is sum_i a_i B_ij; unlike a count of co-plays it knows that two sources may say the same. Of each
source's weights only the largest in size are kept.

legend: V slots of the item table, M titles that have weights
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.neighbours import NeighbourTable, row_begins

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

# Tuned on the middle part of MovieLens-100k, by the order of the session's scores alone (docs/lab-notebook.md).
RIDGE = 1000.0
KEPT = 100
# The inverse costs M^3: seconds for so many titles, which are the most engaged ones. The others have no weights.
MOST_TITLES = 5_000
# A member with more titles than this is a robot or a shop window; only so many count, because X'X costs their square.
MOST_OF_ONE = 2_000


class EngagedTogether(NamedTuple):
    """X'X of the titles that most members engaged: their slots, ascending; the place of each slot in the matrix, -1 for
    none; the matrix.
    """

    slots_M: Ints
    place_V: Ints
    gram_MM: Floats

    def places(self, slots: Ints) -> Ints:
        """The places of those of the slots that have one."""
        places = self.place_V[slots[slots < len(self.place_V)]]
        return places[places >= 0]


def count_together(histories: Sequence[Ints], size: int, most: int) -> EngagedTogether:
    """How many members engaged both of two titles, for the `most` titles below `size` that most of them engaged; each
    history names a slot once.
    """
    engaged_V = np.bincount(np.concatenate(histories), minlength=size)[:size] if histories else np.zeros(size, np.int64)
    engaged_V[0] = 0
    slots_M = np.sort(np.argsort(-engaged_V, kind="stable")[:most])
    slots_M = slots_M[engaged_V[slots_M] > 0]
    place_V = np.full(size, -1)
    place_V[slots_M] = np.arange(len(slots_M))
    together = EngagedTogether(slots_M, place_V, np.zeros((len(slots_M), len(slots_M)), np.float32))
    for slots in histories:
        places = together.places(slots)
        together.gram_MM[np.ix_(places, places)] += 1.0
    return together


def ease_weights(gram_MM: Floats, ridge: float) -> Floats:
    """B in closed form from X'X."""
    inverse_MM = np.linalg.inv(gram_MM + ridge * np.eye(len(gram_MM), dtype=np.float32))
    weights_MM = np.asarray(-inverse_MM / np.diag(inverse_MM), np.float32)
    np.fill_diagonal(weights_MM, 0.0)
    return weights_MM


def fit_ease(
    histories: Iterable[Iterable[int]], size: int, ridge: float = RIDGE, most: int = MOST_TITLES
) -> NeighbourTable:
    """The table of the slots below `size`, from the slots that each member engaged."""
    kept = [np.fromiter(history, np.int64) for history in histories]
    kept = [np.sort(slots)[:MOST_OF_ONE] for slots in kept if len(slots) > 1]
    together = count_together(kept, size, most)
    return _table(ease_weights(together.gram_MM, ridge), together.slots_M, size)


def _table(weights_MM: Floats, slots_M: Ints, size: int) -> NeighbourTable:
    """The KEPT weights of each row that are largest in size."""
    kept = min(KEPT, len(slots_M))
    if not kept:
        return NeighbourTable(np.zeros(size + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    places_MK = np.sort(np.argpartition(-np.abs(weights_MM), kept - 1, axis=1)[:, :kept], axis=1)
    weights_MK = np.take_along_axis(weights_MM, places_MK, axis=1)
    rows, columns = np.repeat(slots_M, kept), slots_M[places_MK].ravel()
    return NeighbourTable(row_begins(rows, size), columns.astype(np.int32), weights_MK.ravel().astype(np.float32))
