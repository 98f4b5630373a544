"""Baselines: what UniCoRn has to beat, each with a grid of settings to be tuned over.

Enters: a `Moment`. Leaves: scores of its candidates, by setting. Called by `tuning.py`, which chooses the settings, and
the evaluation.

Every family has at most BUDGET settings: the same budget for each. Counts (popularity, neighbours) are live, from
strictly earlier events, as a running system has them; what is fitted (`Fitted`) sees only the time before the part of
the log on which it is scored. Scores of zero everywhere fall back on popularity, through TIE_BREAK.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from model.moments import HOUR_MS, WEEK_MS, WINDOWS_MS, Floats, Moment
from model.neighbours import SHRINKAGE, WINDOW
from model.replay import Replay

BUDGET = 12
TIE_BREAK = 1e-9
QUARTER, HOUR, WEEK = (WINDOWS_MS.index(ms) for ms in (HOUR_MS // 4, HOUR_MS, WEEK_MS))

Setting = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """A baseline: its settings by name, and how one setting scores the (N,) candidates of a moment."""

    name: str
    names: tuple[str, ...]
    grid: tuple[Setting, ...]
    scores: Callable[..., Floats]

    def described(self, place: int) -> dict[str, Any]:
        """A setting with its names."""
        return dict(zip(self.names, self.grid[place], strict=True))


class Fitted(Protocol):
    """A family whose model is fitted to what came before: it scores by popularity until it was."""

    @property
    def family(self) -> Family: ...

    def fit(self, replay: Replay, settings: Iterable[Setting]) -> None:
        """Fit the models of some settings to the state of a replay."""


def popularity(moment: Moment) -> Floats:
    """How many users took each title, ever."""
    return moment.plays_N


def recent_popularity(moment: Moment, window: int) -> Floats:
    """How many took it in one of WINDOWS_MS, ties by popularity."""
    return np.asarray(moment.recent_WN[window] + TIE_BREAK * moment.plays_N, np.float64)


def item_knn_last5(moment: Moment, shrinkage: float) -> Floats:
    """Co-play neighbours of the last WINDOW titles, all alike."""
    return _neighbours(moment, min(WINDOW, len(moment.titles_S)), 1.0, shrinkage)


def item_knn(moment: Moment, titles: int, fade: float) -> Floats:
    """Co-play neighbours of the last titles, each `fade` as heavy as the next newer one."""
    return _neighbours(moment, min(titles, len(moment.titles_S)), fade, SHRINKAGE)


def session_knn(moment: Moment, titles: int, window: int, recent: float) -> Floats:
    """The chance that each of the last titles is taken together with a candidate, averaged, and `recent` times the
    candidate's share of what was taken lately.
    """
    count = min(titles, len(moment.titles_S))
    together_N = np.zeros(len(moment.slots_N))
    if count:
        own_S = moment.plays(moment.titles_S[:count])
        together_N = (moment.counts_SN[:count] / (own_S[:, None] + 1.0)).mean(axis=0)
    lately_N = moment.recent_WN[window]
    return np.asarray(
        together_N + recent * lately_N / max(1.0, lately_N.sum()) + TIE_BREAK * moment.plays_N, np.float64
    )


def source_knn(moment: Moment, session: float, titles: int) -> Floats:
    """Co-play neighbours of the source title and, `session` as heavy, of the last titles."""
    count = min(titles, len(moment.titles_S))
    from_session_N = _neighbours(moment, count, 0.8, SHRINKAGE)
    own = moment.plays(np.array([moment.source]))[0] if moment.source else 0.0
    return moment.source_N / np.sqrt((own + SHRINKAGE) * (moment.plays_N + SHRINKAGE)) + session * from_session_N


def prefix_popularity(moment: Moment, window: int | None) -> Floats:
    """Titles with a word that begins with the query before all others, each group by popularity (of a window)."""
    counts_N = popularity(moment) if window is None else recent_popularity(moment, window)
    return np.asarray(moment.matches_N * (1.0 + counts_N.max(initial=0.0)) + counts_N, np.float64)


def _neighbours(moment: Moment, count: int, fade: float, shrinkage: float) -> Floats:
    popular_N = TIE_BREAK * moment.plays_N
    if count == 0:
        return popular_N
    weights_S = fade ** np.arange(count) / np.sqrt(moment.plays(moment.titles_S[:count]) + shrinkage + TIE_BREAK)
    cosines_N = weights_S @ moment.counts_SN[:count] / np.sqrt(moment.plays_N + shrinkage + TIE_BREAK)
    return np.asarray(cosines_N + popular_N, np.float64)


_WINDOWS = tuple((window,) for window in range(len(WINDOWS_MS)))
POPULARITY = Family("popularity", (), ((),), popularity)
RECENT = Family("recent_popularity", ("window",), _WINDOWS, recent_popularity)
KNN_LAST5 = Family(
    "item_knn_last5", ("shrinkage",), tuple((float(one),) for one in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500)),
    item_knn_last5,
)  # fmt: skip
KNN = Family(
    "item_knn", ("titles", "fade"),
    (*((1, 1.0), (2, 1.0), (3, 1.0), (10, 1.0), (20, 1.0), (3, 0.8), (5, 0.8), (10, 0.8), (20, 0.8)),
     *((10, 0.6), (20, 0.9), (20, 0.95))),
    item_knn,
)  # fmt: skip
SESSION_KNN = Family(
    "session_knn", ("titles", "window", "recent"),
    tuple((titles, window, recent) for titles in (1, 5) for window in (QUARTER, HOUR, WEEK) for recent in (0.3, 3.0)),
    session_knn,
)  # fmt: skip
SOURCE_KNN = Family(
    "source_knn", ("session", "titles"),
    tuple((session, titles) for session in (0.0, 0.1, 0.25, 0.5, 1.0, 2.0) for titles in (3, 10)),
    source_knn,
)  # fmt: skip
PREFIX = Family("prefix_popularity", ("window",), (*_WINDOWS, (None,)), prefix_popularity)

EVERYWHERE = (POPULARITY, RECENT, KNN_LAST5, KNN, SESSION_KNN)
