"""Candidates: which titles are worth scoring when the request names none.

Enters: a request's context and the library. Leaves: item ids, each once, with the source that brought it first. Called
by `rank.py`.

| source | brings | needs |
| --- | --- | --- |
| title | titles that match the query: beginning, words, spelling | query |
| people | titles with a person whose name matches the query | query, catalogue |
| query | titles engaged after the same query | query row |
| related | titles near to these, or to the one spelled most alike, by the model's vectors | few matches, model |
| source | neighbours of the source title | model |
| source_row | titles engaged from the source title | source row |
| session_row | titles engaged from the newest titles of the open session | their source rows |
| session | neighbours of the titles of the open session | model |
| history | neighbours of what the member has always liked | model |
| country | titles engaged in the country | country row |
| trending | titles engaged most by anybody | item rows |
| new | titles that were hardly shown or engaged yet | catalogue |

Titles that the request pins are candidates before all of these; those that it blocks are none.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice, zip_longest

from features import country, query, source_item
from features.engagement import Kind, Task
from features.top_targets import TopTargetsState, ranked_targets
from features.user import UserState
from features.vector import Context
from model.neighbours import Sources
from serving.scorer import LoadedModel, Scorer
from serving.title_index import ENOUGH, Matches
from streams.topics import PLAYS

MAX_FOUND = 500
# The titles engaged most after a query whose neighbours are related to it.
RELATED_TO = 3
SOURCES = (
    "given",
    "title",
    "people",
    "query",
    "related",
    "source",
    "source_row",
    "session_row",
    "session",
    "history",
    "country",
    "trending",
    "new",
    "pinned",
)

# Sources in order, with the most that each may bring: MAX_FOUND in all, so that only pinned titles take their room.
BUDGETS: dict[Task, dict[str, int]] = {
    Task.SEARCH: {
        "title": 180,
        "people": 30,
        "query": 80,
        "related": 30,
        "session": 40,
        "history": 40,
        "trending": 100,
    },
    Task.MORE_LIKE_THIS: {
        "source": 150,
        "source_row": 90,
        "session_row": 40,
        "session": 40,
        "history": 40,
        "country": 40,
        "trending": 80,
        "new": 20,
    },
    Task.PRE_QUERY: {
        "session_row": 80,
        "session": 120,
        "history": 120,
        "country": 60,
        "trending": 100,
        "new": 20,
    },
}


@dataclass(frozen=True, slots=True)
class Found:
    """The candidates in the order in which they were found, and how many each source brought."""

    item_ids: list[str]
    by_source: dict[str, int]


def given_candidates(item_ids: list[str], pinned: Collection[str] = (), blocked: Collection[str] = ()) -> Found:
    """The caller's own candidates; of a repeated one the first counts."""
    out, first = set(blocked), set(pinned)
    unique = [item_id for item_id in dict.fromkeys((*pinned, *item_ids)) if item_id not in out]
    counts = {"given": len(unique) - len(first)}
    return Found(unique, {**counts, "pinned": len(first)} if first else counts)


def find_candidates(
    scorer: Scorer,
    model: LoadedModel | None,
    context: Context,
    include_seen: bool,
    pinned: Collection[str] = (),
    blocked: Collection[str] = (),
) -> Found:
    """At most MAX_FOUND titles that may be recommended, each from the first source that has it, and the pinned ones.

    Seen ones only if asked.
    """
    library, slot_of = scorer.library, scorer.library.table.slot_by_id.get
    out = {*pinned, *blocked, *(() if include_seen else seen_titles(context.user))}
    if context.task is Task.MORE_LIKE_THIS:
        out.add(context.source_item_id or "")
    taken = {slot_of(item_id, 0) for item_id in out}
    bringing = _Bringing(scorer, model, context)
    counts = dict.fromkeys(BUDGETS[context.task], 0)
    first = list(dict.fromkeys(pinned))
    found: list[int] = []
    for source, budget in BUDGETS[context.task].items():
        most = len(found) + min(budget, MAX_FOUND - len(first) - len(found))
        for slot in bringing.by(source) if len(found) < most else ():
            if slot not in taken and library.may_recommend(slot, context.country, context.now_ms):
                taken.add(slot)
                found.append(slot)
                counts[source] += 1
                if len(found) == most:
                    break
    if first:
        counts["pinned"] = len(first)
    return Found([*first, *(library.table.ids[slot] for slot in found)], counts)


def seen_titles(user: UserState) -> set[str]:
    """Titles that the member has played, as far as the row remembers, or has a thumb on."""
    played = {item_id for log, memory in user.logs.items() if log.startswith(f"{PLAYS}-") for item_id in memory.titles}
    recent = {moment.item_id for moment in user.recent if moment.kind == Kind.PLAY}
    return played | recent | user.active_thumbs().keys()


class _Bringing:
    """What each source has to offer for one request, the best first; nothing is computed before it is asked for."""

    def __init__(self, scorer: Scorer, model: LoadedModel | None, context: Context) -> None:
        self._scorer = scorer
        self._library = scorer.library
        self._model = model
        self._context = context
        self._budgets = BUDGETS[context.task]

    @cached_property
    def _matches(self) -> Matches:
        return self._library.titles.find(self._context.query or "", self._library.strength_V, self._budgets["title"])

    @cached_property
    def _people(self) -> Matches:
        return self._library.titles.find_people(
            self._context.query or "", self._library.strength_V, self._budgets["people"], not self._matches.exact
        )

    @cached_property
    def _sources(self) -> dict[str, Sources]:
        return {} if self._model is None else self._scorer.nearness_sources(self._model, self._context)

    def by(self, source: str) -> Iterable[int]:
        """Slots; 0 for titles that the table lacks."""
        context = self._context
        match source:
            case "title":
                return (*self._matches.exact, *self._matches.alike)
            case "people":
                return (*self._people.exact, *self._people.alike)
            case "related":
                return self._related()
            case "query":
                return self._targets(context.query_targets, query.HALF_LIFE_MS)
            case "source_row":
                return self._targets(context.source_targets, source_item.HALF_LIFE_MS)
            case "session_row":
                return self._session_rows()
            case "country":
                return self._targets(context.country_targets, country.HALF_LIFE_MS)
            case "trending":
                return self._library.trending_slots
            case "new":
                return self._library.new_slots
            case _:
                return self._nearest(source)

    def _nearest(self, source: str) -> Iterable[int]:
        """The neighbours of the source title, the session or the history, the nearest first."""
        if self._model is None:
            return ()
        # Some of the nearest will be ones that were seen, or found already.
        return self._scorer.neighbours(self._model, self._sources[source], 4 * self._budgets[source])

    def _session_rows(self) -> Iterator[int]:
        """What members went for from the session's titles, the best of each in turn; the request's source has a source
        of its own.
        """
        rows = [state for state in self._context.session_targets if state is not self._context.source_targets]
        engaged = (self._targets(state, source_item.HALF_LIFE_MS, shown=False) for state in rows)
        return chain.from_iterable(zip_longest(*engaged, fillvalue=0))

    def _related(self) -> Iterable[int]:
        """What is near to the titles that members went for after this query; where nobody did and nothing matches,
        what is near to the title that is spelled most alike. Nothing where enough titles hold what was typed.
        """
        if self._model is None or len(self._matches.exact) >= ENOUGH:
            return ()
        engaged = self._targets(self._context.query_targets, query.HALF_LIFE_MS, shown=False)
        slots = [slot for slot in islice(engaged, RELATED_TO) if slot]
        if not slots and not self._matches.exact and not self._people.exact:
            slots = self._matches.alike[:1]
        return self._model.near.nearest(slots, 2 * self._budgets["related"])

    def _targets(self, state: TopTargetsState | None, half_life_ms: int, *, shown: bool = True) -> Iterator[int]:
        """The titles of a row, the most engaged first; with or without those that were only shown."""
        slot_of = self._library.table.slot_by_id.get
        ranked = [] if state is None else ranked_targets(state, half_life_ms)
        return (slot_of(item_id, 0) for item_id, target in ranked if shown or sum(target.sums[1:]) > 0)
