"""Plain counts: each title's totals, counted from the events without any of the folds.

Enters: the event logs, and the totals in the store. Leaves: a list of differences. Called by the oracle.

An id counts once by user and log, however often it stands there; of a user's thumbs on a title the newest by (time, id)
is in force. A window that forgot an id, or a memory of thumbs that overflowed, makes the real counts higher by design:
then the title is left out.
"""

import json
from collections import Counter
from collections.abc import Iterator

from features import user as user_fold
from features.item import SIGNALS
from streams.topics import CLICKS, PLAYS, RANKINGS, THUMBS
from tests.faults.simulation_logs import EVENT_PARTITIONS, Logs

COMPLETED_AT = 0.9
Counts = Counter[tuple[str, str]]


def different_counts(logs: Logs, totals: dict[str, list[int]]) -> Iterator[str]:
    """Titles whose totals are not the number of distinct events."""
    counts, inexact = count_events(logs)
    for item_id in sorted({*totals, *(item_id for item_id, _ in counts)} - inexact):
        found = totals.get(item_id, [0] * len(SIGNALS))
        wanted = [counts[item_id, signal] for signal in SIGNALS]
        if found != wanted:
            yield f"totals of {item_id}: in the store {found}, counted {wanted}"


def count_events(logs: Logs) -> tuple[Counts, set[str]]:
    """The counts by (title, signal), and the titles for which they are not exact."""
    counts: Counts = Counter()
    inexact: set[str] = set()
    for partition in EVENT_PARTITIONS:
        ids: dict[str, list[str]] = {}
        thumbs: dict[tuple[str, str], tuple[int, str, str]] = {}
        for record in logs.records[partition]:
            if f"{record.log}-{record.offset}" in logs.refusals:
                continue
            event = json.loads(record.value or b"")
            event_id = event["ranking_id" if partition[0] == RANKINGS else "event_id"]
            own = ids.setdefault(event["user_id"], [])
            if event_id in own[-user_fold.SEEN_CAPACITY :]:
                continue
            if event_id in own:
                inexact |= {event.get("item_id", ""), *(item["item_id"] for item in event.get("items", ()))}
            own.append(event_id)
            _count(event, partition[0], counts)
            if partition[0] == THUMBS:
                key = (event["user_id"], event["item_id"])
                stated = (min(event["event_ts_ms"], record.broker_ts_ms), event_id, event["value"])
                thumbs[key] = max(stated, thumbs.get(key, stated))
        for (user_id, item_id), (_, _, value) in thumbs.items():
            counts[item_id, "thumbs_down" if value == "down" else "thumbs_up"] += value != "none"
            if sum(other == user_id for other, _ in thumbs) > user_fold.THUMB_CAPACITY:
                inexact |= {item for other, item in thumbs if other == user_id}
    return counts, inexact


def _count(event: dict[str, object], topic: str, counts: Counts) -> None:
    """Add what an event says by itself; thumbs only count in the end."""
    item_id = str(event.get("item_id"))
    if topic == RANKINGS:
        for item in event["items"]:  # type: ignore[attr-defined]
            counts[item["item_id"], "impressions"] += 1
    elif topic == CLICKS:
        counts[item_id, "clicks"] += 1
    elif topic == PLAYS:
        counts[item_id, "plays"] += 1
        counts[item_id, "watched_ms"] += int(str(event["watched_ms"]))
        counts[item_id, "completed_plays"] += int(str(event["watched_ms"])) >= COMPLETED_AT * int(
            str(event["duration_ms"])
        )
