"""Co-vectors: titles as vectors of what they are played near, where training lets them begin.

Enters: the pairs of titles that were played near each other. Leaves: a vector for each title. Called by the data set
builder and by training on what was served.

Two titles that are played near the same ones get like vectors: the best low rank of the pairs' positive pointwise
mutual information, max(0, log(c_ij c / (c_i c_j))). That is what skip-gram with negative sampling learns from the same
pairs (Levy, Goldberg: Neural Word Embedding as Implicit Matrix Factorization, NIPS 2014; on the power of c_j: Levy,
Goldberg, Dagan: Improving Distributional Similarity with Lessons Learned from Word Embeddings, TACL 2015), in seconds
and without a rate to tune.

legend: V titles, P pairs, D = WIDTH
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from model.neighbours import Floats, Pairs

WIDTH = 64
# Rare titles have large chances by accident: a title counts as if it had been played this power of its plays.
SMOOTHING = 0.75
# The randomised decomposition's own: more places than are kept, power iterations, and a seed.
MORE, ITERATIONS, SEED = 32, 6, 0


def co_vectors(pairs: Pairs, size: int) -> Floats:
    """The (V, D) vectors of the first `size` slots; zeros for titles without a pair, and in places beyond the number of
    titles.
    """
    vectors_VD = np.zeros((size, WIDTH), np.float32)
    if not len(pairs.counts_P):
        return vectors_VD
    index_2P = torch.from_numpy(np.stack([pairs.rows_P, pairs.columns_P]))
    matrix_VV = torch.sparse_coo_tensor(
        index_2P,
        torch.from_numpy(mutual_information(pairs, size)),
        (size, size),
        is_coalesced=True,
        check_invariants=False,
    )
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(SEED)
        kept = min(WIDTH + MORE, size)
        left_VD, strengths_D, _ = torch.svd_lowrank(matrix_VV, kept, ITERATIONS)
    found_VD = (left_VD * strengths_D.sqrt())[:, :WIDTH].numpy()
    has_pair = np.unique(pairs.rows_P)
    vectors_VD[has_pair, : found_VD.shape[1]] = found_VD[has_pair]
    return vectors_VD


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums by another number of threads are rounded otherwise, and the same log would give another model."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def mutual_information(pairs: Pairs, size: int) -> Floats:
    """The (P,) positive pointwise mutual information of each pair, the mean of both directions."""
    rows_P, columns_P, counts_P = pairs
    plays_V = np.bincount(rows_P, counts_P, size)
    chances_V = plays_V**SMOOTHING / (plays_V**SMOOTHING).sum()
    there_P = np.log(counts_P / (plays_V[rows_P] * chances_V[columns_P]))
    back_P = np.log(counts_P / (plays_V[columns_P] * chances_V[rows_P]))
    return np.asarray((np.maximum(there_P, 0.0) + np.maximum(back_P, 0.0)) / 2, np.float32)
