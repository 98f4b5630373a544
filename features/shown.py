"""What was shown and what became of it: the fold and the join behind the labels of logged rankings.

Enters: a user's impressions and engagements, each with the log it stands in. Leaves: the user's newest lists and
reactions, and from them the labels of each list. Called by the stage `labels`, and by training when it joins the log
itself.

The state is kept by log, the newest entries by (time, id), so that it is a function of each log's own order. The labels
of a list are a function of the *facts* about it: the list itself, the reactions that may belong to it, and the later
lists that take some of those away. Facts are only ever added, so their number is a version: the labels made from more
facts supersede those made from fewer, in whatever order and however often they are sent.
"""

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from features.bounds import TimestampMs
from features.engagement import EngagedKind, Engagement, Kind, ReactionValue
from features.spec import ViewSpec, packed_spec
from features.user import event_id_hash

SHOWN_CAPACITY = 64
REACTION_CAPACITY = 200
KEPT_MS = 24 * 3600 * 1000


class ShownList(msgspec.Struct, array_like=True, frozen=True, order=True):
    """One answer that a user was shown."""

    event_ts_ms: TimestampMs
    ranking_id: str
    item_ids: tuple[str, ...]


class Reaction(msgspec.Struct, array_like=True, frozen=True, order=True):
    """One click, play or thumb; `value` is the watched share in percent, or the thumb. A play began at `begin_ms`."""

    event_ts_ms: TimestampMs
    id_hash: int
    kind: EngagedKind
    item_id: str
    value: ReactionValue
    begin_ms: int
    ranking_id: str | None


class ShownState(msgspec.Struct):
    """A user's newest lists and reactions, by log."""

    lists: dict[str, list[ShownList]] = msgspec.field(default_factory=dict)
    reactions: dict[str, list[Reaction]] = msgspec.field(default_factory=dict)
    updated_ms: TimestampMs = 0

    @property
    def as_of_ms(self) -> int:
        """Event time of the newest entry; 0 when there is none."""
        times_ms = [entries[-1].event_ts_ms for entries in self.lists.values() if entries]
        times_ms += [entries[-1].event_ts_ms for entries in self.reactions.values() if entries]
        return max(times_ms, default=0)


@dataclass(slots=True)
class ItemOutcome:
    """What became of one title of a list; the newest thumb counts."""

    clicked: bool = False
    watched_percent: int | None = None
    thumb: int | None = None
    thumb_order: tuple[int, int] = (-1, -1)


@dataclass(slots=True)
class ListOutcome:
    """What became of a list: the number of facts, and the outcomes of the titles that got any reaction."""

    shown: ShownList
    version: int = 1
    items: dict[str, ItemOutcome] = field(default_factory=dict)
    rivals: set[str] = field(default_factory=set)


def fold_shown(state: ShownState, log: str, engagement: Engagement, ranking_id: str | None) -> None:
    """Remember an engagement in place; `ranking_id` is the list that a reaction names."""
    if engagement.kind is Kind.IMPRESSION:
        _keep(state.lists.setdefault(log, []), to_list(engagement), SHOWN_CAPACITY)
    else:
        _keep(state.reactions.setdefault(log, []), to_reaction(engagement, ranking_id), REACTION_CAPACITY)


def to_list(engagement: Engagement) -> ShownList:
    """What is remembered of an impression."""
    return ShownList(engagement.event_ts_ms, engagement.event_id, engagement.impressions)


def to_reaction(engagement: Engagement, ranking_id: str | None) -> Reaction:
    """What is remembered of a click, play or thumb."""
    value = int(engagement.thumb) if engagement.kind is Kind.THUMB else round(100 * engagement.watched_share)
    return Reaction(
        engagement.event_ts_ms,
        event_id_hash(engagement.event_id),
        int(engagement.kind),
        engagement.item_id,
        value,
        engagement.event_ts_ms - engagement.watched_ms,
        ranking_id,
    )


def join(lists: Iterable[ShownList], reactions: Iterable[Reaction], window_ms: int) -> dict[str, ListOutcome]:
    """What became of each list of one user.

    A reaction that names a list belongs to that list. Another one belongs to the newest list that showed its title at
    most `window_ms` before the play began (a click or thumb: before it happened).
    """
    outcomes = {shown.ranking_id: ListOutcome(shown) for shown in lists}
    by_item: dict[str, list[ShownList]] = defaultdict(list)
    for shown in sorted(outcome.shown for outcome in outcomes.values()):
        for item_id in dict.fromkeys(shown.item_ids):
            by_item[item_id].append(shown)
    for reaction in reactions:
        showing = by_item.get(reaction.item_id, [])
        if reaction.ranking_id is not None:
            possible = [shown for shown in showing if shown.ranking_id == reaction.ranking_id]
        else:
            times_ms = [shown.event_ts_ms for shown in showing]
            begin, end = bisect_left(times_ms, reaction.begin_ms - window_ms), bisect_right(times_ms, reaction.begin_ms)
            possible = showing[begin:end]
        for place, shown in enumerate(possible):
            outcome = outcomes[shown.ranking_id]
            outcome.version += 1
            outcome.rivals.update(rival.ranking_id for rival in possible[place + 1 :])
        if possible:
            _note(outcomes[possible[-1].ranking_id], reaction)
    for outcome in outcomes.values():
        outcome.version += len(outcome.rivals)
    return outcomes


def join_state(state: ShownState, window_ms: int) -> dict[str, ListOutcome]:
    """What became of each list that a row remembers."""
    lists = (shown for log in sorted(state.lists) for shown in state.lists[log])
    reactions = (reaction for log in sorted(state.reactions) for reaction in state.reactions[log])
    return join(lists, reactions, window_ms)


def _note(outcome: ListOutcome, reaction: Reaction) -> None:
    item = outcome.items.setdefault(reaction.item_id, ItemOutcome())
    if reaction.kind == Kind.CLICK:
        item.clicked = True
    elif reaction.kind == Kind.PLAY:
        item.watched_percent = max(reaction.value, item.watched_percent or 0)
    elif (order := (reaction.event_ts_ms, reaction.id_hash)) > item.thumb_order:
        item.thumb, item.thumb_order = reaction.value, order


def _keep(entries: list[Any], entry: Any, capacity: int) -> None:
    """Put an entry in its place; of one id the first stays; what is KEPT_MS older than the newest one goes."""
    if any(_id(one) == _id(entry) for one in entries):
        return
    insort(entries, entry)
    oldest_ms = entries[-1].event_ts_ms - KEPT_MS
    begin = max(len(entries) - capacity, bisect_right(entries, oldest_ms - 1, key=lambda one: one.event_ts_ms))
    del entries[:begin]


def _id(entry: ShownList | Reaction) -> str | int:
    return entry.ranking_id if isinstance(entry, ShownList) else entry.id_hash


# Not in the registry: no model reads it, and its key is not a user's.
VIEW = ViewSpec(
    name="shown",
    entity="shown",
    join_key="shown_user_id",
    ttl_s=2 * KEPT_MS // 1000,
    features=(packed_spec("shown"),),
    values=lambda state: (msgspec.msgpack.encode(state),),
    doc="the lists that the user was shown, and the reactions that may belong to them",
)
