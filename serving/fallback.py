"""Popularity: the order of titles when there is no model, and what is trending.

Enters: the columns of the vector. Leaves: one score per candidate. Called by `scorer.py` while no artifact is loaded,
and by `library.py` for the trending list. Pure.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from features.engagement import Task
from features.vector import COLUMN_NAMES

Floats = NDArray[np.float32]

# Columns are log1p of decayed counts, similarities in 0..1 or flags. Recent plays lead; what was asked for leads over
# everything.
TRENDING_WEIGHTS = {
    "item_plays_30m": 0.5,
    "item_plays_1d": 1.0,
    "item_plays_14d": 0.5,
    "item_clicks_1d": 0.25,
    "item_thumbs_up_14d": 0.25,
    "item_thumbs_down_14d": -0.25,
}
CONTEXT_WEIGHTS: dict[Task, dict[str, float]] = {
    Task.PRE_QUERY: {"country_plays": 0.5},
    Task.SEARCH: {
        "title_exact": 20.0,
        "title_prefix": 10.0,
        "title_word_prefix": 6.0,
        "title_fuzzy": 6.0,
        "query_plays": 2.0,
        "query_clicks": 2.0,
    },
    Task.MORE_LIKE_THIS: {"source_item_plays": 2.0, "source_item_clicks": 2.0, "source_genres": 6.0},
}


def _by_column(weights: dict[str, float]) -> list[tuple[int, np.float32]]:
    return [(COLUMN_NAMES.index(name), np.float32(weight)) for name, weight in weights.items()]


_WEIGHTS = {task: _by_column(TRENDING_WEIGHTS | weights) for task, weights in CONTEXT_WEIGHTS.items()}
_TRENDING = _by_column(TRENDING_WEIGHTS)


def popularity_scores(pairs_NF: Floats, task: Task) -> Floats:
    """The score of each candidate without a model: what is trending, and what was asked for.

    A candidate gets the same bits whatever is scored with it, which a product of matrices does not promise.
    """
    return _add_up(pairs_NF.T, _WEIGHTS[task])


def trending_scores(item_columns: list[Floats]) -> Floats:
    """How much each title is engaged with now, from `features.item_columns`, the first columns of the vector."""
    return _add_up(item_columns, _TRENDING)


def _add_up(columns: Sequence[Floats] | Floats, weights: list[tuple[int, np.float32]]) -> Floats:
    scores = np.zeros(len(columns[0]), np.float32)
    for column, weight in weights:
        scores += columns[column] * weight
    return scores
