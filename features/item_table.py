"""The item table: every known item as a slot in a few arrays.

Enters: catalogue items and item rows. Leaves: slots to index the arrays with. Held by the scorer's near cache, and by
the replay that makes training data; slot 0 is the null item, so that a missing item indexes to zeros.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from features.bounds import MAX_SUM, MAX_TIMESTAMP_MS
from features.catalogue import Item
from features.item import SUMS, ItemState
from features.rates import CatalogueTotals
from features.text import normalise_text
from features.tokens import genre_token, text_tokens

TITLE_TOKENS = 16
ITEM_GENRES = 6


class ItemTable:
    """Arrays over slots; they grow by doubling, so read them through the attributes each time."""

    def __init__(self, capacity: int = 1024) -> None:
        self.slot_by_id: dict[str, int] = {}
        self.ids: list[str] = [""]
        self.items: list[Item | None] = [None]
        self.titles: list[str] = [""]
        # The names of a title's people, normalised as a query is, in one line, a space before each.
        self.people: list[str] = [""]
        self.totals = CatalogueTotals()
        self.sums = np.zeros((capacity, len(SUMS)), np.float32)
        self.as_of_ms = np.zeros(capacity, np.int64)
        self.first_seen_ms = np.zeros(capacity, np.int64)
        self.title_tokens = np.zeros((capacity, TITLE_TOKENS), np.int32)
        self.genre_tokens = np.zeros((capacity, ITEM_GENRES), np.int32)
        # What each genre of a title weighs, so that all of them make a vector of length 1.
        self.genre_weight = np.zeros(capacity, np.float32)

    def __len__(self) -> int:
        return len(self.ids)

    def slot(self, item_id: str) -> int:
        """The slot of an item, a new one if need be; amortised O(1)."""
        slot = self.slot_by_id.get(item_id)
        if slot is None:
            slot = self.slot_by_id[item_id] = len(self.ids)
            self.ids.append(item_id)
            self.items.append(None)
            self.titles.append("")
            self.people.append("")
            if slot >= len(self.sums):
                self._grow()
        return slot

    def slots(self, item_ids: Iterable[str]) -> NDArray[np.int64]:
        """The slots of items that are in the table; 0 for ones that are not."""
        find = self.slot_by_id.get
        return np.fromiter([find(item_id, 0) for item_id in item_ids], np.int64)

    def catalogue_slots(self) -> NDArray[np.int64]:
        """The slots that hold a catalogue item, rising; those of items that only rows or events named are left out."""
        return np.array([slot for slot, item in enumerate(self.items) if item is not None], np.int64)

    def set_item(self, item: Item) -> int:
        """Put a catalogue item in; returns its slot."""
        slot = self.slot(item.item_id)
        self.items[slot] = item
        self.titles[slot] = normalise_text(item.title)
        self.people[slot] = "".join(f" {normalise_text(name)}" for name in item.people)
        tokens = text_tokens(self.titles[slot], TITLE_TOKENS)
        genres = list(dict.fromkeys(map(genre_token, item.genres)))[:ITEM_GENRES]
        self.title_tokens[slot] = tokens + [0] * (TITLE_TOKENS - len(tokens))
        self.genre_tokens[slot] = genres + [0] * (ITEM_GENRES - len(genres))
        self.genre_weight[slot] = 1.0 / np.sqrt(len(genres)) if genres else 0.0
        return slot

    def set_state(self, slot: int, state: ItemState) -> None:
        """Put an item row in; one that is out of `bounds.py`, or has another number of sums, is an empty one."""
        with np.errstate(over="ignore"):
            sums = np.array(state.sums, np.float32)  # rounded first: the totals must lose exactly what they were given
        if not _is_in_bounds(state, sums):
            # It would stay in the catalogue's totals, and with them in everybody's scores, when the row is long gone.
            state, sums = ItemState(), np.zeros(len(SUMS), np.float32)
        self.totals.replace(self.sums[slot], int(self.as_of_ms[slot]), sums.tolist(), state.as_of_ms)
        self.sums[slot] = sums
        self.as_of_ms[slot] = state.as_of_ms
        self.first_seen_ms[slot] = state.first_seen_ms

    def _grow(self) -> None:
        for name in ("sums", "as_of_ms", "first_seen_ms", "title_tokens", "genre_tokens", "genre_weight"):
            array = getattr(self, name)
            grown = np.zeros((2 * len(array), *array.shape[1:]), array.dtype)
            if array.any():  # pages that nobody has written cost no memory
                grown[: len(array)] = array
            setattr(self, name, grown)


def _is_in_bounds(state: ItemState, sums: NDArray[np.float32]) -> bool:
    return (
        0 <= state.as_of_ms <= MAX_TIMESTAMP_MS
        and 0 <= state.first_seen_ms <= MAX_TIMESTAMP_MS
        and sums.shape == (len(SUMS),)
        and bool((np.abs(sums) <= MAX_SUM).all())  # not so of a NaN
    )
