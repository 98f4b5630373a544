"""Baselines: what UniCoRn has to beat, scored from the same replay.

Enters: a replay at a label, candidates. Leaves: a score per candidate. Called by the evaluation.

All of them read the live state of the replay, so their counts are as fresh as they can be; the model's own co-play
counts are those of its artifact.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.decay import DAY_MS
from features.vector import Context, lexical_columns
from model.neighbours import SESSION_FADE, SESSION_TITLES, WINDOW, Sources
from model.replay import Replay
from streams.labels import Label, Log

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RECENT_DAYS = 7
TIE_BREAK = 1e-9


class RecentPlays:
    """Plays of the last RECENT_DAYS by slot, from the log's own plays in order."""

    def __init__(self, log: Log, replay: Replay) -> None:
        self._plays = [(event.event_ts_ms, event.item_id) for event in log.events if event.topic == "plays"]
        self._replay = replay
        self._begin = self._end = 0
        self._counts_V = np.zeros(len(replay.table.sums))

    def counts(self, now_ms: int) -> Floats:
        """(V,) plays in [now - RECENT_DAYS, now); `now_ms` must not go back."""
        while self._end < len(self._plays) and self._plays[self._end][0] < now_ms:
            self._count(self._plays[self._end][1], +1)
            self._end += 1
        while self._begin < self._end and self._plays[self._begin][0] < now_ms - RECENT_DAYS * DAY_MS:
            self._count(self._plays[self._begin][1], -1)
            self._begin += 1
        return self._counts_V

    def _count(self, item_id: str, amount: int) -> None:
        slot = self._replay.table.slot(item_id)
        if slot >= len(self._counts_V):
            self._counts_V = np.concatenate(
                [self._counts_V, np.zeros(len(self._replay.table.sums) - len(self._counts_V))]
            )
        self._counts_V[slot] += amount


@dataclass(frozen=True, slots=True)
class Moment:
    """What a baseline may look at."""

    replay: Replay
    recent: RecentPlays
    label: Label
    context: Context
    slots: Ints


def popularity(moment: Moment) -> Floats:
    """Plays of all time."""
    return moment.replay.co_plays.plays_V[moment.slots].astype(np.float64)


def recent_popularity(moment: Moment) -> Floats:
    """Plays of the last RECENT_DAYS, ties by plays of all time."""
    return moment.recent.counts(moment.context.now_ms)[moment.slots] + TIE_BREAK * popularity(moment)


def item_knn_last5(moment: Moment) -> Floats:
    """Co-play neighbours of the last WINDOW titles, ties by popularity."""
    titles = moment.replay.recent_titles(moment.label.user_id, WINDOW)
    return _neighbours(moment, titles, np.ones(len(titles)))


def item_knn(moment: Moment) -> Floats:
    """Co-play neighbours of the last SESSION_TITLES titles, the newest heaviest, ties by popularity."""
    titles = moment.replay.recent_titles(moment.label.user_id, SESSION_TITLES)
    return _neighbours(moment, titles, SESSION_FADE ** np.arange(len(titles)))


def source_knn(moment: Moment) -> Floats:
    """Co-play neighbours of the source title and, half as heavy, of the last SESSION_TITLES titles."""
    source = moment.replay.table.slot_by_id.get(moment.label.source_item_id or "", 0)
    titles = [source, *moment.replay.recent_titles(moment.label.user_id, SESSION_TITLES)]
    return _neighbours(moment, titles, np.concatenate([[1.0], 0.5 * SESSION_FADE ** np.arange(len(titles) - 1)]))


def prefix_popularity(moment: Moment) -> Floats:
    """Titles with a word that begins with the query before all others, each group by popularity."""
    exact, _, word_prefix, _ = lexical_columns(moment.replay.table, moment.slots, moment.context.query)
    plays = popularity(moment)
    return np.asarray((exact + word_prefix) * (1.0 + plays.max(initial=0.0)) + plays, np.float64)


def _neighbours(moment: Moment, titles: list[int], weights: NDArray[np.floating]) -> Floats:
    sources = Sources(np.array(titles, np.int64), weights.astype(np.float32))
    return moment.replay.co_plays.scores(sources, moment.slots).astype(np.float64) + TIE_BREAK * popularity(moment)


Baseline = Callable[[Moment], Floats]
_EVERYWHERE: dict[str, Baseline] = {
    "popularity": popularity,
    "recent_popularity": recent_popularity,
    "item_knn_last5": item_knn_last5,
    "item_knn": item_knn,
}
BASELINES: dict[str, dict[str, Baseline]] = {
    "pre_query": _EVERYWHERE,
    "more_like_this": {**_EVERYWHERE, "source_knn": source_knn},
    "search": {**_EVERYWHERE, "prefix_popularity": prefix_popularity},
}
