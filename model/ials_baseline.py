"""iALS as a baseline: factors of users and titles, by exact alternating least squares of the library `implicit`.

Enters: the titles that each user engaged before a time. Leaves: scores for a user's titles so far. Called by the
evaluation, where `implicit` is installed.

Hu, Koren, Volinsky: Collaborative Filtering for Implicit Feedback Datasets, 2008: the factors minimise sum_uv c_uv
(p_uv - x_u y_v)^2 + regularisation (|x|^2 + |y|^2), where p is 1 for what was engaged and c is then `weight`, otherwise
0 and 1. Only the titles' factors are kept: a user's are solved for when they are asked, from all titles so far, as EASE
has it. Of many users, MOST_USERS drawn evenly are fitted to: the time that it takes goes with them.

legend: V slots, U users, N candidates
"""

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from model.baselines import TIE_BREAK, Family, Setting
from model.moments import Floats, Ints, Moment
from model.replay import Replay

LIBRARY = "implicit"
MOST_USERS = 20_000
ITERATIONS = 10
GRID = tuple(
    (factors, weight, regularisation)
    for factors in (32, 64) for weight in (2.0, 10.0, 40.0) for regularisation in (1.0, 30.0)
)  # fmt: skip


class Ials:
    """The titles' factors for several settings, fitted once to what users have engaged so far."""

    def __init__(self, engaged: Iterable[set[int]], size: int, settings: Iterable[Setting]) -> None:
        users = [np.sort(np.fromiter(slots, np.int64, len(slots))) for slots in engaged if len(slots) > 1]
        drawn_UV = _engaged_matrix(users[:: max(1, -(-len(users) // MOST_USERS))], size)
        als, limits = import_module("implicit.cpu.als"), import_module("threadpoolctl").threadpool_limits
        self._size = size
        self._models: dict[Setting, Any] = {}
        for setting in settings:
            factors, weight, regularisation = setting
            # The library runs its own threads, each of which calls BLAS.
            with limits(1, "blas"):
                model = als.AlternatingLeastSquares(
                    factors, regularisation, weight, use_cg=False, iterations=ITERATIONS, random_state=0
                )
                if drawn_UV.nnz:
                    model.fit(drawn_UV, show_progress=False)
                    self._models[setting] = model

    def scores(self, moment: Moment, setting: Setting) -> Floats:
        """The user's factors, from the titles that the moment's user engaged so far, times the candidates'; ties by
        popularity.
        """
        scores_N = TIE_BREAK * moment.plays_N
        slots = np.array(sorted(moment.replay.engaged.get(moment.label.user_id, ())), np.int64)
        slots = slots[slots < self._size]
        model = self._models.get(setting)
        if model is None or not len(slots):
            return scores_N
        [user_D] = model.recalculate_user([0], _engaged_matrix([slots], self._size))
        known_N = moment.slots_N < self._size
        scores_N[known_N] += model.item_factors[moment.slots_N[known_N]] @ user_D
        return scores_N


class FittedIals:
    """The family, and the model that it scores with: nothing until `fit` was called."""

    def __init__(self) -> None:
        self._ials: Ials | None = None
        self.family = Family("ials", ("factors", "weight", "regularisation"), GRID, self._scores)

    def fit(self, replay: Replay, settings: Iterable[Setting]) -> None:
        """Fit to what users have engaged so far."""
        self._ials = Ials(replay.engaged.values(), len(replay.table), settings)

    def _scores(self, moment: Moment, *setting: Any) -> Floats:
        return self._ials.scores(moment, setting) if self._ials is not None else TIE_BREAK * moment.plays_N


def has_ials() -> bool:
    """Whether the library is installed."""
    return find_spec(LIBRARY) is not None


def _engaged_matrix(users: list[Ints], size: int) -> Any:
    """Ones at what users engaged, (U, V) in CSR form."""
    sparse = import_module("scipy.sparse")
    begins = np.cumsum([0, *map(len, users)])
    columns = np.concatenate([*users, np.zeros(0, np.int64)])
    return sparse.csr_matrix((np.ones(len(columns), np.float32), columns, begins), shape=(len(users), size))
