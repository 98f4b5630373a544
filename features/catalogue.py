"""The catalogue: what is known about each title, and whether it may be recommended.

Enters: `Item`s that `streams.catalogue` has validated. Leaves: titles by id, and who may see them when. Read by the
vectors and the scorer; no fold reads it, so that a row never depends on when the catalogue was read.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec
from msgspec import Meta

from features.bounds import Country, Id, TimestampMs

Title = Annotated[str, Meta(min_length=1, max_length=512)]
Name = Annotated[str, Meta(min_length=1, max_length=128)]


class Item(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One title. An empty `countries` means everywhere; a `deleted` title keeps its name but is never recommended."""

    item_id: Id
    title: Title
    kind: Name = "movie"
    genres: Annotated[tuple[Name, ...], Meta(max_length=64)] = ()
    people: Annotated[tuple[Name, ...], Meta(max_length=256)] = ()
    year: Annotated[int, Meta(ge=1800, le=2200)] | None = None
    available_from_ms: TimestampMs | None = None
    countries: Annotated[tuple[Country, ...], Meta(max_length=300)] = ()
    deleted: bool = False

    def is_available(self, country: str | None, now_ms: int) -> bool:
        """Whether it may be recommended; a title limited to some countries is not shown to an unknown country."""
        if self.deleted or (self.available_from_ms is not None and self.available_from_ms > now_ms):
            return False
        return not self.countries or country in self.countries


class Catalogue:
    """The titles by id; one thread may write while others read. `version` grows with every change, for what is
    derived from it.
    """

    def __init__(self, items: Iterable[Item] = ()) -> None:
        self._items: dict[str, Item] = {item.item_id: item for item in items}
        self.version = 0

    def put(self, item: Item) -> None:
        """Add a title, or replace the one with the same id."""
        self._items[item.item_id] = item
        self.version += 1

    def remove(self, item_id: str) -> None:
        """Forget a title; an unknown id changes nothing."""
        if self._items.pop(item_id, None) is not None:
            self.version += 1

    def replace(self, other: "Catalogue") -> None:
        """Hold exactly what `other` holds, in one step for every reader. That a topic was made anew and holds nothing
        yet is no news for what is derived from the titles: `version` stays.
        """
        self._items = dict(other._items)
        self.version += bool(other._items)

    def get(self, item_id: str) -> Item | None:
        """The title, deleted ones included; None when it is unknown."""
        return self._items.get(item_id)

    def is_available(self, item_id: str, country: str | None, now_ms: int) -> bool:
        """Whether a known title may be recommended; unknown titles may not."""
        item = self._items.get(item_id)
        return item is not None and item.is_available(country, now_ms)

    def __iter__(self) -> Iterator[Item]:
        """The titles as they are now, deleted ones included, in the order in which they were first put."""
        return iter(list(self._items.values()))

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._items

    def __len__(self) -> int:
        return len(self._items)
