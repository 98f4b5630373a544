"""What a simulated member types, and how close a query is to each title.

Enters: the titles' words, a title in mind, a random generator. Leaves: queries, and closeness in [0, 1]. Called by
`sessions.py` for each search, and by readers of the truth.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from features.catalogue import Item
from model.simulation.law import Floats, Ints, Law
from streams.sources.derive import Draw, misspelt, title_words

SHORTEST_PREFIX, LONGEST_PREFIX = 2, 8
SHORTEST_TYPO = 4


class Query(NamedTuple):
    """What was typed, and what was meant: the same without the slip."""

    typed: str
    meant: str


class WordIndex:
    """The titles by the beginnings of their words."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.words = [title_words(item.title) for item in items]
        found: dict[str, list[int]] = {}
        for title, words in enumerate(self.words):
            for beginning in {word[:length] for word in words for length in range(1, len(word) + 1)}:
                found.setdefault(beginning, []).append(title)
        self._titles: dict[str, Ints] = {key: np.array(titles, np.int64) for key, titles in found.items()}

    def closeness(self, query: str) -> Floats:
        """For each title, the mean over the query's words of the longest beginning that it shares with a word of the
        title, as a share of the query's word, (T,).
        """
        words = query.split()
        total: NDArray[np.float64] = np.zeros(len(self.words))
        for word in words:
            shared = np.zeros(len(self.words))
            for length in range(1, len(word) + 1):
                titles = self._titles.get(word[:length])
                if titles is None:
                    break
                shared[titles] = length / len(word)
            total += shared / len(words)
        return total


def draw_query(law: Law, words: Sequence[str], rng: Generator) -> Query:
    """The beginning of one of the title's words, or the whole title; a share has one slip, in a word of at least
    `SHORTEST_TYPO` letters.
    """
    is_whole, is_typo, which, how_long = rng.random(4)
    if is_whole < law.whole_title_share:
        typed = list(words)
    else:
        word = words[int(which * len(words))]
        longest = min(LONGEST_PREFIX, len(word))
        shortest = min(SHORTEST_TYPO if is_typo < law.typo_share else SHORTEST_PREFIX, longest)
        typed = [word[: shortest + int(how_long * (longest - shortest + 1))]]
    meant = " ".join(typed)
    long_enough = [at for at, word in enumerate(typed) if len(word) >= SHORTEST_TYPO]
    if is_typo < law.typo_share and long_enough:
        at = long_enough[int(rng.integers(len(long_enough)))]
        typed[at] = misspelt(typed[at], Draw(rng.bytes(8).hex()))
    return Query(" ".join(typed), meant)
