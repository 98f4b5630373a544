"""The vector: rows and context become the numbers that the model sees, the same for training and serving.

Enters: the item table, candidate slots and a `Context`. Leaves: an (N, F) float32 matrix, one row per candidate. Called
by the scorer and the replay. Pure: time comes in as `now_ms`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.fuzz import partial_ratio
from rapidfuzz.process import cdist

from features import country, query, source_item
from features.engagement import Kind, Task
from features.item_columns import ITEM_COLUMNS, item_columns
from features.item_table import ITEM_GENRES, ItemTable
from features.rates import log_share
from features.session import current_session, newest_titles
from features.tokens import GENRE_BUCKETS
from features.top_targets import SIGNALS, TopTargetsState
from features.user import Moment, UserState
from features.user_history import heaviest_titles

Part = Literal["context", "long", "short"]
Matrix = NDArray[np.float32]
Slots = NDArray[np.int64]

_THUMB = int(Kind.THUMB)
HISTORY_TITLES = 50
# A row of top targets holds few titles, so that shares are larger than those in the catalogue.
TARGET_SHARE_SCALE = 100.0
# The newest titles of a session whose source rows are read; each weighs so much of the next newer one.
SESSION_SOURCES, SESSION_FADE = 3, 0.8


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the vector and the part of the answer that it explains."""

    name: str
    part: Part


COLUMNS: tuple[Column, ...] = (
    *(Column(name, "context") for name in ITEM_COLUMNS),
    Column("query_clicks", "context"),
    Column("query_plays", "context"),
    Column("query_share", "context"),
    Column("source_item_clicks", "context"),
    Column("source_item_plays", "context"),
    Column("source_item_share", "context"),
    Column("country_clicks", "context"),
    Column("country_plays", "context"),
    Column("country_share", "context"),
    Column("title_exact", "context"),
    Column("title_prefix", "context"),
    Column("title_word_prefix", "context"),
    Column("title_fuzzy", "context"),
    Column("source_genres", "context"),
    Column("source_similarity", "context"),
    Column("source_ease", "context"),
    Column("user_title_weight", "long"),
    Column("user_thumb", "long"),
    Column("user_genres", "long"),
    Column("user_similarity", "long"),
    Column("user_ease", "long"),
    Column("session_engagements", "short"),
    Column("session_genres", "short"),
    Column("session_similarity", "short"),
    Column("session_ease", "short"),
    Column("session_next", "short"),
)
COLUMN_NAMES: tuple[str, ...] = tuple(column.name for column in COLUMNS)


@dataclass(frozen=True)
class Context:
    """Everything about a request that is not a candidate. `query` is normalised. Rows that could not be read are None.
    `source_rows` are those of the request's source and of `session_sources`, by title; it may hold others. Without
    `priors` (what `CatalogueTotals` says of the whole catalogue), those of the item table hold.

    What is derived from the user's state is computed once, so the state must not change while its context is in use.
    """

    task: Task
    now_ms: int
    user: UserState = field(default_factory=UserState)
    query: str | None = None
    source_item_id: str | None = None
    country: str | None = None
    query_targets: TopTargetsState | None = None
    source_rows: Mapping[str, TopTargetsState] = field(default_factory=dict)
    country_targets: TopTargetsState | None = None
    priors: tuple[float, ...] = ()

    @cached_property
    def session(self) -> list[Moment]:
        """The engagements of the user's open session, oldest first."""
        return current_session(self.user.recent, self.now_ms)

    @property
    def source_targets(self) -> TopTargetsState | None:
        """The row of the request's source."""
        return self.source_rows.get(self.source_item_id or "")

    @cached_property
    def session_targets(self) -> list[TopTargetsState | None]:
        """The rows of the session's newest titles, the newest first."""
        return [self.source_rows.get(item_id) for item_id in newest_titles(self.session, SESSION_SOURCES)]

    @cached_property
    def title_weights(self) -> dict[str, float]:
        """The decayed weight of every title that the user engaged."""
        return self.user.title_weights(self.now_ms)

    @cached_property
    def heaviest_titles(self) -> list[tuple[str, float]]:
        """The HISTORY_TITLES titles of greatest weight, the heaviest first."""
        return heaviest_titles(self.title_weights, HISTORY_TITLES)


@dataclass(frozen=True, slots=True)
class Similarities:
    """Each candidate's item-to-item score (N,) with the source item, the titles of the history and those of the
    session: by co-plays, and by EASE.
    """

    source: Matrix
    history: Matrix
    session: Matrix
    source_ease: Matrix
    history_ease: Matrix
    session_ease: Matrix


def session_sources(user: UserState, now_ms: int) -> list[str]:
    """The titles of the open session whose source rows a request needs, the newest first."""
    return newest_titles(current_session(user.recent, now_ms), SESSION_SOURCES)


def pair_matrix(table: ItemTable, slots: Slots, context: Context, similarities: Similarities | None) -> Matrix:
    """The (N, F) matrix of COLUMNS for the candidates in `slots`; the phase `features` of a request is mostly this."""
    nothing = np.zeros(len(slots), np.float32)
    similar = similarities or Similarities(*[nothing] * 6)
    priors = context.priors or table.totals.priors(context.now_ms)
    source, weights, counts, thumbs = (
        WeighedSlots.of(table, weighed)
        for weighed in (
            {context.source_item_id or "": 1.0},
            context.title_weights,
            _session_counts(context.session),
            context.user.active_thumbs(),
        )
    )
    profiles = np.stack([genre_profile(table, *weighed) for weighed in (source, weights, counts)], axis=1)
    source_genres, user_genres, session_genres = _genre_likeness(table, slots, profiles)
    parts = [
        *item_columns(table, slots, context.now_ms, priors),
        *_target_columns(table, slots, context.query_targets, context.now_ms, query.HALF_LIFE_MS),
        *_target_columns(table, slots, context.source_targets, context.now_ms, source_item.HALF_LIFE_MS),
        *_target_columns(table, slots, context.country_targets, context.now_ms, country.HALF_LIFE_MS),
        *lexical_columns(table, slots, context.query),
        source_genres,
        similar.source,
        similar.source_ease,
        _of_candidates(slots, *weights),
        _of_candidates(slots, *thumbs),
        user_genres,
        similar.history,
        similar.history_ease,
        _of_candidates(slots, *counts),
        session_genres,
        similar.session,
        similar.session_ease,
        _next_column(table, slots, context),
    ]
    matrix = np.empty((len(slots), len(parts)), np.float32)
    for column, part in enumerate(parts):
        matrix[:, column] = part
    return matrix


def lexical_columns(table: ItemTable, slots: Slots, text: str | None) -> list[Matrix]:
    """Does the title equal the query, begin with it, have a word that begins with it (or one of its people's names),
    and how alike are they (0..1)?
    """
    if not text:
        return [np.zeros(len(slots), np.float32)] * 4
    titles, people = ([names[slot] for slot in slots.tolist()] for names in (table.titles, table.people))
    inner = f" {text}"
    begins = [title.startswith(text) for title in titles]
    has_word = [
        begun or inner in title or inner in names for begun, title, names in zip(begins, titles, people, strict=True)
    ]
    alike = cdist([text], titles, scorer=partial_ratio, dtype=np.float32)[0] / 100
    return [*np.array([[title == text for title in titles], begins, has_word], np.float32), alike]


class WeighedSlots(NamedTuple):
    """Some titles' slots (S,), 0 for those that are not in the table, and a weight for each (S,)."""

    slots: Slots
    weights: Matrix

    @classmethod
    def of(cls, table: ItemTable, weights: Mapping[str, float]) -> "WeighedSlots":
        """The titles of a mapping, in its order."""
        return cls(table.slots(weights), np.fromiter(weights.values(), np.float32, len(weights)))


def _of_candidates(slots: Slots, weighed: Slots, values: Matrix) -> Matrix:
    """Each candidate's value among those of the `weighed` slots (..., S), 0 where there is none; costs what both are,
    not what the table is.
    """
    if not len(weighed):
        return np.zeros((*values.shape[:-1], len(slots)), np.float32)
    order = weighed.argsort()
    sorted_slots = weighed.take(order)
    at = sorted_slots.searchsorted(slots).clip(max=len(order) - 1)
    is_one = (sorted_slots.take(at) == slots) & (slots > 0)
    return np.where(is_one, values.take(order.take(at), axis=-1), np.float32(0.0))


def _target_columns(
    table: ItemTable, slots: Slots, state: TopTargetsState | None, now_ms: int, half_life_ms: int
) -> Matrix:
    """The decayed clicks and plays of the candidates among a row's targets as log1p, and their share of all that the
    row holds (3, N).
    """
    if state is None or not state.targets:
        return np.zeros((3, len(slots)), np.float32)
    decayed = _decayed_targets(state, now_ms, half_life_ms)
    both = decayed.sum(axis=0)
    columns = np.stack([*np.log1p(decayed), log_share(both, float(both.sum()), TARGET_SHARE_SCALE)])
    return _of_candidates(slots, table.slots(state.targets), columns.astype(np.float32))


def _next_column(table: ItemTable, slots: Slots, context: Context) -> Matrix:
    """What members went to from the newest titles of the session: the candidates' shares of each title's row, added up
    with the titles' weights, on a log scale (N,).
    """
    titles, shares = [], []
    for place, state in enumerate(context.session_targets):
        if state is not None and state.targets:
            both = _decayed_targets(state, context.now_ms, source_item.HALF_LIFE_MS).sum(axis=0)
            titles.append(table.slots(state.targets))
            shares.append(SESSION_FADE**place / (both.sum() + 1.0) * both)
    if not titles:
        return np.zeros(len(slots), np.float32)
    different, places = np.unique(np.concatenate(titles), return_inverse=True)
    added = np.bincount(places, np.concatenate(shares), len(different))
    return _of_candidates(slots, different, np.log1p(TARGET_SHARE_SCALE * added).astype(np.float32))


def _decayed_targets(state: TopTargetsState, now_ms: int, half_life_ms: int) -> NDArray[np.float64]:
    """The decayed clicks and plays of a row's targets (2, S)."""
    targets, size = state.targets.values(), len(state.targets)
    ages_ms = now_ms - np.fromiter([target.as_of_ms for target in targets], np.int64, size)
    sums = np.fromiter(chain.from_iterable([target.sums for target in targets]), np.float64, size * len(SIGNALS))
    sums = sums.reshape(size, len(SIGNALS)).T[1:]
    return np.asarray(np.maximum(sums, 0.0) * np.exp2(-np.maximum(ages_ms, 0) / half_life_ms))


def _session_counts(session: list[Moment]) -> dict[str, float]:
    """Engagements by title in the session; a thumb down counts against it."""
    counts: dict[str, float] = {}
    for moment in session:
        sign = -1.0 if moment.kind == _THUMB and moment.value < 0 else 1.0
        counts[moment.item_id] = counts.get(moment.item_id, 0.0) + sign
    return counts


def genre_profile(table: ItemTable, slots: Slots, weights: Matrix) -> Matrix:
    """The (G,) unit vector of the genres of `slots`, each with its weight; zeros when there is none."""
    tokens = table.genre_tokens[slots]
    shares = np.repeat(weights * table.genre_weight[slots], ITEM_GENRES)
    profile = np.bincount(tokens.ravel(), shares, GENRE_BUCKETS).astype(np.float32)
    profile[0] = 0.0  # what fills up the titles with fewer genres
    length = float(np.linalg.norm(profile))
    return profile / length if length > 0 else profile


def _genre_likeness(table: ItemTable, slots: Slots, profiles_GP: Matrix) -> Matrix:
    """The (P, N) cosines of the candidates' genres with each profile."""
    tokens_NK = table.genre_tokens.take(slots, axis=0)
    likeness_NP = profiles_GP.take(tokens_NK, axis=0).sum(axis=1) * table.genre_weight.take(slots)[:, None]
    return np.asarray(likeness_NP.T, np.float32)
