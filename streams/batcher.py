"""The batcher: what arrives while one batch is being applied becomes the next batch.

Enters: records, one at a time. Leaves: batches of at most `max_records`, one after the other. Called by the agents in
`app.py`.

There is no waiting for a batch to fill: an idle stage applies a single record at once, and a busy one finds its next
batch ready. (Faust's `take` collects only between batches, for a fixed time; see
`docs/decisions/0004-batches-without-waiting.md`.)
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Batcher(Generic[T]):
    """Applies records in order; holds at most two batches' worth, then makes its producer wait."""

    def __init__(self, apply: Callable[[list[T]], Awaitable[None]], max_records: int) -> None:
        self._apply = apply
        self._max_records = max_records
        self._queue: asyncio.Queue[T] = asyncio.Queue(2 * max_records)

    async def put(self, record: T) -> None:
        """Add a record; waits while two batches are pending."""
        if self._queue.full():
            await self._queue.put(record)
        else:
            self._queue.put_nowait(record)

    async def run(self) -> None:
        """Apply batches for ever."""
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self._max_records and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            await self._apply(batch)
