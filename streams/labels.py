"""Labels: what training and evaluation predict, and the log that they come in.

Enters: nothing; sources build these. Leaves: `Label`, `Log`. Read by the import command, training and evaluation.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from features.catalogue import Item
from streams.events import Engaged


class Asked(NamedTuple):
    """In which task, and where, a title was found."""

    task: str
    query: str | None
    source_item_id: str | None
    country: str | None


@dataclass(frozen=True, slots=True)
class Label:
    """One decision of one user about one title, with every event that it left.

    It is scored once, from the state before the first of its events: otherwise its click would give its play away.
    """

    user_id: str
    item_id: str
    positive: bool
    ts_ms: int
    task: str
    session_id: str
    query: str | None
    source_item_id: str | None
    country: str | None
    events: tuple[Engaged, ...]
    revised: tuple[tuple[int, bool], ...] = ()
    """When an event turned what those before it had said, and what they had said; in order."""
    told: tuple[int, Asked] | None = None
    """When a later event said in which task the title was found, and what was taken for it until then."""

    def as_of(self, end_ms: int) -> "Label":
        """The label as the events before `end_ms`, which lies after the first of them, have it."""
        known: dict[str, Any] = {}
        positive = next((before for at_ms, before in self.revised if at_ms >= end_ms), self.positive)
        if positive != self.positive:
            known["positive"] = positive
        if self.told is not None and self.told[0] >= end_ms:
            known |= self.told[1]._asdict()
        return replace(self, **known) if known else self


@dataclass(frozen=True, slots=True)
class Log:
    """A data set: its titles, and its labels in the one order (`ts_ms`, user, order of the file) that everything
    keeps to. `derived` says in words what the source did not hold.
    """

    items: list[Item]
    labels: list[Label]
    shift_ms: int = 0
    derived: str = ""

    @property
    def events(self) -> list[Engaged]:
        """Every event in time order; the events of labels that share a millisecond keep the labels' order."""
        events = [event for label in self.labels for event in label.events]
        return sorted(events, key=lambda event: event.event_ts_ms)

    def as_known(self, ends_ms: Sequence[int]) -> "Log":
        """The log cut at rising times: the labels of each part as the events before the part's end have them, so that
        no part is told what happened after it. Those behind the last end stay as they are.
        """
        labels = []
        for label in self.labels:
            part = bisect_right(ends_ms, label.ts_ms)
            labels.append(label.as_of(ends_ms[part]) if part < len(ends_ms) else label)
        return replace(self, labels=labels)
