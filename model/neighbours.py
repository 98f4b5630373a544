"""Neighbours: which titles go with which, as item-to-item scores.

Enters: first engagements of users with titles, one by one, each with the titles that its user engaged just before.
Leaves: scores of candidates for a set of source titles, and a sparse table for the artifact. Called by the replay
(which counts), the artifact (which reads the table) and the baselines.

A title is played, here, when a user clicks, plays or thumbs it up for the first time; each user counts once. Two titles
are neighbours when one is among the last WINDOW titles of a user who plays the other. The score of candidate
j for sources i with weights a_i is sum_i a_i * c_ij / sqrt((n_i + SHRINKAGE) * (n_j + SHRINKAGE)): a shrunk cosine of
the counts c with the numbers of plays n. As a column of the vector it is asinh(CONTRAST * score), a logarithm that also
takes what is below zero, because most scores are tiny and a few are large. A table may as well hold the weights of
EASE (`ease.py`), and gives columns of its own then. Titles are numbered by slot of the item table, which in the
artifact is the index in its vocabulary; 0 is no title and has no neighbours.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from features.item_table import ItemTable
from features.vector import Context, Similarities

WINDOW = 5
SHRINKAGE = 20.0
# Tuned on the middle part of MovieLens-100k: the newest 10 titles, each weighing 0.8 of the next newer one, find more
# than the last 5 alike.
SESSION_TITLES, SESSION_FADE = 10, 0.8
CONTRAST = 100.0
# Sorting the neighbours is quicker than one place for every title when there are fewer than one in so many.
SPARSE = 16
LARGEST_DENSE = 8192

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


class Sources(NamedTuple):
    """Titles to find neighbours of, and the weight of each."""

    slots_S: Ints
    weights_S: Floats


class Pairs(NamedTuple):
    """Two titles that were played near each other, and how often, by rising row; each pair stands both ways."""

    rows_P: Ints
    columns_P: Ints
    counts_P: Floats


class Neighbours(Protocol):
    """What scores candidates by their neighbourhood to each of several sources' titles."""

    def scores_of_each(self, sources: Sequence[Sources], candidates_N: Ints) -> Floats: ...


class CoPlays:
    """Counts that grow play by play; a dense (V, V) matrix, so for catalogues of up to LARGEST_DENSE
    titles; `SparseCoPlays` does the same for larger ones.
    """

    def __init__(self, capacity: int = 1024) -> None:
        self.counts_VV = np.zeros((capacity, capacity), np.float32)
        self.plays_V = np.zeros(capacity, np.float32)

    def add(self, played: int, recent: list[int]) -> None:
        """Count one play of slot `played` by a user whose last titles, without `played`, are `recent`."""
        self._hold(max([played, *recent]))
        self.plays_V[played] += 1
        if recent:
            self.counts_VV[recent, played] += 1
            self.counts_VV[played, recent] += 1

    def scores(self, sources: Sources, candidates_N: Ints) -> Floats:
        """The (N,) scores of the candidates."""
        return shrunk_cosine(self.block(sources.slots_S, candidates_N), self.plays_V, sources, candidates_N)

    def block(self, slots_S: Ints, candidates_N: Ints) -> Floats:
        """The (S, N) counts of some titles with the candidates."""
        few = 4 * len(candidates_N) < len(self.plays_V)
        return self.counts_VV[slots_S[:, None], candidates_N] if few else self.counts_VV[slots_S][:, candidates_N]

    def pairs(self, size: int) -> Pairs:
        """The pairs among the first `size` slots."""
        counts_VV = self.counts_VV[:size, :size]
        rows, columns = np.nonzero(counts_VV)
        return Pairs(rows, columns, counts_VV[rows, columns])

    def table(self, size: int) -> "NeighbourTable":
        """The counts of the first `size` slots as a sparse table."""
        return NeighbourTable.of(self.pairs(size), self.plays_V, size)

    def _hold(self, slot: int) -> None:
        size = held = len(self.plays_V)
        if slot < held:
            return
        while size <= slot:
            size *= 2
        counts_VV, plays_V = np.zeros((size, size), np.float32), np.zeros(size, np.float32)
        counts_VV[:held, :held], plays_V[:held] = self.counts_VV, self.plays_V
        self.counts_VV, self.plays_V = counts_VV, plays_V


class NeighbourTable(NamedTuple):
    """A weight for each pair of a source title and a neighbour in CSR form: the neighbours of i are
    columns[begins[i]:begins[i + 1]].
    """

    begins: Ints
    columns: NDArray[np.int32]
    weights: Floats

    @classmethod
    def of(cls, pairs: Pairs, plays_V: Floats, size: int) -> "NeighbourTable":
        """The shrunk cosines of pairs among the first `size` slots."""
        shrunk_V = np.sqrt(np.pad(plays_V[:size], (0, max(0, size - len(plays_V)))) + SHRINKAGE)
        weights = pairs.counts_P / (shrunk_V[pairs.rows_P] * shrunk_V[pairs.columns_P])
        return cls(row_begins(pairs.rows_P, size), pairs.columns_P.astype(np.int32), weights.astype(np.float32))

    def scores(self, sources: Sources, candidates_N: Ints) -> Floats:
        """The (N,) scores of the candidates; for a table of `CoPlays` the same as its `scores` up to rounding."""
        [scores_N] = self.scores_of_each([sources], candidates_N)
        return np.asarray(scores_N)

    def scores_of_each(self, sources: Sequence[Sources], candidates_N: Ints) -> Floats:
        """The (K, N) scores of the candidates with each of K sources, in one pass over all their neighbours."""
        size = len(self.begins) - 1
        held, sizes = self._held(np.concatenate([one.slots_S for one in sources]))
        lengths = [len(one.slots_S) for one in sources]
        weights = np.concatenate([one.weights_S for one in sources])
        # Each of the K has places of its own for every title.
        places = self.columns.take(held) + np.repeat(np.repeat(np.arange(len(sources)) * size, lengths), sizes)
        weighed = self.weights.take(held) * np.repeat(weights, sizes)
        scores_KV = np.bincount(places, weighed, len(sources) * size).reshape(len(sources), size)
        return scores_KV.take(candidates_N, axis=1).astype(np.float32)

    def near(self, sources: Sources) -> tuple[Ints, Floats]:
        """Every neighbour of the sources, and its score: costs what the sources' neighbours are, not what all titles
        are.
        """
        held, sizes = self._held(sources.slots_S)
        columns, weighed = self.columns[held], self.weights[held] * np.repeat(sources.weights_S, sizes)
        if SPARSE * len(columns) < len(self.begins):
            found_N, places = np.unique(columns, return_inverse=True)
            return found_N.astype(np.int64), np.bincount(places, weighed, len(found_N)).astype(np.float32)
        scores_V = np.bincount(columns, weighed, len(self.begins) - 1)
        slots_N = np.flatnonzero(scores_V)
        return slots_N, scores_V[slots_N].astype(np.float32)

    def _held(self, slots_S: Ints) -> tuple[Ints, Ints]:
        """The places in the CSR arrays of all neighbours of the titles, one title after the other, and how many each
        has.
        """
        begins_S = self.begins.take(slots_S)
        sizes_S = self.begins.take(slots_S + 1) - begins_S
        return np.arange(sizes_S.sum()) + np.repeat(begins_S - np.cumsum(sizes_S) + sizes_S, sizes_S), sizes_S

    def save(self, path: Path) -> None:
        """Write the table as compressed npz, without pickle."""
        np.savez_compressed(path, **self._asdict())

    @classmethod
    def load(cls, path: Path) -> "NeighbourTable":
        """Read a table that `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{name: arrays[name] for name in cls._fields})


def shrunk_cosine(counts_SN: Floats, plays_V: Floats, sources: Sources, candidates_N: Ints) -> Floats:
    """The (N,) scores that the head of this file defines, from the counts of the sources with the candidates."""
    if len(sources.slots_S) == 0:
        return np.zeros(len(candidates_N), np.float32)
    weights_S = sources.weights_S / np.sqrt(plays_V[sources.slots_S] + SHRINKAGE)
    return np.asarray(weights_S @ counts_SN / np.sqrt(plays_V[candidates_N] + SHRINKAGE), np.float32)


def row_begins(rows: Ints, size: int) -> Ints:
    """Where each of `size` rows begins in the rising row numbers of a CSR table, and the end."""
    return np.searchsorted(rows, np.arange(size + 1)).astype(np.int64)


def context_sources(table: ItemTable, context: Context) -> tuple[Sources, Sources, Sources]:
    """The titles whose neighbours matter: the context's source, the user's history by weight (sum 1), the newest titles
    of the session.
    """
    source = table.slot_by_id.get(context.source_item_id or "", 0)
    history = [
        (table.slot_by_id[item_id], weight)
        for item_id, weight in context.heaviest_titles
        if weight > 0 and item_id in table.slot_by_id
    ]
    total = sum(weight for _, weight in history)
    session = last_titles((moment.item_id for moment in reversed(context.session)), table, SESSION_TITLES)
    return (
        _sources([(source, 1.0)] if source else []),
        _sources([(slot, weight / total) for slot, weight in history]),
        _sources([(slot, SESSION_FADE**place) for place, slot in enumerate(session)]),
    )


def last_titles(newest_first: Iterable[str], table: ItemTable, count: int = WINDOW) -> list[int]:
    """The slots of the first `count` different titles among item ids, in their order."""
    slots: list[int] = []
    for item_id in newest_first:
        slot = table.slot_by_id.get(item_id, 0)
        if slot and slot not in slots:
            slots.append(slot)
            if len(slots) == count:
                break
    return slots


def similarities(
    neighbours: Neighbours, ease: Neighbours, sources: tuple[Sources, Sources, Sources], candidates_N: Ints
) -> Similarities:
    """The candidates' scores for the three sources of `context_sources`, by co-plays and by EASE, as columns."""
    scores = [one.scores_of_each(sources, candidates_N) for one in (neighbours, ease)]
    return Similarities(*np.arcsinh(CONTRAST * np.concatenate(scores)))


def _sources(weighted: list[tuple[int, float]]) -> Sources:
    return Sources(
        np.array([slot for slot, _ in weighted], np.int64), np.array([weight for _, weight in weighted], np.float32)
    )
