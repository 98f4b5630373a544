"""Memory of what a scorer knows about titles: measured at two sizes in a process of its own, extrapolated to a million.

Enters: numbers of items. Leaves: bytes. Called by `serving.py`, and run as a process: `python -m
benchmarks.library_memory ITEMS`, so that nothing else has grown in it.

In the order of the scorer: the near cache's keys and rows with the id index (each row decoded on its own, as from
Redis), then the titles (tokens, genres, the title index), then the vectors of all titles as an artifact's graph gives
them.
"""

import asyncio
import gc
import json
import sys
from typing import Any, Self

import numpy as np
import psutil

from benchmarks.processes import Child, environment, python_module
from features.catalogue import Catalogue, Item
from features.item import SUMS, ItemState
from features.rows import encode_contained
from infra.clock import now_ms
from infra.metrics import Metrics
from infra.settings import Settings
from serving.library import Library
from serving.near_cache import BATCH_ROWS, MAX_ROWS, ItemRow

MILLION = 1_000_000
MB = 1_000_000
VECTOR = 64
TIMEOUT_S = 170.0
STEPS = ("rows", "titles", "vectors")


class LibraryMemory:
    """The processes that fill a library of each size, from now on; nothing else should be timed meanwhile."""

    def __init__(self, settings: Settings, sizes: tuple[int, int]) -> None:
        log_path = settings.state_dir / "logs" / "library.log"
        self._children = {
            size: Child(python_module("benchmarks.library_memory", str(size)), environment(settings), log_path)
            for size in sizes
        }

    def finish(self) -> dict[str, Any]:
        """Each step's bytes at both sizes and at a million; `rows` is the near cache and the id index."""
        return summarise(
            {size: json.loads(child.wait_for_line("}", TIMEOUT_S)) for size, child in self._children.items()}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children.values():
            child.stop()


def summarise(measured: dict[int, dict[str, int]]) -> dict[str, Any]:
    """The bytes of two sizes, and the straight line through them at a million."""
    small, large = sorted(measured)
    return {
        "bytes": {str(size): measured[size] for size in (small, large)},
        "mb_at_a_million": {
            step: round(extrapolate(small, measured[small][step], large, measured[large][step]) / MB, 1)
            for step in STEPS
        },
        "formula": f"bytes({MILLION:,}) = bytes({large:,}) + ({MILLION:,} - {large:,}) x "
        f"(bytes({large:,}) - bytes({small:,})) / {large - small:,}",
        "near_cache_rows_limit": MAX_ROWS,
    }


def extrapolate(small: int, small_bytes: int, large: int, large_bytes: int, wanted: int = MILLION) -> float:
    """The straight line through two measurements, at `wanted`."""
    return large_bytes + (wanted - large) * (large_bytes - small_bytes) / (large - small)


def fill_library(items: int) -> dict[str, int]:
    """Fill a library step by step; how many bytes this process has grown with each step."""
    library, known = Library(Metrics("scorer")), set[str]()
    grown, before = {}, _rss_bytes()
    for begin in range(0, items, BATCH_ROWS):
        ids = [f"item-{number}" for number in range(begin, min(items, begin + BATCH_ROWS))]
        known.update(ids)
        library.put_rows(map(synthetic_row, ids))
    grown["rows"] = _rss_bytes() - before
    asyncio.run(library.put_catalogue(Catalogue(map(synthetic_title, range(items)))))
    library.refresh(now_ms())
    grown["titles"] = _rss_bytes() - before - grown["rows"]
    vectors = np.ones((items, VECTOR), np.float32), np.ones(items, np.float32), np.ones(items, np.int64)
    grown["vectors"] = sum(array.nbytes for array in vectors)
    return grown


def synthetic_row(item_id: str) -> ItemRow:
    """A row with every number in it; all deltas of a title come in one log."""
    at_ms = now_ms()
    state = ItemState(as_of_ms=at_ms, first_seen_ms=at_ms, sums=[1.5 + place for place in range(len(SUMS))])
    return ItemRow(item_id, state, encode_contained({"deltas-1": 123_456}), None)


def synthetic_title(number: int) -> Item:
    """A title of three words and two genres."""
    words = (number * prime % 9_973 for prime in (7_919, 104_729, 1_299_709))
    title = " ".join(f"word{word}" for word in words)
    return Item(item_id=f"item-{number}", title=title, genres=(f"genre {number % 19}", f"genre {number % 7}"))


def _rss_bytes() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    print(json.dumps(fill_library(int(sys.argv[1]))), flush=True)
