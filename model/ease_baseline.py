"""EASE as a baseline: several penalties, all weights, a user's whole history (`ease.py` holds the formula).

Enters: the titles that each user engaged before a time. Leaves: scores for a user's titles, x B. Called by the
evaluation.

Of a large catalogue only the LARGEST titles of most users are in it, the others score 0.

legend: V slots, M titles in the model, N candidates
"""

from collections.abc import Iterable

import numpy as np

from model.baselines import TIE_BREAK, Family, Setting
from model.ease import count_together, ease_weights
from model.moments import LAST_TITLES, Floats, Moment
from model.replay import Replay

LARGEST = 3000
PENALTIES = (10.0, 50.0, 100.0, 250.0, 500.0, 1000.0)


class Ease:
    """Weights for several penalties, fitted once to what users have engaged so far."""

    def __init__(self, engaged: Iterable[set[int]], size: int, penalties: Iterable[float]) -> None:
        users = [np.fromiter(slots, np.int64, len(slots)) for slots in engaged]
        self._together = count_together(users, size, LARGEST)
        self._weights = {penalty: ease_weights(self._together.gram_MM, penalty) for penalty in set(penalties)}

    def scores(self, moment: Moment, penalty: float, last: int | None) -> Floats:
        """x B for the titles that the moment's user engaged so far, or the last of them; ties by popularity."""
        engaged = moment.replay.engaged.get(moment.label.user_id, set())
        titles = moment.titles_S[:last] if last is not None else np.fromiter(engaged, np.int64, len(engaged))
        inside, place_V = self._together.places(titles), self._together.place_V
        columns_N = place_V[np.where(moment.slots_N < len(place_V), moment.slots_N, 0)]
        scores_M = self._weights[penalty][inside].sum(axis=0, dtype=np.float64)
        known_N = columns_N >= 0
        scores_N = np.zeros(len(columns_N))
        scores_N[known_N] = scores_M[columns_N[known_N]]
        return scores_N + TIE_BREAK * moment.plays_N


class FittedEase:
    """The family, and the model that it scores with: nothing until `fit` was called."""

    def __init__(self) -> None:
        self._ease: Ease | None = None
        grid = tuple((penalty, last) for penalty in PENALTIES for last in (None, LAST_TITLES // 2))
        self.family = Family("ease", ("penalty", "last"), grid, self._scores)

    def fit(self, replay: Replay, settings: Iterable[Setting]) -> None:
        """Fit to what users have engaged so far."""
        self._ease = Ease(replay.engaged.values(), len(replay.table), [penalty for penalty, _ in settings])

    def _scores(self, moment: Moment, penalty: float, last: int | None) -> Floats:
        return self._ease.scores(moment, penalty, last) if self._ease is not None else moment.plays_N * TIE_BREAK
