"""The questions that the scorers are asked: those of the data's own last users, tasks, queries and sources.

Enters: labels and titles. Leaves: `Question`s, request bodies, live events, more titles for the catalogue. Called by
`serving.py`. Pure.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from benchmarks.mix import Loaded, to_loaded
from features.catalogue import Item
from features.text import normalise_query
from streams.events import Engaged
from streams.labels import Label

SEED = 7
PREFIX_CHARS = 6
NO_TITLE_PREFIX = "benchmark-title-"


@dataclass(frozen=True, slots=True)
class Question:
    """One question; without `items` the scorer finds candidates itself."""

    user_id: str
    task: str
    query: str | None = None
    source_item_id: str | None = None
    country: str | None = None
    items: tuple[str, ...] = ()

    def body(self, *, limit: int = 20, log: bool = True) -> bytes:
        """The JSON for `/rank`."""
        asked = {name: value for name in self.__slots__ if (value := getattr(self, name))}
        return msgspec.json.encode(asked | {"limit": limit} | ({} if log else {"log": False}))


def given_questions(labels: Sequence[Label], items: Sequence[Item], candidates: int, number: int) -> list[Question]:
    """Questions like those behind `number` labels, drawn evenly, each with `candidates` titles drawn at random."""
    draw = random.Random(SEED)
    ids = [item.item_id for item in items]
    return [
        Question(
            label.user_id,
            label.task,
            label.query,
            label.source_item_id,
            label.country,
            tuple(draw.sample(ids, min(candidates, len(ids)))),
        )
        for label in draw.sample(list(labels), min(number, len(labels)))
    ]


def keystroke_questions(labels: Sequence[Label], items: Sequence[Item], number: int) -> list[Question]:
    """What somebody types who looks for a title: its first 1 to PREFIX_CHARS characters."""
    draw = random.Random(SEED)
    titles = [title for item in items if (title := normalise_query(item.title))]
    made = []
    for place in range(number):
        title, label = draw.choice(titles), draw.choice(labels)
        typed = normalise_query(title[: 1 + place % PREFIX_CHARS]) or title[0]
        made.append(Question(label.user_id, "search", typed, None, label.country))
    return made


def more_titles(items: Sequence[Item], total: int) -> list[Item]:
    """As many synthetic titles as are missing to `total`, of the words and genres of the real ones."""
    draw = random.Random(SEED)
    words = sorted({word for item in items for word in item.title.split()})
    return [
        Item(
            item_id=f"{NO_TITLE_PREFIX}{number}",
            title=" ".join(draw.choices(words, k=draw.randrange(1, 5))),
            genres=draw.choice(items).genres,
        )
        for number in range(max(0, total - len(items)))
    ]


def live_records(events: Sequence[Engaged], begin_ms: int, rate_per_s: float, partitions: int) -> Iterator[Loaded]:
    """The events as if they happened from `begin_ms` on at this rate, with ids of their own."""
    for place, event in enumerate(events):
        live = msgspec.structs.replace(
            event,
            event_id=f"live{place:08x}{event.event_id[12:]}",
            event_ts_ms=begin_ms + int(1000 * place / rate_per_s),
        )
        yield to_loaded(live, partitions)
