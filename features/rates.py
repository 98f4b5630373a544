"""Smoothed rates: which share of a title's plays was completed, or thumbed up.

Enters: item sums, and those of the whole catalogue. Leaves: rates between 0 and 1. Called by `item_table.py` and
`vector.py`, at read time.

A title with few plays is drawn to the share of the whole catalogue: rate = (count + PRIOR_PLAYS * prior) / (plays +
PRIOR_PLAYS), the posterior mean of a beta-binomial whose prior is worth PRIOR_PLAYS plays. All sums are the ones of 14
days. While the catalogue itself has few plays, its share is drawn to FIRST_PRIORS in the same way.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from features.decay import HALF_LIVES_MS, add_decayed, read_decayed
from features.item import SUMS

PRIOR_PLAYS = 10.0
Number = TypeVar("Number", float, NDArray[np.float64])
RATED = ("completed_plays", "thumbs_up")
FIRST_PRIORS = (0.5, 0.2)
_HALF_LIFE_MS = HALF_LIVES_MS["14d"]
_SLOTS = tuple(SUMS.index(f"{signal}_14d") for signal in ("plays", *RATED))


class CatalogueTotals:
    """Plays, completed plays and thumbs up of the whole catalogue, as decayed sums that follow every row."""

    def __init__(self) -> None:
        self._sums = [0.0] * len(_SLOTS)
        self._as_of_ms = 0

    def replace(self, old: NDArray[np.float32], old_ms: int, new: list[float], new_ms: int) -> None:
        """A row's sums of time `old_ms` became `new` of time `new_ms`."""
        as_of_ms = self._as_of_ms
        for index, slot in enumerate(_SLOTS):
            total, at_ms = add_decayed(self._sums[index], as_of_ms, new[slot], new_ms, _HALF_LIFE_MS)
            if old_ms:
                total, at_ms = add_decayed(total, at_ms, -float(old[slot]), old_ms, _HALF_LIFE_MS)
            self._sums[index], self._as_of_ms = total, at_ms

    def priors(self, now_ms: int) -> tuple[float, ...]:
        """The catalogue's own share of RATED at `now_ms`."""
        plays, *counts = (read_decayed(total, self._as_of_ms, now_ms, _HALF_LIFE_MS) for total in self._sums)
        return tuple(smoothed(count, plays, first) for count, first in zip(counts, FIRST_PRIORS, strict=True))


def smoothed(count: Number, plays: Number, prior: float) -> Number:
    """(count + PRIOR_PLAYS * prior) / (plays + PRIOR_PLAYS), of numbers or arrays."""
    return (count + PRIOR_PLAYS * prior) / (plays + PRIOR_PLAYS)
