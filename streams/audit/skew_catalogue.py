"""The catalogue for a replay: the titles as they are, and which of them changed after a time.

Enters: the compacted topic `items`. Leaves: an item table, ids of changed titles. Called by `skew`.
"""

from features.item_table import ItemTable
from infra.errors import InvalidEvent
from streams.audit.log_reader import LogReader
from streams.catalogue import decode_item
from streams.topics import ITEMS

# A scorer follows the topic with some delay: a title that changed so shortly before may not have been there yet.
FOLLOWED_WITHIN_MS = 5_000


class LoggedCatalogue:
    """The item table that the topic gives, and when each title was written last."""

    def __init__(self, reader: LogReader) -> None:
        self.table = ItemTable()
        self._written_ms: dict[str, int] = {}
        for span in reader.spans([ITEMS]).values():
            for record in reader.read_span(span):
                try:
                    item = decode_item(record.value or b"")
                except InvalidEvent:
                    continue
                self.table.set_item(item)
                self._written_ms[item.item_id] = record.broker_ts_ms

    @property
    def is_known(self) -> bool:
        """Whether the topic holds any title."""
        return bool(self._written_ms)

    def changed_since(self, at_ms: int) -> set[str]:
        """The titles that a ranking of `at_ms` may have seen otherwise."""
        return {item_id for item_id, written_ms in self._written_ms.items() if written_ms > at_ms - FOLLOWED_WITHIN_MS}
