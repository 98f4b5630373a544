"""The logging policy: which titles a simulated list shows, in which order, and how probable each place was.

Enters: scores of the titles for each request. Leaves: `Lists`. Called by `sessions.py` for each round of requests. It
knows nothing of moods.
"""

from functools import lru_cache
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from model.simulation.law import Bools, Floats, Ints, Law


class Lists(NamedTuple):
    """N lists of K titles. `propensity` is P(this title at this position), given the policy's scores."""

    titles_NK: Ints
    explored_NK: Bools
    shuffled_N: Bools
    propensity_NK: Floats


def draw_lists(law: Law, scores_NT: NDArray[np.float32], rng: Generator) -> Lists:
    """The best K - E by score and E others, uniformly from the rest, in places drawn for them; a share of the lists is
    then shuffled as a whole. A score of -inf: never shown; each row must have K others.
    """
    count, length = len(scores_NT), law.list_length
    best = length - law.explored
    rows_N1 = np.arange(count)[:, None]
    is_open_NT = np.isfinite(scores_NT)
    allowed_N = is_open_NT.sum(axis=1)
    top_NB = np.argpartition(-scores_NT, best - 1, axis=1)[:, :best]
    top_NB = np.take_along_axis(top_NB, np.argsort(-scores_NT[rows_N1, top_NB], axis=1), axis=1)
    keys_NT = np.where(is_open_NT, rng.random(scores_NT.shape, np.float32), np.float32(2.0))
    keys_NT[rows_N1, top_NB] = 3.0
    others_NE = np.argpartition(keys_NT, max(law.explored - 1, 0), axis=1)[:, : law.explored]

    # Places of the explored titles: a random set; the best keep their order in the other places.
    is_other_NK = np.zeros((count, length), bool)
    is_other_NK[rows_N1, np.argsort(rng.random((count, length)), axis=1)[:, : law.explored]] = True
    source_NK = np.argsort(is_other_NK, axis=1, kind="stable")
    titles_NK = np.empty((count, length), np.int64)
    titles_NK[rows_N1, source_NK] = np.concatenate([top_NB, rng.permuted(others_NE, axis=1)], axis=1)
    rank_NK = np.empty((count, length), np.int64)
    rank_NK[rows_N1, source_NK] = np.arange(length)

    shuffled_N = rng.random(count) < law.shuffled_share
    order_NK = np.where(
        shuffled_N[:, None], np.argsort(rng.random((count, length)), axis=1), np.arange(length)[None, :]
    )
    titles_NK, rank_NK = titles_NK[rows_N1, order_NK], rank_NK[rows_N1, order_NK]
    explored_NK = rank_NK >= best
    table_BK = place_probabilities(length, best, law.shuffled_share)
    positions_1K = np.arange(length)[None, :]
    chance_N1 = (law.explored / (length * np.maximum(allowed_N - best, 1)))[:, None]
    propensity_NK = np.where(explored_NK, chance_N1, table_BK[np.minimum(rank_NK, best - 1), positions_1K])
    return Lists(titles_NK, explored_NK, shuffled_N, propensity_NK)


@lru_cache(maxsize=16)
def place_probabilities(length: int, best: int, shuffled_share: float) -> Floats:
    """P(the title of rank j stands at position p), (best, length), ranks and positions from 0: the best stand in a
    random set of places, whose j-th smallest is p; mixed with a uniform shuffle.
    """
    kept = np.array(
        [
            [comb(p, j) * comb(length - 1 - p, best - 1 - j) / comb(length, best) for p in range(length)]
            for j in range(best)
        ]
    )
    return np.asarray((1 - shuffled_share) * kept + shuffled_share / length)
