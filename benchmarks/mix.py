"""The events that the benchmarks play: clicks, plays and thumbs derived from MovieLens-100k as `nowrank import` does.

Enters: a folder for the data set. Leaves: a `Mix` of records ready for the broker. Called by `streams.py`. Where the
data set cannot be had, a seeded synthetic set of ratings of the same shape takes its place and the output says so.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import msgspec
from aiokafka.partitioner import DefaultPartitioner

from features.catalogue import Item
from features.vector import COLUMN_NAMES
from infra.clock import now_ms
from infra.errors import NowrankError
from streams.events import Engaged, Event, Ranking, ServedItem, encode_event
from streams.sources.derive import Member, Rating, derive_labels
from streams.sources.movielens import GENRES, ITEMS, LAST_S, MEMBERS, RATINGS, load_movielens
from streams.sources.movielens_files import get_movielens
from streams.sources.shift import shift_ms

SEED = 100_000
# Of 100,000 ratings in MovieLens-100k: how many have 1, 2, 3, 4 and 5 stars.
STARS = (6_110, 11_370, 27_145, 34_174, 21_201)
RATINGS_A_SITTING = 40
RANKED_ITEMS = 20


class Loaded(NamedTuple):
    """One record for the broker; `partition` is where the producers' partitioner puts its key."""

    topic: str
    partition: int
    value: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Mix:
    """The events in time order, and where they come from: `movielens-100k` or `synthetic`."""

    name: str
    events: list[Engaged]

    def records(self, partitions: int) -> Iterator[Loaded]:
        """Records without end: after the last event the same again with other users and other event ids."""
        for lap in count():
            for event in self.events:
                yield to_loaded(event if lap == 0 else _of_lap(event, lap), partitions)

    def take(self, number: int, partitions: int) -> list[Loaded]:
        """The first `number` records."""
        return list(islice(self.records(partitions), number))


def load_mix(state_dir: Path, say: Callable[[str], None]) -> Mix:
    """The derived MovieLens-100k, fetched as the demo does, or its synthetic stand-in."""
    try:
        folder = get_movielens(state_dir, say)
    except NowrankError as error:
        say(f"synthetic events instead: {error}")
        return synthetic_mix()
    return Mix("movielens-100k", load_movielens(folder, now_ms()).events)


def synthetic_mix(ratings: int = RATINGS, seed: int = SEED) -> Mix:
    """Seeded ratings of MovieLens-100k's shape (members, titles, stars, sittings), through the same derivation."""
    draw = random.Random(seed)
    members = {str(number): Member(str(number), 30, "F", "none", "94110") for number in range(1, MEMBERS + 1)}
    items = {
        str(number): Item(item_id=str(number), title=_title(draw), genres=(draw.choice(GENRES[1:]),))
        for number in range(1, ITEMS + 1)
    }
    activity = [1 / (rank + 20) for rank in range(MEMBERS)]
    popularity = [1 / (rank + 30) for rank in range(ITEMS)]
    made: list[Rating] = []
    begin_s = LAST_S - 214 * 24 * 3600
    while len(made) < ratings:
        [user] = draw.choices(list(members), activity)
        at_s = draw.randrange(begin_s, LAST_S)
        number = min(RATINGS_A_SITTING, ratings - len(made))
        for item in dict.fromkeys(draw.choices(list(items), popularity, k=number)):
            [stars] = draw.choices(range(1, 6), STARS)
            made.append(Rating(user, item, stars, at_s))
            at_s += draw.randrange(0, 40)
    labels = derive_labels(made, items, members, shift_ms(LAST_S * 1000, now_ms()))
    events = [event for label in labels for event in label.events]
    return Mix("synthetic", sorted(events, key=lambda event: event.event_ts_ms))


def rankings(events: list[Engaged], number: int, partitions: int, seed: int = SEED) -> list[Loaded]:
    """`number` answers of a scorer to users of the mix, each with RANKED_ITEMS titles of the mix."""
    draw = random.Random(seed)
    item_ids = list(dict.fromkeys(event.item_id for event in events))
    features = bytes(4 * len(COLUMN_NAMES))
    made = []
    for place in range(number):
        event = events[place * len(events) // number]
        shown = [
            ServedItem(item_id=item_id, score=0.5, features=features)
            for item_id in draw.sample(item_ids, min(RANKED_ITEMS, len(item_ids)))
        ]
        ranking = Ranking(
            ranking_id=f"benchmark-ranking-{place}",
            user_id=event.user_id,
            event_ts_ms=event.event_ts_ms,
            task=event.task or "pre_query",
            items=shown,
            query=event.query,
            source_item_id=event.source_item_id,
            country=event.country,
        )
        made.append(to_loaded(ranking, partitions))
    return made


def to_loaded(event: Event | Ranking, partitions: int) -> Loaded:
    """The record of an event."""
    key = event.user_id.encode()
    return Loaded(event.topic, partition_of(key, partitions), encode_event(event), key)


def partition_of(key: bytes, partitions: int) -> int:
    """Where Kafka's producers put a key."""
    numbers = list(range(partitions))
    return int(DefaultPartitioner()(key, numbers, numbers))


def _of_lap(event: Engaged, lap: int) -> Engaged:
    """The event as another user's: nothing about it is a repeat."""
    return msgspec.structs.replace(event, user_id=f"{event.user_id}-{lap}", event_id=f"{lap:08x}{event.event_id[8:]}")


def _title(draw: random.Random) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return " ".join("".join(draw.choices(letters, k=draw.randrange(3, 9))) for _ in range(draw.randrange(1, 4)))
