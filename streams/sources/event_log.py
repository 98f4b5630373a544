"""Anyone's events become labels: what was decided about which title, in which task. The one rule is `label_of`.

Enters: events of any source, and the titles that are known. Leaves: a `Log` whose events are the ones that came in,
untouched. Called by `log_files.py`.

A session is the events of one `session_id`; of a user's events without one, those with no gap of 30 minutes between
them. All events of one user about one title in one session are one decision.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from features.catalogue import Item
from features.text import normalise_query
from streams.events import Click, Engaged, Play, Thumb
from streams.labels import Asked, Label, Log
from streams.sources.derive import POSITIVE_STARS, SESSION_GAP_S, WATCHED_SHARE, Draw, derive_query

SESSION_GAP_MS = SESSION_GAP_S * 1000
LEAST_WATCHED = WATCHED_SHARE[POSITIVE_STARS]
LONGEST_TITLE = 512


@dataclass(slots=True)
class Decision:
    """All events of one user about one title in one session, in order, and the title engaged before them there; `told`
    is the first of the session's own events that names a task, or the first of all.
    """

    session_id: str
    previous_item: str | None
    events: list[Engaged]
    told: Engaged


def log_of_events(events: Iterable[Engaged], items: Iterable[Item] = ()) -> Log:
    """The log of these events, in any order; a title that is not among `items` is called by its id.

    Queries are derived from titles only where `items` are given and no event of the whole log says in which task it
    happened.
    """
    known = {item.item_id: item for item in items}
    by_user: dict[str, list[Engaged]] = {}
    tells_task = False
    for event in events:
        by_user.setdefault(event.user_id, []).append(event)
        tells_task = tells_task or event.task is not None or event.query is not None
    searched = {} if tells_task else dict(known)
    labels = []
    for of_user in by_user.values():
        of_user.sort(key=lambda event: event.event_ts_ms)
        labels += [label_of(decision, searched) for decision in decisions(of_user)]
    labels.sort(key=lambda label: (label.ts_ms, label.user_id))
    for label in labels:
        if label.item_id not in known:
            known[label.item_id] = untitled(label.item_id)
    return Log(list(known.values()), labels, derived=_derived(tells_task, bool(searched)))


def decisions(events: Iterable[Engaged]) -> Iterator[Decision]:
    """One user's events, given in time order, by session and title, in the order in which they begin.

    A thumb on a title that was neither clicked nor played in its session belongs to the user's last decision about it.
    """
    begun: dict[tuple[str, str], Decision] = {}
    last_about: dict[str, Decision] = {}
    last_in: dict[str, str] = {}
    open_session, last_ms = "", 0
    for event in events:
        session_id = event.session_id
        if session_id is None:
            if not open_session or event.event_ts_ms - last_ms >= SESSION_GAP_MS:
                open_session = f"{event.user_id}-{event.event_ts_ms}"[-128:]
            session_id, last_ms = open_session, event.event_ts_ms
        decision = begun.get((session_id, event.item_id))
        if decision is not None and decision.told.task is None and event.task is not None:
            decision.told = event
        if decision is None and isinstance(event, Thumb):
            decision = last_about.get(event.item_id)
        if decision is not None:
            decision.events.append(event)
            continue
        begun[session_id, event.item_id] = last_about[event.item_id] = Decision(
            session_id, last_in.get(session_id), [event], event
        )
        last_in[session_id] = event.item_id
    yield from begun.values()


def label_of(decision: Decision, searched: Mapping[str, Item]) -> Label:
    """THE RULE. The first event of the session that names a task says it; its query and its source come with it. Where
    none does, a query makes it search, a source without a query more-like-this; an event with neither gets one task
    among those that are possible for it, by the hash of its id: pre-query; more-like-this when the session holds an
    earlier title, its source; search when the title is in `searched` and a query can be derived from it.

    A thumb in force decides what is positive; without one, a play of known length must have reached 60 %, as three
    stars of MovieLens do; a click alone is positive; a thumb that was taken back says nothing.
    """
    first, told = decision.events[0], decision.told
    positive, revised = _judge(decision.events)
    asked = at_first = _asked(first, decision.previous_item, searched)
    if told is not first:
        asked = _asked(told, decision.previous_item, searched)
    return Label(
        user_id=first.user_id,
        item_id=first.item_id,
        positive=positive,
        ts_ms=first.event_ts_ms,
        session_id=decision.session_id,
        events=tuple(decision.events),
        revised=revised,
        told=(told.event_ts_ms, at_first) if told is not first else None,
        **asked._asdict(),
    )


def untitled(item_id: str) -> Item:
    """A title that nothing but its id is known of."""
    return Item(item_id=item_id, title=item_id[:LONGEST_TITLE])


def _judge(events: Iterable[Engaged]) -> tuple[bool, tuple[tuple[int, bool], ...]]:
    """What a decision's events, in order, say in the end, and where they said otherwise: `Label.revised`."""
    said: bool | None = None
    revised = []
    for event, positive in _verdicts(events):
        if said is not None and positive != said:
            revised.append((event.event_ts_ms, said))
        said = positive
    return bool(said), tuple(revised)


def _verdicts(events: Iterable[Engaged]) -> Iterator[tuple[Engaged, bool]]:
    """After each event, whether the user liked the title: see `label_of`."""
    thumb, clicked, share = "none", False, -1.0
    for event in events:
        match event:
            case Thumb():
                thumb = event.value
            case Click():
                clicked = True
            case Play():
                known = event.duration_ms > 0
                share = max(share, min(1.0, event.watched_ms / event.duration_ms) if known else 1.0)
        if thumb != "none":
            yield event, thumb != "down"
        else:
            yield event, share >= LEAST_WATCHED if share >= 0 else clicked


def _asked(event: Engaged, previous: str | None, searched: Mapping[str, Item]) -> Asked:
    """What the event says of where its title was found, or what is assigned to it."""
    if event.task is not None:
        task, query, source = str(event.task), event.query, event.source_item_id
    else:
        task, query, source = _assigned(event, previous, searched.get(event.item_id))
    is_search, is_related = task == "search", task == "more_like_this"
    return Asked(task, query if is_search else None, source if is_related else None, event.country)


def _assigned(event: Engaged, previous: str | None, item: Item | None) -> tuple[str, str | None, str | None]:
    """The task, query and source of an event that names no task."""
    if event.query is not None and normalise_query(event.query):
        return "search", event.query, None
    if event.source_item_id is not None:
        return "more_like_this", None, event.source_item_id
    draw = Draw(event.event_id)
    roll = draw.ratio()
    query = derive_query(item, draw) if item is not None else None
    possible = ["pre_query"]
    if previous is not None:
        possible.append("more_like_this")
    if query is not None:
        possible.append("search")
    task = possible[int(roll * len(possible))]
    return task, query if task == "search" else None, previous if task == "more_like_this" else None


def _derived(tells_task: bool, searches: bool) -> str:
    if tells_task:
        return "events that name no task get one by their query, their source or the hash of their id"
    queries = "; queries are derived from titles" if searches else ""
    return f"no event of this log names its task: the hash of its id assigns one that is possible for it{queries}"
