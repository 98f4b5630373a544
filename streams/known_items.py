"""Which titles the catalogue holds, for a worker that counts the events of others.

Enters: the topic `items`. Leaves: how many ids of a batch are unknown. Started by a worker's runtime, asked by stage 1
after a batch is applied: no fold reads it, so that a row never depends on when the catalogue was read.
"""

import logging
from collections.abc import Iterable

from features.catalogue import Item
from features.probe import is_probe
from infra.settings import Settings
from streams.catalogue import ItemsFollower

# An id takes some 100 bytes here: at most 100 MB; beyond, nothing is counted.
MAX_ITEMS = 1_000_000
# 500 records take 5-10 ms of CPU, then the worker has its core back for this long.
PAUSE_S = 0.1
log = logging.getLogger(__name__)


class ItemIds:
    """The ids of the catalogue's titles, deleted ones included; one thread may write while others read."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.is_complete = True

    def put(self, item: Item) -> None:
        """Add a title's id, unless there are too many already."""
        if len(self.ids) < MAX_ITEMS:
            self.ids.add(item.item_id)
        elif self.is_complete and item.item_id not in self.ids:
            self.is_complete = False
            log.warning("the catalogue holds more than %d titles: events for unknown ones are not counted", MAX_ITEMS)

    def remove(self, item_id: str) -> None:
        """Forget a title's id."""
        self.ids.discard(item_id)

    def replace(self, other: "ItemIds") -> None:
        """Hold exactly what `other` holds."""
        self.ids, self.is_complete = other.ids, other.is_complete


class _IdsFollower(ItemsFollower[ItemIds]):
    read_timeout_s = 3600.0  # a slow reader of a long topic is no failure
    last_retry_s = 60.0

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, ItemIds, PAUSE_S)


class KnownItems:
    """Follows the catalogue in a thread of its own; counts nothing before it has read it, or where there is none."""

    def __init__(self, settings: Settings) -> None:
        self._follower = _IdsFollower(settings)

    @property
    def ready(self) -> bool:
        """Whether the whole catalogue has been read and fits."""
        return self._follower.ready and self._follower.titles.is_complete

    def start(self) -> None:
        """Begin to follow; returns at once."""
        self._follower.start()

    def stop(self) -> None:
        """End the thread."""
        self._follower.stop()

    def count_unknown(self, item_ids: Iterable[str]) -> int:
        """How many of the ids no title of the catalogue has, a repeated one as often as it comes; 0 while it is not
        ready or the catalogue is empty, and a canary's titles never count.

        A title whose first events come with it may be counted: the topics are read side by side. Costs 0.05 us an id.
        """
        if not self.ready:
            return 0
        known = self._follower.titles.ids
        return sum(item_id not in known and not is_probe(item_id) for item_id in item_ids) if known else 0
