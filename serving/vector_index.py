"""Nearest titles by the model's vectors.

Enters: every title's vector by slot. Leaves: the slots whose vectors point most alike, the nearest first. Held by a
`LoadedModel`, filled where titles are encoded (`artifact_watch.py`), asked by `candidates.py`.

With few titles one product with all vectors is both exact and the quickest. From GRAPH_FROM_TITLES on a graph (HNSW, of
usearch) is quicker by far; it is filled in a thread of its own, and until it is, the product answers.
`python -m benchmarks.candidates` measures both, and how many of the nearest the graph finds.

Shapes: V slots, D numbers in a vector, S titles asked for.
"""

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from usearch.index import Index

from serving.title_index import best_first

Floats = NDArray[np.float32]

# Where the graph finds 100 titles in less time than the product; benchmarks/candidates.py, measured with 64 numbers.
GRAPH_FROM_TITLES = 50_000
# How many titles the graph looks at more than usual: quicker below, more of the nearest found above.
EXPANSION = 512
# So many titles are put into the graph between two looks at whether it is still wanted.
CHUNK = 5_000


class _Vectors(NamedTuple):
    vectors_VD: Floats
    inverse_lengths_V: Floats


class VectorIndex:
    """The vectors of every slot; any thread may `put`, one at a time, while another one asks."""

    def __init__(self, graph_from: int = GRAPH_FROM_TITLES) -> None:
        self._graph_from = graph_from
        self._now = _Vectors(np.zeros((0, 1), np.float32), np.zeros(0, np.float32))
        self._graph: Index | None = None
        self._in_graph = self._now
        # Held while the graph changes; who asks meanwhile does not wait but takes the product.
        self._changing = threading.Lock()
        self._filling: threading.Thread | None = None
        self._is_closed = False

    def put(self, vectors_VD: Floats) -> None:
        """Answer from these vectors from now on; a slot of zeros is near to nothing."""
        lengths_V = np.sqrt(np.einsum("vd,vd->v", vectors_VD, vectors_VD))
        with np.errstate(divide="ignore"):
            self._now = _Vectors(vectors_VD, np.where(lengths_V > 0, 1.0 / lengths_V, 0.0).astype(np.float32))
        if len(vectors_VD) >= self._graph_from and (self._filling is None or not self._filling.is_alive()):
            self._filling = threading.Thread(target=self._fill, name="vector-graph", daemon=True)
            self._filling.start()

    def close(self) -> None:
        """Stop filling the graph: nobody will ask again."""
        self._is_closed = True

    def wait_for_graph(self, timeout_s: float) -> bool:
        """Wait until nothing is being put into the graph; False when the time is up."""
        if self._filling is not None:
            self._filling.join(timeout_s)
        return self._filling is None or not self._filling.is_alive()

    @property
    def has_graph(self) -> bool:
        """Whether the graph would answer now."""
        return self._graph is not None and not self._changing.locked()

    def nearest(self, slots: Sequence[int], wanted: int) -> Iterator[int]:
        """The slots nearest to the mean direction of some titles, the nearest first, without these titles.

        All that are near where the product answers, about twice `wanted` from the graph.
        """
        now, asked = self._now, set(slots)
        slots_S = np.array([slot for slot in slots if slot < len(now.vectors_VD)], np.int64)
        mean_D = (now.vectors_VD[slots_S] * now.inverse_lengths_V[slots_S, None]).sum(axis=0)
        if not mean_D.any():
            return iter(())
        return (slot for slot in self._near(now, mean_D, wanted + len(asked)) if slot not in asked)

    def _near(self, now: _Vectors, mean_D: Floats, wanted: int) -> Iterator[int]:
        if self._graph is not None and self._changing.acquire(blocking=False):
            try:
                keys = self._graph.search(mean_D, 2 * wanted, threads=1).keys
            finally:
                self._changing.release()
            return iter(keys.tolist())
        nearness_V = now.vectors_VD @ mean_D * now.inverse_lengths_V
        return (slot for slot in best_first(nearness_V, wanted) if nearness_V[slot] > 0)

    def _fill(self) -> None:
        """Make the graph equal to the vectors, until it is or nobody wants it any more."""
        from usearch.index import Index  # only where there are many titles: it takes 0.3 s to load

        while not self._is_closed and self._in_graph is not self._now:
            wanted, held = self._now, self._in_graph
            with self._changing:
                if self._graph is None:
                    dimensions = wanted.vectors_VD.shape[1]
                    self._graph = Index(ndim=dimensions, metric="cos", dtype="f16", expansion_search=EXPANSION)
                kept = min(len(held.vectors_VD), len(wanted.vectors_VD))
                changed_V = np.ones(len(wanted.vectors_VD), bool)
                changed_V[:kept] = (held.vectors_VD[:kept] != wanted.vectors_VD[:kept]).any(axis=1)
                self._remove(np.flatnonzero(changed_V[:kept] & (held.inverse_lengths_V[:kept] > 0)))
                self._add(wanted, np.flatnonzero(changed_V & (wanted.inverse_lengths_V > 0)))
            self._in_graph = wanted

    def _remove(self, slots: NDArray[np.int64]) -> None:
        if self._graph is not None and len(slots):
            self._graph.remove(slots.astype(np.uint64))

    def _add(self, wanted: _Vectors, slots: NDArray[np.int64]) -> None:
        for begin in range(0, len(slots), CHUNK):
            if self._graph is None or self._is_closed:
                return
            some = slots[begin : begin + CHUNK]
            self._graph.add(some.astype(np.uint64), wanted.vectors_VD[some], threads=1)
