"""The library: everything that this process knows about titles.

Enters: catalogue changes, item rows from the near cache, the titles that came with an artifact. Leaves: the item
table, what may be recommended, what is trending, the title index. Owned by the event loop's thread, which alone
changes it; read by `rank.py`, `candidates.py` and `scorer.py`.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from features.catalogue import Catalogue, Item
from features.item import SUMS
from features.item_columns import item_columns
from features.item_table import ItemTable
from infra.clock import monotonic_s
from infra.metrics import Metrics
from serving.fallback import trending_scores
from serving.near_cache import ItemRow
from serving.row_offsets import RowOffsets
from serving.slices import in_slices
from serving.title_index import TitleIndex

MAX_TRENDING = 10_000
MAX_NEW = 200
# So long the same ones of the titles that were hardly shown or engaged are offered.
TURN_MS = 60_000
_EXPOSURE = [SUMS.index(f"{signal}_14d") for signal in ("impressions", "clicks", "plays")]


class Library:
    """Titles, their rows and what follows from them; `content_version` grows when a title comes or changes."""

    def __init__(self, metrics: Metrics) -> None:
        self.table = ItemTable()
        self.content_version = 0
        self.titles = TitleIndex()
        self.trending_slots: list[int] = []
        self.new_slots: list[int] = []
        self.strength_V: NDArray[np.float32] = np.zeros(1, np.float32)
        self._metrics = metrics
        self._offsets = RowOffsets()
        self._catalogue: Catalogue | None = None
        self._catalogue_version = -1
        self._titles_version = -1
        self._has_titles = False

    @property
    def titles_count(self) -> int:
        """How many titles have a name."""
        return sum(item is not None for item in self.table.items)

    @property
    def rows_count(self) -> int:
        """How many titles have an item row."""
        return self._offsets.count

    def put_rows(self, rows: Iterable[ItemRow]) -> None:
        """Put what the near cache has read into the table, and say how long it took to get here."""
        at_s = monotonic_s()
        refreshed = 0
        for row in rows:
            if row.contained or row.item_id in self.table.slot_by_id:
                if row.item_id not in self.table.slot_by_id:
                    self.content_version += 1
                slot = self.table.slot(row.item_id)
                self.table.set_state(slot, row.state)
                self._offsets.put(slot, row.contained)
            if row.changed_s is not None:
                refreshed += 1
                self._metrics.observe("nowrank_scorer_near_cache_staleness_seconds", at_s - row.changed_s)
        self._metrics.count("nowrank_scorer_near_cache_refreshes_total", refreshed)
        self._metrics.set("nowrank_scorer_near_cache_rows", self._offsets.count)

    async def put_catalogue(self, catalogue: Catalogue) -> None:
        """Make titles equal to the catalogue, a slice at a time; cheap when it has not changed.

        One that nothing was read of yet leaves the artifact's titles.
        """
        version = catalogue.version
        if version == self._catalogue_version or (self._catalogue is None and not len(catalogue)):
            return
        self._catalogue = catalogue
        async for items in in_slices(catalogue):
            self._put_items(items)
        async for some in in_slices(enumerate(self.table.items)):
            for slot, item in some:
                if item is not None and item.item_id not in catalogue:
                    self.table.items[slot] = None
                    self.table.titles[slot] = self.table.people[slot] = ""
                    self.content_version += 1
        self._catalogue_version = version

    async def put_artifact_items(self, items: Iterable[Item]) -> None:
        """Titles that came with a model, a slice at a time: they stand in until there is a catalogue."""
        async for some in in_slices(items):
            if self._catalogue is None:
                self._put_items(some)

    def refresh(self, now_ms: int) -> None:
        """Compute what is trending and what is new, and index the titles that have changed.

        May run beside the event loop: it only reads the table, and puts whole results in place.
        """
        slots, version = np.arange(len(self.table)), self.content_version
        columns = item_columns(self.table, slots, now_ms, self.table.totals.priors(now_ms))
        strength_V = trending_scores(columns).astype(np.float32)
        strength_V[0] = -np.inf
        exposure_V = self.table.sums[slots][:, _EXPOSURE].sum(axis=1)
        if self._titles_version != version:
            self.titles.put(list(self.table.titles), list(self.table.people))
            self._titles_version = version
        self.strength_V = strength_V
        self.trending_slots = np.argsort(-strength_V, kind="stable")[:-1][:MAX_TRENDING].tolist()
        least_shown = (slot for slot in least_first(exposure_V, now_ms // TURN_MS) if self._is_open(slot, now_ms))
        self.new_slots = list(islice(least_shown, MAX_NEW))

    def may_recommend(self, slot: int, country: str | None, now_ms: int) -> bool:
        """Whether a title may be found: known and available.

        Where there is no catalogue at all, any title that has a row.
        """
        item = self.table.items[slot]
        if item is None:
            return slot > 0 and not self._has_titles
        return item.is_available(country, now_ms)

    def contained(self, item_id: str) -> dict[str, int]:
        """The offsets in the item row that the table holds."""
        return self._offsets.get(self.table.slot_by_id.get(item_id, 0))

    def title(self, item_id: str) -> str | None:
        """The title's name, None when it is unknown."""
        item = self.table.items[self.table.slot_by_id.get(item_id, 0)]
        return None if item is None else item.title

    def _is_open(self, slot: int, now_ms: int) -> bool:
        """Whether a title may be recommended in some country."""
        item = self.table.items[slot]
        return self.may_recommend(slot, next(iter(item.countries), None) if item is not None else None, now_ms)

    def _put_items(self, items: Iterable[Item]) -> None:
        for item in items:
            self._has_titles = True
            slot = self.table.slot_by_id.get(item.item_id)
            if slot is None or self.table.items[slot] is not item:
                self.table.set_item(item)
                self.content_version += 1


def least_first(exposure_V: NDArray[np.float32], turn: int) -> Iterator[int]:
    """The slots but 0 by rising exposure. Of equals, and often many titles have none at all, the one that came last and
    one by lot stand in turn: what has just come is offered at once, and what has waited for long is not forgotten. The
    same `turn` draws the same lots.
    """
    slots = np.arange(1, len(exposure_V))
    lots = np.random.default_rng(turn).permutation(len(slots))
    by_age, by_lot = (slots[np.lexsort((among_equals, exposure_V[1:]))] for among_equals in (-slots, lots))
    offered: set[int] = set()
    for slot in map(int, chain.from_iterable(zip(by_age, by_lot, strict=True))):  # no more than is asked for
        if slot not in offered:
            offered.add(slot)
            yield slot
