"""Slices: long work in the event loop, a little at a time, so that requests are answered in between.

Enters: things to work on. Leaves: the same, in short lists. Called by `bodies.py` and `library.py`.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from itertools import islice
from typing import TypeVar

# One event or title takes some 50 microseconds: a request waits for about 2 ms of them.
SLICE = 40

T = TypeVar("T")


async def in_slices(things: Iterable[T]) -> AsyncIterator[list[T]]:
    """The things, SLICE at a time; the loop does what else there is to do after each."""
    left = iter(things)
    while some := list(islice(left, SLICE)):
        yield some
        await asyncio.sleep(0)
