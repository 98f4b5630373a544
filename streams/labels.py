"""Labels: what training and evaluation predict, and the log that they come in.

Enters: nothing; sources build these. Leaves: `Label`, `Log`. Read by the import command, training and evaluation.
"""

from dataclasses import dataclass

from features.catalogue import Item
from streams.events import Engaged


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

    @property
    def event_ids(self) -> tuple[str, ...]:
        """The ids of its events, in order."""
        return tuple(event.event_id for event in self.events)


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
