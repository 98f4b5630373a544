"""Negatives: titles that a user could have been shown and did not engage.

Enters: a replay at a label. Leaves: slots of titles that the user has not engaged before and that are not the label's
own. Called by the data set builder.

A quarter each: uniform over the catalogue; by popularity^0.5 of all time; hot, which is by the clicks and plays of the
last half hour as the item rows hold them, so that the network learns to tell apart what everybody clicks just now; and
hard: what a retriever would bring up, which is titles that match the query in a search and neighbours of the newest
titles otherwise. What a kind lacks is drawn uniformly. Each comes with the rate at which its title was drawn: a title
that is drawn often as a negative would look worse than it is, so training takes log(rate) off its logit (`fit.py`), and
the network learns true odds over the catalogue.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.item_columns import recent_engagement
from features.item_table import ItemTable
from features.text import normalise_query
from model.neighbours import WINDOW, Sources
from model.replay import Replay
from streams.labels import Label

Ints = NDArray[np.int64]
POPULARITY_POWER = 0.5
HARD_POOL = 100
REFRESH_LABELS = 50
LONGEST_PREFIX = 8


class TitleIndex:
    """Slots of titles by the beginnings of their words, and by genre."""

    def __init__(self, table: ItemTable) -> None:
        slots: dict[str, set[int]] = {}
        for slot, item in enumerate(table.items):
            if item is None:
                continue
            for word in table.titles[slot].split():
                for length in range(1, min(len(word), LONGEST_PREFIX) + 1):
                    slots.setdefault(word[:length], set()).add(slot)
            for genre in item.genres:
                slots.setdefault(normalise_query(genre), set()).add(slot)
        self._slots = {prefix: np.array(sorted(of_prefix), np.int64) for prefix, of_prefix in slots.items()}
        self._nothing = np.zeros(0, np.int64)

    def matches(self, query: str) -> Ints:
        """The titles with a word that begins with the query's last word, or of the genre that the query names."""
        words = query.split()
        return self._slots.get(words[-1][:LONGEST_PREFIX], self._nothing) if words else self._nothing


class Drawn(NamedTuple):
    """A label's title first, then different negatives, and how often one list of the same kind holds each of them as a
    negative.
    """

    slots_K: Ints
    rates_K: NDArray[np.float32]


class _Weighted:
    """Titles, by rising slot, that are drawn by weight; none when all weights are 0."""

    def __init__(self, slots: Ints, weights: NDArray[np.float64]) -> None:
        self._slots = slots
        total = float(weights.sum())
        self._chances = weights / total if total > 0 else np.zeros(len(weights))
        self._cumulative = np.cumsum(self._chances) if total > 0 else np.zeros(0)

    def draw(self, rng: np.random.Generator, count: int) -> Ints:
        """`count` titles, with repeats."""
        if not len(self._cumulative):
            return self._slots[:0]
        places = np.searchsorted(self._cumulative, rng.random(count) * self._cumulative[-1], side="right")
        return np.asarray(self._slots[np.minimum(places, len(self._slots) - 1)], np.int64)

    def rates(self, slots: Ints) -> NDArray[np.float64]:
        """How often one draw brings each of them up; 0 for a title that is not in the catalogue."""
        places = np.minimum(np.searchsorted(self._slots, slots), len(self._slots) - 1)
        return np.where(self._slots[places] == slots, self._chances[places], 0.0)


class NegativeSampler:
    """Draws negatives; the popularity that it draws by is at most REFRESH_LABELS labels old, and never newer than the
    label.
    """

    def __init__(self, replay: Replay, rng: np.random.Generator) -> None:
        self._replay = replay
        self._rng = rng
        self._titles = TitleIndex(replay.table)
        self._catalogue = replay.table.catalogue_slots()
        self._known = frozenset(self._catalogue.tolist())
        self._popular = self._hot = _Weighted(self._catalogue, np.zeros(len(self._catalogue)))
        self._age = REFRESH_LABELS

    def mixed(self, label: Label, count: int) -> Drawn:
        """`count` negatives of the four kinds; fewer only when the user has engaged nearly all titles."""
        self._refresh(label.ts_ms)
        quarter = count // 4
        hard = self._hard(label)
        drawn_hard = hard[self._rng.integers(0, len(hard), quarter)] if len(hard) else hard
        popular, hot = (kind.draw(self._rng, quarter) for kind in (self._popular, self._hot))
        slots_K = self._allowed(label, [drawn_hard, hot, popular, self._uniform(2 * count)], count)
        uniform_count = count - len(drawn_hard) - len(hot) - len(popular)
        rates_K = uniform_count / len(self._catalogue) + quarter * (
            self._popular.rates(slots_K) + self._hot.rates(slots_K)
        )
        if len(hard):
            rates_K += np.isin(slots_K, hard) * (quarter / len(hard))
        # A title counts once however often it is drawn, and a hot one often is: 1 - (1 - chance)^draws, nearly.
        return Drawn(slots_K, -np.expm1(-rates_K).astype(np.float32))

    def uniform(self, label: Label, count: int) -> Drawn:
        """`count` negatives, uniform over the catalogue; fewer where it has hardly more titles than that."""
        slots_K = self._allowed(label, [self._uniform(2 * count)], count)
        negatives = len(slots_K) - 1
        possible = len(self._known) - len(self._known & self._forbidden(label))
        # The titles that came stand for all that could have come; where none came, the rate is nobody's.
        return Drawn(slots_K, np.full(len(slots_K), negatives / possible if negatives else 1.0, np.float32))

    def _allowed(self, label: Label, drawn: list[Ints], count: int) -> Ints:
        forbidden = self._forbidden(label)
        different = dict.fromkeys(np.concatenate(drawn).tolist())
        negatives = [slot for slot in different if slot not in forbidden][:count]
        return np.array([self._replay.table.slot(label.item_id), *negatives], np.int64)

    def _forbidden(self, label: Label) -> set[int]:
        """The titles that are no negatives: those that the user has engaged, and the label's own."""
        return self._replay.engaged.get(label.user_id, set()) | {self._replay.table.slot(label.item_id)}

    def _uniform(self, count: int) -> Ints:
        return self._catalogue[self._rng.integers(0, len(self._catalogue), count)]

    def _refresh(self, now_ms: int) -> None:
        if self._age >= REFRESH_LABELS:
            plays_V = self._replay.co_plays.plays_V[self._catalogue].astype(np.float64)
            self._popular = _Weighted(self._catalogue, (plays_V + 1.0) ** POPULARITY_POWER)
            self._hot = _Weighted(
                self._catalogue, recent_engagement(self._replay.table, self._catalogue, now_ms).astype(np.float64)
            )
            self._age = 0
        self._age += 1

    def _hard(self, label: Label) -> Ints:
        if label.query is not None:
            return self._titles.matches(normalise_query(label.query))
        recent = self._replay.recent_titles(label.user_id, WINDOW)
        source = self._replay.table.slot_by_id.get(label.source_item_id or "", 0)
        titles = list(dict.fromkeys([source, *recent] if source else recent))
        if not titles:
            return self._catalogue[:0]
        sources = Sources(np.array(titles), np.ones(len(titles), np.float32))
        scores = self._replay.co_plays.scores(sources, self._catalogue)
        pool = min(HARD_POOL, len(scores) - 1)
        return self._catalogue[np.argpartition(-scores, pool)[:pool]]
