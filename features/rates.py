"""Rates and shares: which part of a title's plays was completed, or thumbed up; which part of everybody's clicks and
plays is a title's.

Enters: item sums, and those of the whole catalogue. Leaves: rates between 0 and 1, and shares on a log scale. Called by
`item_table.py`, `item_columns.py`, `read_time.py` and `vector.py`, at read time.

A title with few plays is drawn to the share of the whole catalogue: rate = (count + PRIOR_PLAYS * prior) / (plays +
PRIOR_PLAYS), the posterior mean of a beta-binomial whose prior is worth PRIOR_PLAYS plays. All sums are the ones of 14
days. While the catalogue itself has few plays, its share is drawn to FIRST_PRIORS in the same way.

A title's share of the last hours' clicks and plays tells what is hot whatever the hour: counts alone are high at noon
and low at night. On the log scale log1p(SHARE_SCALE * count / (catalogue's count + 1)) nothing is 0, and what is small
differs as much as what is large.
"""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from features.decay import HALF_LIVES_MS, add_decayed, read_decayed
from features.item import SUMS

PRIOR_PLAYS = 10.0
Number = TypeVar("Number", float, NDArray[np.float64])
RATED = ("completed_plays", "thumbs_up")
FIRST_PRIORS = (0.5, 0.2)
SHARE_SCALE = 10_000.0
# The half-lives of which a title has a share, and what counts for it.
SHARED = ("30m", "1d")
ENGAGED = ("clicks", "plays")
# One total of the catalogue each: which sums it adds up, and how they fade.
_TOTALS = (
    *(((SUMS.index(f"{signal}_14d"),), HALF_LIVES_MS["14d"]) for signal in ("plays", *RATED)),
    *((tuple(SUMS.index(f"{signal}_{name}") for signal in ENGAGED), HALF_LIVES_MS[name]) for name in SHARED),
)
_RATES = 1 + len(RATED)


class CatalogueTotals:
    """Plays, completed plays and thumbs up of the whole catalogue, and its clicks and plays of late: decayed sums that
    follow every row.
    """

    def __init__(self) -> None:
        self._sums = [0.0] * len(_TOTALS)
        self._as_of_ms = 0

    def replace(self, old: NDArray[np.float32], old_ms: int, new: list[float], new_ms: int) -> None:
        """A row's sums of time `old_ms` became `new` of time `new_ms`."""
        as_of_ms = self._as_of_ms
        before = old.tolist() if old_ms else None
        for index, (slots, half_life_ms) in enumerate(_TOTALS):
            amount = sum(new[slot] for slot in slots)
            total, at_ms = add_decayed(self._sums[index], as_of_ms, amount, new_ms, half_life_ms)
            if before is not None:
                amount = sum(before[slot] for slot in slots)
                total, at_ms = add_decayed(total, at_ms, -amount, old_ms, half_life_ms)
            self._sums[index], self._as_of_ms = total, at_ms

    def priors(self, now_ms: int) -> tuple[float, ...]:
        """The catalogue's own share of RATED at `now_ms`, then its clicks and plays of SHARED."""
        totals = [
            read_decayed(total, self._as_of_ms, now_ms, half_life_ms)
            for total, (_, half_life_ms) in zip(self._sums, _TOTALS, strict=True)
        ]
        plays, *counts = totals[:_RATES]
        rates = (smoothed(count, plays, first) for count, first in zip(counts, FIRST_PRIORS, strict=True))
        return *rates, *totals[_RATES:]


def log_share(count_N: NDArray[Any], total: float, scale: float = SHARE_SCALE) -> NDArray[Any]:
    """The shares of counts in their total, on the log scale of this file's head."""
    return np.asarray(np.log1p(count_N * (scale / (total + 1.0))))


def smoothed(count: Number, plays: Number, prior: float) -> Number:
    """(count + PRIOR_PLAYS * prior) / (plays + PRIOR_PLAYS), of numbers or arrays."""
    return (count + PRIOR_PLAYS * prior) / (plays + PRIOR_PLAYS)
