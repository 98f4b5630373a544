"""BM25 over the pieces of titles, as a baseline for search.

Enters: the catalogue's titles, a query. Leaves: scores. Called by the evaluation.

What is typed is the beginning of a word, so the terms are the beginnings of a title's words and, for typos, trigrams of
its letters. Robertson, Zaragoza: The Probabilistic Relevance Framework, 2009: a term adds idf * tf (k1 + 1) / (tf + k1
(1 - b + b length / mean length)), k1 = 1.2. The index knows titles only, nothing of what users did.
"""

from collections import Counter
from math import log

import numpy as np

from features.item_table import ItemTable
from model.baselines import Family
from model.moments import Floats, Moment

K1 = 1.2
LONGEST_BEGINNING = 8
LEAST_POPULAR = 1e-6


def title_terms(text: str) -> Counter[str]:
    """The terms of a title: beginnings of its words (marked by `^`), and trigrams."""
    words = text.split()
    beginnings = (f"^{word[:length]}" for word in words for length in range(1, min(len(word), LONGEST_BEGINNING) + 1))
    return Counter(beginnings) + Counter(_trigrams(words))


def query_terms(query: str) -> tuple[list[str], list[str]]:
    """The beginnings and the trigrams of a query."""
    words = query.split()
    return [f"^{word[:LONGEST_BEGINNING]}" for word in words], list(_trigrams(words))


def _trigrams(words: list[str]) -> list[str]:
    return [word[at : at + 3] for word in words for at in range(len(word) - 2)]


class TitleSearch:
    """The postings of a catalogue's titles."""

    def __init__(self, table: ItemTable) -> None:
        postings: dict[str, list[tuple[int, int]]] = {}
        self._lengths_V = np.zeros(len(table))
        slots = table.catalogue_slots()
        for slot in slots.tolist():
            terms = title_terms(table.titles[slot])
            self._lengths_V[slot] = terms.total()
            for term, count in terms.items():
                postings.setdefault(term, []).append((slot, count))
        self._postings = {term: np.array(of_term, np.int64).T for term, of_term in postings.items()}
        self._titles = len(slots)
        self._mean_length = max(1.0, float(self._lengths_V[slots].mean())) if len(slots) else 1.0
        grid = tuple((b, trigrams, popular) for b in (0.0, 0.75) for trigrams in (0.0, 0.3, 1.0)
                     for popular in (LEAST_POPULAR, 0.3))  # fmt: skip
        self.family = Family("bm25", ("b", "trigrams", "popular"), grid, self.scores)

    def scores(self, moment: Moment, b: float, trigrams: float, popular: float) -> Floats:
        """BM25 of the query's beginnings, its trigrams `trigrams` as heavy, and `popular` times log popularity."""
        beginnings, others = query_terms(moment.context.query or "")
        scores_V = np.zeros(max(len(self._lengths_V), int(moment.slots_N.max(initial=0)) + 1))
        for weight, terms in ((1.0, beginnings), (trigrams, others)):
            for term in terms:
                self._add(scores_V, term, weight, b)
        return scores_V[moment.slots_N] + popular * np.log1p(moment.plays_N)

    def _add(self, scores_V: Floats, term: str, weight: float, b: float) -> None:
        found = self._postings.get(term)
        if found is None or not weight:
            return
        slots, counts = found
        rare = log(1.0 + (self._titles - len(slots) + 0.5) / (len(slots) + 0.5))
        long = K1 * (1.0 - b + b * self._lengths_V[slots] / self._mean_length)
        scores_V[slots] += weight * rare * counts * (K1 + 1.0) / (counts + long)
