"""A simulated folder as a served log: its lists with the labels that its events give them.

Enters: a folder that `files.py` has written. Leaves: a `ServedLog`, as the broker's log would give it. Called by the
benchmark of position bias and by tests. Simulated lists carry no features: whoever trains on them replays.
"""

from collections.abc import Iterator
from pathlib import Path

from features.catalogue import Item
from model.simulation.files import EVENTS, ITEMS, RANKINGS
from streams.catalogue import decode_item
from streams.events import Engaged, Ranking, decode_engaged, decode_record
from streams.served_log import ServedLog, settle
from streams.shown_labels import LogJoin
from streams.topics import RANKINGS as RANKINGS_TOPIC

WINDOW_MS = 30 * 60 * 1000


def read_simulated(folder: Path, window_ms: int = WINDOW_MS) -> ServedLog:
    """The served log of a folder; every list is settled, since no session is cut off."""
    items = [item for line in _lines(folder / ITEMS) if isinstance(item := decode_item(line), Item)]
    rankings = [
        one for line in _lines(folder / RANKINGS) if isinstance(one := decode_record(RANKINGS_TOPIC, line), Ranking)
    ]
    events: list[Engaged] = [decode_engaged(line) for line in _lines(folder / EVENTS)]
    joined = LogJoin()
    for event in (*rankings, *events):
        joined.add_event(event, event.event_ts_ms)
    newest_ms = max(ranking.event_ts_ms for ranking in rankings)
    return settle(items, rankings, events, joined.labels(window_ms), newest_ms)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        yield from (line.rstrip(b"\n") for line in stream)
