"""A small log with a taste in it: each member likes one genre, and plays a few of its titles in a row.

Enters: a seed and sizes. Leaves: a `Log` like a source's, with clicks, plays and thumbs. Called by this folder's tests.
"""

import random
import uuid
from typing import Any

from features.catalogue import Item
from streams.events import Click, Play, Thumb
from streams.labels import Label, Log
from streams.sources.event_log import log_of_events

GENRES = ("Noir", "Comedy", "Western", "Sci-Fi")
WORDS = ("night", "paper", "dust", "signal", "city", "clock", "river", "glass", "moon", "road", "storm", "mirror")
BEGIN_MS = 1_700_000_000_000
DURATION_MS = 6_000_000


def make_items(count: int) -> list[Item]:
    """`count` titles of two words each; genres go round."""
    return [
        Item(
            item_id=f"t{number}",
            title=f"{WORDS[number % len(WORDS)]} {WORDS[(number * 7 + 3) % len(WORDS)]} {number}".title(),
            genres=(GENRES[number % len(GENRES)],),
        )
        for number in range(count)
    ]


def make_label(
    user_id: str,
    item_id: str,
    ts_ms: int,
    *,
    positive: bool = True,
    task: str = "pre_query",
    query: str | None = None,
    source: str | None = None,
) -> Label:
    """A label with its click, its play and its thumb."""

    def common(kind: str, after_ms: int) -> dict[str, Any]:
        return {
            "event_id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{user_id}/{item_id}/{ts_ms}/{kind}")),
            "user_id": user_id,
            "item_id": item_id,
            "event_ts_ms": ts_ms + after_ms,
            "task": task,
            "query": query,
            "source_item_id": source,
            "country": "US",
        }

    watched_ms = DURATION_MS if positive else DURATION_MS // 5
    events = (
        Click(**common("click", 0)),
        Play(**common("play", 1), watched_ms=watched_ms, duration_ms=DURATION_MS),
        Thumb(**common("thumb", 2), value="up" if positive else "down"),
    )
    return Label(user_id, item_id, positive, ts_ms, task, f"{user_id}-session", query, source, "US", events)


def with_late_thumbs(log: Log, before_ms: int) -> tuple[Log, Log]:
    """The clicks of a log as `nowrank import` would read them, and the same with a thumb down at its very end on every
    title that was clicked before `before_ms`.
    """
    clicks = [event for event in log.events if isinstance(event, Click)]
    end_ms = clicks[-1].event_ts_ms
    thumbs = [
        Thumb(event_id=f"late-{click.event_id}", user_id=click.user_id, item_id=click.item_id, event_ts_ms=end_ms,
              value="down")
        for click in clicks if click.event_ts_ms < before_ms
    ]  # fmt: skip
    plain, planted = (log_of_events([*clicks, *more], log.items) for more in ([], thumbs))
    return plain, planted


def make_log(users: int = 40, titles: int = 120, labels_per_user: int = 15, seed: int = 0) -> Log:
    """Members come one after the other and overlap; most titles that a member takes are of the member's genre."""
    draw = random.Random(seed)
    items = make_items(titles)
    labels = []
    for user in range(users):
        genre = draw.randrange(len(GENRES))
        ts_ms = BEGIN_MS + user * 3_600_000 + draw.randrange(1000)
        taken: set[int] = set()
        previous = None
        for _ in range(labels_per_user):
            matching = [
                number
                for number in range(titles)
                if number not in taken and (number % len(GENRES) == genre or draw.random() < 0.03)
            ]
            number = draw.choice(matching or [number for number in range(titles) if number not in taken])
            taken.add(number)
            task = draw.choice(("pre_query", "search", "more_like_this")) if previous is not None else "pre_query"
            query = items[number].title.split()[0].lower()[:3] if task == "search" else None
            source = previous if task == "more_like_this" else None
            positive = draw.random() < 0.85
            labels.append(
                make_label(f"u{user}", f"t{number}", ts_ms, positive=positive, task=task, query=query, source=source)
            )
            previous = f"t{number}"
            ts_ms += draw.randrange(10_000, 600_000)
    labels.sort(key=lambda label: (label.ts_ms, label.user_id))
    return Log(items, labels)
