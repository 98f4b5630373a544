"""Item columns: what everybody's engagement with a title says of it now.

Enters: the item table, slots, a time. Leaves: columns over these titles. Called by `vector.py`, whose first columns
they are, and by what ranks titles for nobody: the trending source and the draw of hot negatives.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.decay import HALF_LIVES_MS
from features.item import HALF_LIVES, SIGNALS
from features.item_table import ItemTable
from features.rates import ENGAGED, RATED, SHARED, log_share, smoothed

Columns = NDArray[np.float32]
Slots = NDArray[np.int64]

COUNTED = ("impressions", "clicks", "plays", "thumbs_up", "thumbs_down")
ITEM_COLUMNS = (
    *(f"item_{signal}_{half_life}" for signal in COUNTED for half_life in HALF_LIVES_MS),
    *(f"item_share_{half_life}" for half_life in SHARED),
    "item_trend",
    "item_completion_rate",
    "item_thumbs_up_rate",
    "item_age_days",
)
_HALF_LIVES_MS = np.array(HALF_LIVES)
_COUNTED = [SIGNALS.index(signal) for signal in COUNTED]
_ENGAGED = [SIGNALS.index(signal) for signal in ENGAGED]
_SHARED = [list(HALF_LIVES_MS).index(name) for name in SHARED]
_PLAYS, *_RATED = (SIGNALS.index(signal) for signal in ("plays", *RATED))


def item_sums(table: ItemTable, slots: Slots, now_ms: int) -> NDArray[Any]:
    """The (N, signals, half-lives) decayed sums of `features.item` at `now_ms`."""
    ages_ms = np.maximum(now_ms - table.as_of_ms.take(slots), 0)[:, None]
    factors = np.exp2(-ages_ms / _HALF_LIVES_MS).astype(np.float32)
    sums = table.sums.take(slots, axis=0).reshape(len(slots), len(SIGNALS), len(HALF_LIVES)) * factors[:, None, :]
    return np.asarray(np.maximum(sums, 0.0))


def recent_engagement(table: ItemTable, slots: Slots, now_ms: int) -> Columns:
    """The (N,) clicks and plays of the first of SHARED: the last half hour, about."""
    return _engaged(item_sums(table, slots, now_ms))[:, 0]


def _engaged(sums: NDArray[Any]) -> Columns:
    """The (N, SHARED) clicks and plays among decayed sums."""
    return np.asarray(sums[:, _ENGAGED, :].sum(axis=1)[:, _SHARED], np.float32)


def item_columns(table: ItemTable, slots: Slots, now_ms: int, priors: tuple[float, ...]) -> list[Columns]:
    """The decayed counts at `now_ms` as log1p, the shares of the catalogue's, how much of the day's is the last half
    hour's, the smoothed rates and the age. `priors` are those of `CatalogueTotals`.
    """
    sums = item_sums(table, slots, now_ms)
    counted = np.log1p(sums[:, _COUNTED, :]).reshape(len(slots), len(COUNTED) * len(HALF_LIVES))
    engaged = _engaged(sums)
    first_rates, totals = priors[: len(RATED)], priors[len(RATED) :]
    shares = [log_share(counts, total) for counts, total in zip(engaged.T, totals, strict=True)]
    trend = np.log1p(2 * engaged[:, 0]) - np.log1p(engaged[:, 1])
    rates = [
        smoothed(sums[:, slot, -1], sums[:, _PLAYS, -1], prior) for slot, prior in zip(_RATED, first_rates, strict=True)
    ]
    first_seen_ms = table.first_seen_ms.take(slots)
    age_days = np.where(first_seen_ms > 0, np.maximum(now_ms - first_seen_ms, 0) / 86_400_000, 0.0)
    return [
        *counted.T,
        *shares,
        trend,
        *rates,
        np.log1p(age_days),
    ]
