"""Titles by what was typed so far.

Enters: normalised titles by slot. Leaves: the slots whose title begins with the query, has words that do, or is
spelled alike. Built by `library.py` whenever titles change, asked by `candidates.py`.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.fuzz import partial_ratio
from rapidfuzz.process import extract

TYPO_MIN_CHARS = 3
TYPO_CUTOFF = 70
# With so many titles that hold what was typed, a look at every title for a typing error finds nothing better.
ENOUGH = 20
_WORDS = re.compile(r"\w+")


class TitleIndex:
    """An index of the titles as they were when it was built."""

    def __init__(self, titles: Sequence[str]) -> None:
        """`titles` are by slot; an empty one is no title."""
        self._titles = {slot: title for slot, title in enumerate(titles) if title}
        tails = sorted(
            (title[match.start() :], slot) for slot, title in self._titles.items() for match in _WORDS.finditer(title)
        )
        self._tails = [tail for tail, _ in tails]
        self._slots = [slot for _, slot in tails]

    def find(self, query: str, strength_V: NDArray[np.float32], limit: int) -> list[int]:
        """At most `limit` slots: titles that begin with the query, that hold all its words, and where these are fewer
        than ENOUGH, alike ones.

        By `strength_V` within each.
        """

        def strongest(slots: set[int]) -> list[int]:
            ordered = np.array(sorted(slots), np.int64)
            strength = np.where(ordered < len(strength_V), strength_V[np.minimum(ordered, len(strength_V) - 1)], 0.0)
            by_strength: list[int] = ordered[np.argsort(-strength, kind="stable")].tolist()
            return by_strength

        inside = self._with_tail(query)
        found = strongest({slot for slot in inside if self._titles[slot].startswith(query)})
        found += strongest(inside.difference(found))
        if len(found) < limit:
            found += strongest(self._with_words(query).difference(found))
        if len(found) < min(limit, ENOUGH) and len(query) >= TYPO_MIN_CHARS:
            alike = extract(query, self._titles, scorer=partial_ratio, score_cutoff=TYPO_CUTOFF, limit=limit)
            exact = set(found)
            found += [slot for _, _, slot in alike if slot not in exact]
        return found[:limit]

    def _with_tail(self, text: str) -> set[int]:
        """The slots with a word from which the title goes on with `text`."""
        begin = bisect_left(self._tails, text)
        end = bisect_left(self._tails, text + "\U0010ffff", begin)
        return set(self._slots[begin:end])

    def _with_words(self, query: str) -> set[int]:
        """The slots that have, for each word of the query, a word that begins with it."""
        words = _WORDS.findall(query)
        if not words:
            return set()
        return set.intersection(*(self._with_tail(word) for word in words))
