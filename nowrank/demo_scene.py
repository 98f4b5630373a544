"""The demo's scene: a real user of the data looks, engages with one kind of title, and looks again.

Enters: the log, the running stack. Leaves: what was shown, what moved and why. Called by `demo.py`.
"""

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from features.catalogue import Item
from features.online_store import connect, read_states
from features.rows import USER
from infra.clock import monotonic_s, now_ms
from infra.errors import NowrankError
from infra.settings import Settings
from serving.client import Scorer
from serving.contract import RankAnswer
from streams.events import Click, Engaged, Play, Thumb
from streams.labels import Log
from streams.producer import Producer, new_event_id

TOP = 10
ENGAGED_TITLES = 3
LEAST_RATINGS, MOST_RATINGS = 60, 200
KINDS = ("Sci-Fi", "Animation", "Horror", "Western", "Musical", "Film-Noir")
READABLE_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Scene:
    """Who plays in it, what is asked, and which titles are engaged with in between."""

    user_id: str
    kind: str
    engaged: list[Item]
    source: Item
    query: str

    @property
    def questions(self) -> list[tuple[str, dict[str, str]]]:
        """The three tasks and what each is asked with."""
        return [
            ("pre_query", {}),
            ("search", {"query": self.query}),
            ("more_like_this", {"source_item_id": self.source.item_id}),
        ]


@dataclass(frozen=True, slots=True)
class Change:
    """One task before and after; `moved`: titles that were not engaged with, as (title, old place, new place)."""

    task: str
    before: RankAnswer
    after: RankAnswer
    moved: list[tuple[str, int | None, int | None]]


def cast_scene(log: Log) -> Scene:
    """A user with a history of LEAST_RATINGS to MOST_RATINGS titles and the kind of title that they have played least;
    the same for the same log.
    """
    titles = {item.item_id: item for item in log.items}
    by_user: dict[str, list[str]] = {}
    for label in log.labels:
        by_user.setdefault(label.user_id, []).append(label.item_id)
    user_id = next(user for user in reversed(by_user) if LEAST_RATINGS <= len(by_user[user]) <= MOST_RATINGS)
    played = Counter(genre for item_id in by_user[user_id] for genre in titles[item_id].genres)
    kind = min(KINDS, key=lambda genre: (played[genre], genre))
    popular = [titles[item_id] for item_id, _ in Counter(label.item_id for label in log.labels).most_common()]
    unseen = [item for item in popular if kind in item.genres and item.item_id not in by_user[user_id]]
    source = next(item for item in popular if item.item_id not in by_user[user_id] and kind not in item.genres)
    return Scene(user_id, kind, unseen[:ENGAGED_TITLES], source, query="s")


def ask(scorer: Scorer, scene: Scene, explain: bool = False) -> dict[str, RankAnswer]:
    """The top titles of every task."""
    return {
        task: scorer.rank(scene.user_id, task, limit=TOP, explain=explain, **context)  # type: ignore[arg-type]
        for task, context in scene.questions
    }


def engage(settings: Settings, scene: Scene) -> float:
    """The user clicks, plays and likes the titles; returns the ms from the last event to its being readable in the
    store.
    """
    events: list[Engaged] = []
    with Producer(settings) as producer:
        for item in scene.engaged:
            common: dict[str, Any] = {"user_id": scene.user_id, "item_id": item.item_id}
            events += [
                Click(event_id=new_event_id(), event_ts_ms=now_ms(), **common),
                Play(
                    event_id=new_event_id(), event_ts_ms=now_ms(), watched_ms=5_400_000, duration_ms=5_400_000, **common
                ),
                Thumb(event_id=new_event_id(), event_ts_ms=now_ms(), value="up", **common),
            ]
        producer.deliver(events)
    return _await_readable(settings, scene.user_id, events[-1])


def _await_readable(settings: Settings, user_id: str, event: Engaged) -> float:
    client = connect(settings.redis)
    deadline_s = monotonic_s() + READABLE_TIMEOUT_S
    while monotonic_s() < deadline_s:
        [user] = read_states(client, settings.feast_project, [(USER, user_id)])
        if any(
            moment.event_ts_ms == event.event_ts_ms and moment.item_id == event.item_id for moment in user.recent[-20:]
        ):
            return now_ms() - event.event_ts_ms
        time.sleep(0.001)
    raise NowrankError(
        f"the scene's events did not become readable within {READABLE_TIMEOUT_S:.0f} s; see the worker's log"
    )


def compare(before: dict[str, RankAnswer], after: dict[str, RankAnswer], engaged: set[str]) -> list[Change]:
    """What moved in each task, titles engaged with in the scene left out."""
    return [Change(task, before[task], after[task], _moved(before[task], after[task], engaged)) for task in before]


def _moved(before: RankAnswer, after: RankAnswer, engaged: set[str]) -> list[tuple[str, int | None, int | None]]:
    old, new = (
        {
            item.item_id: place
            for place, item in enumerate((item for item in answer.items if item.item_id not in engaged), 1)
        }
        for answer in (before, after)
    )
    names = {item.item_id: item.title or item.item_id for answer in (before, after) for item in answer.items}
    return [
        (names[item_id], old.get(item_id), new.get(item_id))
        for item_id in {**new, **old}
        if old.get(item_id) != new.get(item_id)
    ]
