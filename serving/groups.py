"""Groups: a ranking organised into labelled rows.

Enters: `Grounds`: a ranking, and what is known about its titles, the member and everybody else. Leaves: `Group`s,
without a title twice. Called by `rank.py` for a request that asks for it; `grounds.py` gathers the grounds. Pure.

| kind | task | titles | label |
| --- | --- | --- | --- |
| match | search | every word of the query begins a word of the title | Titles for 'noir' |
| related | search | near a match, engaged after the same query or spelled alike | Related to 'noir' |
| because | pre_query | near a title of the open session, one row for each | Because you just watched Dust Road |
| country | pre_query | engaged most in the country | Trending in DE |
| trending | pre_query | engaged most by anybody | Trending now |
| genre | both | of a genre: one that matches have, or that the member leans to | Noir |
| decade | pre_query | of a decade that the member leans to | From the 1950s |

The rows are chosen one after the other: matches first, then what is related to them, then always the strongest row of
the titles that no row before it shows. strength(row) = the sum of the scores of its LEAST_TITLES best titles. As every
row has that many, scores below zero do not make a short row strong. A row with fewer is dropped; matches may be fewer.
Within a row the order is the ranking's.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import islice
from typing import TypeVar, get_args

from features.catalogue import Item
from serving.contract import Group, GroupedItem, GroupKind

LEAST_TITLES = 3
LEAST_MATCHES = 1
GENRES, DECADES = 8, 4  # the most rows of a kind that are considered
KINDS: tuple[str, ...] = get_args(GroupKind)
_LATER = 2  # the turn of rows that stand in the order of their strength
_WORDS = re.compile(r"\w+")
Name = TypeVar("Name", str, int)


@dataclass(frozen=True, slots=True)
class Reason:
    """A title that the member just engaged, the phrase for how, and the titles near it."""

    item_id: str
    phrase: str
    near: Iterable[str]


@dataclass(frozen=True, slots=True)
class Grounds:
    """What groups are made from.

    `item_ids` are ranked, each once, with their `scores`. `items` holds what the catalogue knows of them and of the
    reasons. With a `query` (normalised) the groups are a search's, without one those of what to watch next. A leaning
    is a weight for each genre, or for each decade by its first year. Ids that are not ranked are left aside.
    """

    item_ids: Sequence[str]
    scores: Sequence[float]
    items: Mapping[str, Item]
    query: str | None = None
    matches: Iterable[str] = ()
    related: Iterable[str] = ()
    reasons: Sequence[Reason] = ()
    country: str | None = None
    in_country: Iterable[str] = ()
    trending: Iterable[str] = ()
    genre_leaning: Mapping[str, float] = field(default_factory=dict)
    decade_leaning: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Row:
    """A row that could be shown; `places` index the ranking, ascending. Rows of an earlier `turn` stand above."""

    kind: GroupKind
    label: str
    places: list[int]
    turn: int = _LATER
    least: int = LEAST_TITLES
    reason_item_id: str | None = None


def make_groups(grounds: Grounds, rows: int, per_row: int, pinned: int = 0) -> list[Group]:
    """At most `rows` groups of at most `per_row` titles, no title twice; the same grounds give the same groups.

    The first `pinned` of the ranking stand at the head of the first group, whatever it is of; those that it cannot
    hold go on in the next. When `per_row` is under LEAST_TITLES, it is also the least. Cost: for each row shown, the
    titles of those left.
    """
    waiting = _search_rows(grounds) if grounds.query else _pre_query_rows(grounds)
    heads, taken = list(range(pinned)), set[int]()
    groups: list[Group] = []
    while len(groups) < rows:
        free = [(row, list(islice((place for place in row.places if place not in taken), per_row))) for row in waiting]
        offers = [(row, places) for row, places in free if len(places) >= min(row.least, per_row)]
        if not offers:
            break
        best, shown = min(offers, key=lambda offer: _standing(grounds, *offer))
        waiting = [row for row, _ in offers if row is not best]
        head, heads = heads[:per_row], heads[per_row:]
        shown = [*head, *(place for place in shown if place not in head)][:per_row]
        taken.update(shown, heads)
        groups.append(_to_group(grounds, best, shown))
    return groups


def lean(weights: Mapping[str, float], items: Mapping[str, Item]) -> tuple[dict[str, float], dict[int, float]]:
    """The weights of genres and of decades: each title's weight, shared out evenly among its genres.

    Unknown titles and weights of 0 and below count for nothing.
    """
    genres: dict[str, float] = {}
    decades: dict[int, float] = {}
    for item_id, weight in weights.items():
        item = items.get(item_id)
        if item is None or weight <= 0:
            continue
        for genre in item.genres:
            genres[genre] = genres.get(genre, 0.0) + weight / len(item.genres)
        if item.year is not None:
            decade = item.year // 10 * 10
            decades[decade] = decades.get(decade, 0.0) + weight
    return genres, decades


def matching(query: str, titles: Sequence[str]) -> list[int]:
    """The places of the titles (normalised, as the query is) that begin with the query, or of which a word begins with
    each of its words.
    """
    words = _WORDS.findall(query)

    def is_match(title: str) -> bool:
        if title.startswith(query):
            return True
        if not all(word in title for word in words):  # settles most titles, fast
            return False
        begins = _WORDS.findall(title)
        return bool(words) and all(any(begin.startswith(word) for begin in begins) for word in words)

    return [place for place, title in enumerate(titles) if is_match(title)]


def _standing(grounds: Grounds, row: _Row, places: list[int]) -> tuple[int, float, int, str, str]:
    """Sorts offers: by turn, then the strongest, then by kind, label and reason, so that equal ones have an order."""
    strength = sum(nlargest(LEAST_TITLES, (grounds.scores[place] for place in places)))
    return row.turn, -strength, KINDS.index(row.kind), row.label, row.reason_item_id or ""


def _search_rows(grounds: Grounds) -> list[_Row]:
    query = grounds.query or ""
    matches = _places(grounds, grounds.matches)
    genres, _ = lean({grounds.item_ids[place]: 1.0 for place in matches}, grounds.items)
    matched = set(matches)
    related = [place for place in _places(grounds, grounds.related) if place not in matched]
    return [
        _Row("match", f"Titles for '{query}'", matches, turn=0, least=LEAST_MATCHES),
        _Row("related", f"Related to '{query}'", related, turn=1),
        *_genre_rows(grounds, genres),
    ]


def _pre_query_rows(grounds: Grounds) -> list[_Row]:
    because = [
        _Row(
            "because",
            f"{reason.phrase} {grounds.items[reason.item_id].title}",
            [place for place in _places(grounds, reason.near) if grounds.item_ids[place] != reason.item_id],
            reason_item_id=reason.item_id,
        )
        for reason in grounds.reasons
        if reason.item_id in grounds.items
    ]
    in_country = _Row("country", f"Trending in {grounds.country}", _places(grounds, grounds.in_country))
    return [
        *because,
        *([in_country] if grounds.country is not None else []),
        _Row("trending", "Trending now", _places(grounds, grounds.trending)),
        *_genre_rows(grounds, grounds.genre_leaning),
        *_decade_rows(grounds),
    ]


def _genre_rows(grounds: Grounds, weights: Mapping[str, float]) -> list[_Row]:
    places: dict[str, list[int]] = {genre: [] for genre in _heaviest(weights, GENRES)}
    for place, item_id in enumerate(grounds.item_ids):
        item = grounds.items.get(item_id)
        for genre in dict.fromkeys(item.genres if item is not None else ()):
            if genre in places:
                places[genre].append(place)
    return [_Row("genre", genre, found) for genre, found in places.items()]


def _decade_rows(grounds: Grounds) -> list[_Row]:
    places: dict[int, list[int]] = {decade: [] for decade in _heaviest(grounds.decade_leaning, DECADES)}
    for place, item_id in enumerate(grounds.item_ids):
        item = grounds.items.get(item_id)
        if item is not None and item.year is not None and item.year // 10 * 10 in places:
            places[item.year // 10 * 10].append(place)
    return [_Row("decade", f"From the {decade}s", found) for decade, found in places.items()]


def _heaviest(weights: Mapping[Name, float], count: int) -> list[Name]:
    return sorted((key for key in weights if weights[key] > 0), key=lambda key: (-weights[key], key))[:count]


def _places(grounds: Grounds, item_ids: Iterable[str]) -> list[int]:
    wanted = set(item_ids)
    return [place for place, item_id in enumerate(grounds.item_ids) if item_id in wanted]


def _to_group(grounds: Grounds, row: _Row, places: list[int]) -> Group:
    shown = [(grounds.item_ids[place], grounds.scores[place]) for place in places]
    return Group(
        kind=row.kind,
        label=row.label,
        reason_item_id=row.reason_item_id,
        items=[
            GroupedItem(
                item_id=item_id, score=score, title=item.title if (item := grounds.items.get(item_id)) else None
            )
            for item_id, score in shown
        ],
    )
