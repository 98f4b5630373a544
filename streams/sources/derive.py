"""Ratings become events: the one rule, in `derive_label`. Ratings are all that MovieLens knows; clicks, plays, thumbs,
tasks and queries are derived, and every output that uses them says so.

Enters: ratings in order, the catalogue, the members. Leaves: labels with their events. Called by the MovieLens source.
Pure: the same rating always gives the same events with the same ids, so that a second import repeats the first.
"""

import hashlib
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from features.catalogue import Item
from features.text import normalise_query
from streams.events import Click, Engaged, Play, Thumb
from streams.labels import Label

SESSION_GAP_S = 30 * 60
# One second of the source holds many ratings of a user: they are laid out at this distance, which leaves room for a
# rating's events.
STEP_MS = 10
# Stars -> the share of the title that was watched.
WATCHED_SHARE = {1: 0.2, 2: 0.4, 3: 0.6, 4: 0.85, 5: 1.0}
POSITIVE_STARS = 3
THUMBS: dict[int, Literal["up", "down"]] = {1: "down", 2: "down", 4: "up", 5: "up"}
SHORTEST_MIN, LONGEST_MIN = 80, 140
GENRE_RATIO, TYPO_RATIO = 0.10, 0.15
LONGEST_PREFIX = 6
SHORTEST_TYPO = 3
SKIPPED_WORDS = frozenset(
    {"the", "a", "an", "of", "and", "in", "on", "to", "for", "le", "la", "les", "il", "el", "das", "der"}
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://grouplens.org/datasets/movielens/")

_WORD = re.compile(r"\w+(?:'\w+)?")
_CANADIAN = re.compile(r"[ABCEGHJ-NPRSTVXY]\d[A-Z](\d[A-Z]\d?)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Rating:
    """One rating as the source has it."""

    user: str
    item: str
    stars: int
    ts_s: int


@dataclass(frozen=True, slots=True)
class Member:
    """What the source knows about a user."""

    user_id: str
    age: int
    gender: str
    occupation: str
    zip_code: str


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a rating stands in its user's time: when, in which session, after which title of that session."""

    ts_ms: int
    session_id: str
    previous_item: str | None


class Draw:
    """Numbers that look random and depend on `key` alone; each of up to eight draws takes four bytes of its hash."""

    def __init__(self, key: str) -> None:
        self._bytes = hashlib.blake2b(key.encode(), digest_size=32).digest()
        self._at = 0

    def integer(self, below: int) -> int:
        """A whole number from 0 to `below` - 1."""
        number = int.from_bytes(self._bytes[self._at : self._at + 4], "big")
        self._at += 4
        return number * below >> 32

    def ratio(self) -> float:
        """A number in [0, 1)."""
        return self.integer(1 << 32) / (1 << 32)


def derive_labels(
    ratings: Iterable[Rating], items: Mapping[str, Item], members: Mapping[str, Member], shift_ms: int = 0
) -> list[Label]:
    """The labels of all ratings in the one order (time, user, order of the input), every time moved by `shift_ms`."""
    by_user: dict[str, list[Rating]] = {}
    for rating in ratings:
        by_user.setdefault(rating.user, []).append(rating)
    labels = []
    for user, of_user in by_user.items():
        member = members.get(user)
        country = country_of_zip(member.zip_code) if member is not None else None
        of_user.sort(key=lambda rating: rating.ts_s)
        for rating, moment in zip(of_user, moments(of_user, shift_ms), strict=True):
            labels.append(derive_label(rating, items[rating.item], moment, country))
    labels.sort(key=lambda label: (label.ts_ms, label.user_id))
    return labels


def moments(ratings: Iterable[Rating], shift_ms: int = 0) -> Iterator[Moment]:
    """The moment of each of one user's ratings, given in time order: strictly increasing, a new session after a gap of
    30 minutes; a session is named by its first second in the source, whatever the shift.
    """
    last_s, last_ms, session_id, previous = None, -STEP_MS, "", None
    for rating in ratings:
        if last_s is None or rating.ts_s - last_s > SESSION_GAP_S:
            session_id, previous = f"{rating.user}-{rating.ts_s}", None
        last_s, last_ms = rating.ts_s, max(rating.ts_s * 1000, last_ms + STEP_MS)
        yield Moment(last_ms + shift_ms, session_id, previous)
        previous = rating.item


def derive_label(rating: Rating, item: Item, moment: Moment, country: str | None) -> Label:
    """THE RULE. A rating is a click, and 1 ms later a play whose watched share grows with the stars; 1-2 stars are
    also a thumb down and 4-5 a thumb up, 1 ms after that. Its hash says in which of three tasks it happened:
    more-like-this needs an earlier title of the session as its source and is pre-query without one; search needs a
    query, derived from the title or a genre. 3 stars or more: positive.
    """
    key = f"{rating.user}/{rating.item}/{rating.ts_s}"
    draw = Draw(key)
    task = ("pre_query", "search", "more_like_this")[draw.integer(3)]
    query = derive_query(item, draw) if task == "search" else None
    if (task == "search" and query is None) or (task == "more_like_this" and moment.previous_item is None):
        task = "pre_query"
    source = moment.previous_item if task == "more_like_this" else None

    def common(kind: str, after_ms: int) -> dict[str, Any]:
        return {
            "event_id": event_uuid(f"{key}/{kind}"),
            "user_id": rating.user,
            "item_id": rating.item,
            "event_ts_ms": moment.ts_ms + after_ms,
            "session_id": moment.session_id,
            "task": task,
            "query": query,
            "source_item_id": source,
            "country": country,
        }

    duration_ms = duration_of(item.item_id)
    watched_ms = round(duration_ms * WATCHED_SHARE[rating.stars])
    events: list[Engaged] = [
        Click(**common("click", 0)),
        Play(**common("play", 1), watched_ms=watched_ms, duration_ms=duration_ms),
    ]
    if (thumb := THUMBS.get(rating.stars)) is not None:
        events.append(Thumb(**common("thumb", 2), value=thumb))
    return Label(
        user_id=rating.user,
        item_id=rating.item,
        positive=rating.stars >= POSITIVE_STARS,
        ts_ms=moment.ts_ms,
        task=task,
        session_id=moment.session_id,
        query=query,
        source_item_id=source,
        country=country,
        events=tuple(events),
    )


def event_uuid(name: str) -> str:
    """The UUID (version 5) of a name in our namespace: `str(uuid.uuid5(NAMESPACE, name))`, in a third of its time."""
    text = hashlib.sha1(NAMESPACE.bytes + name.encode(), usedforsecurity=False).hexdigest()
    return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{'89ab'[int(text[16], 16) & 3]}{text[17:20]}-{text[20:32]}"


def derive_query(item: Item, draw: Draw) -> str | None:
    """What somebody who looks for the title might have typed: a tenth a genre, 15 % a prefix with a typo, the rest the
    first 1-6 letters of one of the title's words; None when the title has no word.
    """
    words = title_words(item.title)
    roll = draw.ratio()
    if item.genres and roll < GENRE_RATIO:
        return normalise_query(item.genres[draw.integer(len(item.genres))])
    if not words:
        return None
    typo = GENRE_RATIO <= roll < GENRE_RATIO + TYPO_RATIO
    if typo:
        words = tuple(word for word in words if len(word) >= SHORTEST_TYPO) or words
    word = words[draw.integer(len(words))]
    shortest = min(SHORTEST_TYPO, len(word)) if typo else 1
    prefix = word[: shortest + draw.integer(min(LONGEST_PREFIX, len(word)) - shortest + 1)]
    return misspelt(prefix, draw) if typo and len(prefix) >= SHORTEST_TYPO else prefix


def misspelt(text: str, draw: Draw) -> str:
    """The text with one slip after its first letter: a letter left out, replaced by another, or two neighbours
    swapped.
    """
    at = 1 + draw.integer(len(text) - 1)
    slip = draw.integer(3)
    if slip == 0:
        return text[:at] + text[at + 1 :]
    if slip == 1 and at + 1 < len(text) and text[at] != text[at + 1]:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    others = LETTERS.replace(text[at], "")
    return text[:at] + others[draw.integer(len(others))] + text[at + 1 :]


@lru_cache(maxsize=4096)
def title_words(title: str) -> tuple[str, ...]:
    """The words of a title that somebody would begin a search with, in lower case; articles and the like only when
    nothing else is left.
    """
    words = _WORD.findall(normalise_query(title))
    return tuple(word for word in words if word not in SKIPPED_WORDS) or tuple(words)


@lru_cache(maxsize=4096)
def duration_of(item_id: str) -> int:
    """A title's length in ms: the source does not know it, so its id decides, between 80 and 140 minutes."""
    return (SHORTEST_MIN + Draw(f"duration/{item_id}").integer(LONGEST_MIN - SHORTEST_MIN + 1)) * 60_000


def country_of_zip(zip_code: str) -> str | None:
    """US for a five-digit code (with or without its four more), CA for a Canadian postal code or its beginning,
    otherwise None.
    """
    code = zip_code.replace(" ", "").replace("-", "")
    if code.isascii() and code.isdigit() and len(code) in (5, 9) and "00501" <= code[:5] <= "99950":
        return "US"
    return "CA" if _CANADIAN.fullmatch(code) else None
