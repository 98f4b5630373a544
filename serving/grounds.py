"""The grounds of groups: what the library, the model and the member's rows say about a ranking's titles.

Enters: a ranking, its context, the library. Leaves: `Grounds` for `groups.py`. Called by `rank.py` for a request that
asks for groups; each title whose neighbours are asked for costs one look at the model's table.
"""

from collections.abc import Iterable, Mapping
from itertools import islice

import numpy as np

from features import country, query
from features.catalogue import Item
from features.engagement import Kind, Task
from features.top_targets import TopTargetsState, ranked_targets
from features.vector import Context, lexical_columns
from serving.groups import Grounds, Reason, lean, matching
from serving.library import Library
from serving.scorer import LoadedModel, Scorer
from serving.title_index import TYPO_MIN_CHARS

REASONS = 3
# How many of an order's first titles make a row's stock; which of them are shown, and where, the ranking says.
NEAR_TITLES = 50
# From which share of equal characters on a title is spelled alike, in percent.
ALIKE_PERCENT = 70
TRENDING_TITLES = 50
_PHRASES = {
    Kind.PLAY: "Because you just watched",
    Kind.CLICK: "Because you just looked at",
    Kind.THUMB: "Because you liked",
}


def find_grounds(
    scorer: Scorer, model: LoadedModel | None, context: Context, item_ids: list[str], scores: list[float]
) -> Grounds:
    """The grounds of a ranking; without a model nothing is near anything.

    A member who leans to nothing is given what is trending as a leaning.
    """
    library = scorer.library
    ranked = Grounds(item_ids=item_ids, scores=scores, items=_known(library, item_ids))
    near = _Near(scorer, model, context, item_ids)
    if context.task is Task.SEARCH:
        return _search_grounds(library, near, context, ranked)
    trending = _trending(library, set(item_ids))
    weights = {item_id: weight for item_id, weight in context.heaviest_titles if weight > 0}
    if not weights:
        weights = dict.fromkeys(trending, 1.0)
    genres, decades = lean(weights, _known(library, weights))
    reasons = [Reason(item_id, phrase, near.to(item_id)) for item_id, phrase in last_engaged(context).items()]
    return Grounds(
        item_ids=item_ids,
        scores=scores,
        items={**ranked.items, **_known(library, (reason.item_id for reason in reasons))},
        reasons=reasons,
        country=context.country,
        in_country=_engaged(context.country_targets, country.HALF_LIFE_MS, set(item_ids)),
        trending=trending,
        genre_leaning=genres,
        decade_leaning=decades,
    )


def last_engaged(context: Context) -> dict[str, str]:
    """The last REASONS titles of the open session, the newest first, and the phrase for what was done with each.

    Titles with a thumb down are left out; a thumb that was taken back says nothing.
    """
    thumbs = context.user.active_thumbs()
    phrases: dict[str, str] = {}
    for moment in reversed(context.session):
        if len(phrases) == REASONS:
            break
        if thumbs.get(moment.item_id, 0) < 0 or (moment.kind == Kind.THUMB and moment.value <= 0):
            continue
        phrases.setdefault(moment.item_id, _PHRASES[Kind(moment.kind)])
    return phrases


class _Near:
    """The ranked titles that are near to one title, the nearest first."""

    def __init__(self, scorer: Scorer, model: LoadedModel | None, context: Context, item_ids: list[str]) -> None:
        self._scorer = scorer
        self._model = model
        self._context = context
        self._item_ids = item_ids
        self._slots_N = scorer.library.table.slots(item_ids)

    def to(self, item_id: str) -> list[str]:
        """At most NEAR_TITLES."""
        if self._model is None:
            return []
        # A context of this title alone: the similarities with the history and the session cost nothing then.
        alone = Context(task=self._context.task, now_ms=self._context.now_ms, source_item_id=item_id)
        nearness_N = self._scorer.similarities(self._model, alone, self._slots_N).source
        nearest = (-nearness_N).argsort(kind="stable")[:NEAR_TITLES]
        return [self._item_ids[place] for place in nearest.tolist() if nearness_N[place] > 0]


def _search_grounds(library: Library, near: _Near, context: Context, ranked: Grounds) -> Grounds:
    """Related are the neighbours of the first match, what was engaged after the query, and what is spelled alike."""
    typed = context.query or ""
    table = library.table
    slots_N = table.slots(ranked.item_ids)
    titles = [table.titles[slot] for slot in slots_N.tolist()]
    matches = [ranked.item_ids[place] for place in matching(typed, titles)]
    related = near.to(matches[0]) if matches else []
    related += _engaged(context.query_targets, query.HALF_LIFE_MS, set(ranked.item_ids))
    if len(typed) >= TYPO_MIN_CHARS:
        *_, alike_N = lexical_columns(table, slots_N, typed)
        related += [ranked.item_ids[place] for place in np.flatnonzero(100 * alike_N >= ALIKE_PERCENT).tolist()]
    return Grounds(
        item_ids=ranked.item_ids,
        scores=ranked.scores,
        items=ranked.items,
        query=typed,
        matches=matches,
        related=related,
    )


def _known(library: Library, item_ids: Iterable[str]) -> dict[str, Item]:
    table = library.table
    found: Mapping[str, Item | None] = {item_id: table.items[table.slot_by_id.get(item_id, 0)] for item_id in item_ids}
    return {item_id: item for item_id, item in found.items() if item is not None}


def _trending(library: Library, ranked: set[str]) -> list[str]:
    """The ranked titles that are engaged most by anybody; those that nobody engages left out."""
    slots = (slot for slot in library.trending_slots if library.strength_V[slot] > 0)
    item_ids = (library.table.ids[slot] for slot in slots)
    return list(islice((item_id for item_id in item_ids if item_id in ranked), TRENDING_TITLES))


def _engaged(state: TopTargetsState | None, half_life_ms: int, ranked: set[str]) -> list[str]:
    """The ranked titles that are engaged most in a row; ones that were only shown there are left out."""
    if state is None:
        return []
    engaged = (item_id for item_id, target in ranked_targets(state, half_life_ms) if sum(target.sums[1:]) > 0)
    return list(islice((item_id for item_id in engaged if item_id in ranked), TRENDING_TITLES))
