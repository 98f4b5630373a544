"""The batcher: what arrives while one batch is being applied becomes the next batch.

Enters: chunks of records. Leaves: batches of at most `max_records`, one after the other. Called by the agents in
`app.py`.

There is no waiting for a batch to fill: an idle stage applies a single record at once, and a busy one finds its next
batch ready. (Faust's `take` collects only between batches, for a fixed time; see
`docs/decisions/0004-batches-without-waiting.md`.)
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")


class Batcher(Generic[T]):
    """Applies records in order; once two batches' worth is pending, its producer waits."""

    def __init__(self, apply: Callable[[list[T]], Awaitable[None]], max_records: int) -> None:
        self._apply = apply
        self._max_records = max_records
        self._pending: deque[T] = deque()
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()

    async def put(self, records: Iterable[T]) -> None:
        """Add records; waits while two batches are pending."""
        while len(self._pending) >= 2 * self._max_records:
            self._taken.clear()
            await self._taken.wait()
        self._pending.extend(records)
        self._arrived.set()

    async def run(self) -> None:
        """Apply batches for ever."""
        while True:
            while not self._pending:
                self._arrived.clear()
                await self._arrived.wait()
            batch = list(islice(self._pending, self._max_records))
            for _ in batch:
                self._pending.popleft()
            self._taken.set()
            await self._apply(batch)
