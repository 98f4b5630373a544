"""What the straightforward scorer reads: the model's features by their names, through `get_online_features`.

Enters: Feast's store, a question. Leaves: a `Context`, and the candidates' rows in an item table. Called by
`sdk_scorer.py`.

Every help is given: one call for each entity, so that nothing is computed once for every candidate that is needed
once; rates, lexical and genre columns are our own vectorised ones and not on-demand views. What cannot be had through
Feast: titles and genres (the artifact's catalogue), co-play counts (the artifact's), the priors of the smoothed rates
(from the rows of all titles, read once at the start), weights beyond a user's 500 titles and targets beyond a row's
first 100.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from features import country, query, source_item
from features.engagement import TASK_NAMES
from features.item import SUMS, VIEW, ItemState
from features.item_table import ItemTable
from features.text import normalise_query
from features.top_targets import RETENTION_MS, Target, TopTargetsState
from features.user import LogMemory, Moment, ThumbMemory, Title, UserState
from features.vector import Context, Slots, session_sources

ITEM_SUMS = [name for name in SUMS if not name.startswith("watched_ms")]
ITEM_TIMES = ("item_as_of_ms", "item_first_seen_ms")
ITEM_FEATURES = [f"item:item_{name}" for name in ITEM_SUMS] + [f"item:{name}" for name in ITEM_TIMES]
_SUM_PLACES = [SUMS.index(name) for name in ITEM_SUMS]
USER_NAMES = tuple(
    f"user_history_{name}"
    for name in ("items", "weights_14d", "thumb_items", "thumbs", "engaged_items", "engaged_kinds", "engaged_ts_ms")
)
TARGETS = {"query": query, "source_item": source_item, "country": country}
_LOG = "feast"


class FeastReader:
    """Reads rows through Feast's SDK."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def read_items(self, table: ItemTable, item_ids: Sequence[str], now_ms: int) -> Slots:
        """Put the rows of the candidates into the table; returns their slots."""
        read = self._read(ITEM_FEATURES, [{"item_id": item_id} for item_id in item_ids])
        slots = table.slots(item_ids)
        as_of_ms, first_seen_ms = (_numbers(read[name]).astype(np.int64) for name in ITEM_TIMES)
        is_fresh = now_ms - as_of_ms <= 1000 * VIEW.ttl_s
        sums = np.stack([_numbers(read[f"item_{name}"]) for name in ITEM_SUMS], axis=1)
        table.sums[slots[:, None], _SUM_PLACES] = np.where(is_fresh[:, None], sums, 0.0)
        table.as_of_ms[slots] = np.where(is_fresh, as_of_ms, 0)
        table.first_seen_ms[slots] = np.where(is_fresh, first_seen_ms, 0)
        return slots

    def read_priors(self, item_ids: Sequence[str], now_ms: int) -> tuple[float, ...]:
        """The catalogue's own rates, from the rows of all titles."""
        rows = ItemTable(capacity=2 * len(item_ids))
        for item_id in item_ids:
            rows.slot(item_id)
        totals = ItemTable()
        for slot in self.read_items(rows, item_ids, now_ms).tolist():
            state = ItemState(as_of_ms=int(rows.as_of_ms[slot]), sums=rows.sums[slot].tolist())
            totals.set_state(totals.slot(rows.ids[slot]), state)
        return totals.totals.priors(now_ms)

    def read_context(self, asked: dict[str, Any], now_ms: int, priors: tuple[float, ...]) -> Context:
        """Everything of a request that is not a candidate, in one call for each of its entities."""
        text = normalise_query(asked.get("query") or "")
        source, country_code = asked.get("source_item_id"), asked.get("country")
        user = self._read_user(asked["user_id"], now_ms)
        sources = dict.fromkeys((source, *session_sources(user, now_ms)))
        return Context(
            task=TASK_NAMES[asked["task"]],
            now_ms=now_ms,
            user=user,
            query=text or None,
            source_item_id=source,
            country=country_code,
            query_targets=self._read_targets("query", [text], now_ms).get(text),
            source_rows=self._read_targets("source_item", sources, now_ms),
            country_targets=self._read_targets("country", [country_code], now_ms).get(country_code or ""),
            priors=priors,
        )

    def _read_user(self, user_id: str, now_ms: int) -> UserState:
        names = [f"user_now:{name}" for name in USER_NAMES]
        read = self._read(names, [{"user_id": user_id, "now_ms": now_ms}])
        items, weights, thumb_items, thumbs, *engaged = (read[name][0] or [] for name in USER_NAMES)
        by_item = dict(zip(thumb_items, thumbs, strict=True))
        moments = [
            Moment(at_ms, 0, kind, item_id, by_item.get(item_id, 0))
            for item_id, kind, at_ms in zip(*engaged, strict=True)
        ]
        titles = {item_id: Title(now_ms, weight) for item_id, weight in zip(items, weights, strict=True)}
        remembered = {item_id: ThumbMemory(0, "", thumb, 0) for item_id, thumb in by_item.items()}
        return UserState(logs={_LOG: LogMemory(titles, remembered)}, recents={_LOG: moments})

    def _read_targets(self, name: str, asked: Iterable[str | None], now_ms: int) -> dict[str, TopTargetsState]:
        """The rows of some keys that are not stale, in one call."""
        keys = [key for key in asked if key]
        if not keys:
            return {}
        family = TARGETS[name]
        clicks, plays = (f"{name}_{signal}_{family.HALF_LIFE}" for signal in ("clicks", "plays"))
        names = [f"{name}:{name}_as_of_ms", *(f"{name}_now:{one}" for one in (f"{name}_items", clicks, plays))]
        read = self._read(names, [{family.VIEW.join_key: key, "now_ms": now_ms} for key in keys])
        rows = {}
        for place, key in enumerate(keys):
            as_of_ms = read[f"{name}_as_of_ms"][place] or 0
            if now_ms - as_of_ms <= RETENTION_MS:
                columns = (read[one][place] or [] for one in (f"{name}_items", clicks, plays))
                targets = {item: Target(now_ms, [], [0.0, *sums]) for item, *sums in zip(*columns, strict=True)}
                rows[key] = TopTargetsState(as_of_ms=as_of_ms, targets=targets)
        return rows

    def _read(self, names: list[str], rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = self._store.get_online_features(features=names, entity_rows=rows).to_dict()
        return found


def _numbers(values: list[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([0.0 if value is None else value for value in values], np.float64)
