"""What this process showed last, by member and question: what stability holds on to.

Enters: answers as they are shown. Leaves: the order of the one before. Used by `ordering.py`. In memory and bounded:
after a restart, or on another scorer process, the first answer of a session simply begins anew.
"""

from collections import OrderedDict
from typing import NamedTuple

CAPACITY = 20_000
KEPT_MS = 30 * 60 * 1000
MAX_TITLES = 100


class Question(NamedTuple):
    """Who asked what: two answers are compared only when all of it is the same."""

    user_id: str
    session_id: str | None
    task: str
    query: str | None
    source_item_id: str | None
    country: str | None


class ShownLists:
    """The newest answers, at most CAPACITY, none older than KEPT_MS."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._lists: OrderedDict[Question, tuple[int, tuple[str, ...]]] = OrderedDict()

    def before(self, question: Question, now_ms: int) -> tuple[str, ...]:
        """The titles of the last answer to this question, the first first; empty when there is none."""
        shown_ms, item_ids = self._lists.get(question, (0, ()))
        return item_ids if now_ms - shown_ms <= KEPT_MS else ()

    def put(self, question: Question, item_ids: list[str], now_ms: int) -> None:
        """Remember an answer that was shown."""
        self._lists[question] = (now_ms, tuple(item_ids[:MAX_TITLES]))
        self._lists.move_to_end(question)
        if len(self._lists) > self._capacity:
            self._lists.popitem(last=False)
