"""One round of simulated requests, the next one of many sessions at once: what is asked, shown, examined and clicked.

Enters: the world, the sessions' state, a random generator. Leaves: a `Round` of arrays. Called by `sessions.py` for the
first, second, ... request of its sessions. No I/O, no clock.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from model.simulation.law import (
    MORE_LIKE_THIS,
    PRE_QUERY,
    SEARCH,
    Bools,
    Floats,
    Ints,
    Law,
    examine_probabilities,
    gates,
    relevances,
)
from model.simulation.members import Members
from model.simulation.policy import Lists, draw_lists
from model.simulation.queries import Query, WordIndex, draw_query
from model.simulation.titles import Titles

NONE = -1


@dataclass(frozen=True, slots=True)
class World:
    """Everything that is drawn before the first session. `run` names it in every id."""

    law: Law
    run: str
    span_ms: tuple[int, int]
    genres_GD: Floats
    titles: Titles
    members: Members
    words: WordIndex


@dataclass(slots=True)
class Visits:
    """The state of B sessions that are simulated side by side."""

    members_B: Ints
    begin_ms_B: Ints
    now_ms_B: Ints
    requests_B: Ints
    taste_BD: Floats
    mood_BD: Floats
    mood_genre_B: Ints
    has_mood_B: Bools
    source_B: Ints
    appeal_T: Floats
    # -inf: not to be shown, since it is not available yet or was opened in this session.
    policy_BT: NDArray[np.float32]
    open_titles_B: Ints

    def close(self, row: int, title: int) -> None:
        """Show this title no more in this session; the next more-like-this is about it."""
        self.source_B[row] = title
        self.policy_BT[row, title] = -np.inf
        self.open_titles_B[row] -= 1


class Round(NamedTuple):
    """N requests, those at `position` (from 0) of their sessions: who asks (rows of the visits), what, and everything
    that happened, by place in the list.
    """

    position: int
    rows_N: Ints
    task_N: Ints
    gate_N: Floats
    source_N: Ints
    target_N: Ints
    queries: dict[int, Query]
    lists: Lists
    utility_NK: Floats
    relevance_NK: Floats
    examine_NK: Floats
    examined_NK: Bools
    clicked_NK: Bools


def draw_round(world: World, visits: Visits, rows_N: Ints, position: int, rng: Generator) -> Round:
    """The request at `position` (from 0) of the sessions in `rows_N`."""
    law, count = world.law, len(rows_N)
    source_N = visits.source_B[rows_N]
    task_N = draw_tasks(law, source_N, rng)
    source_N = np.where(task_N == MORE_LIKE_THIS, source_N, NONE)
    gate_N = gates(law, world.members.gate_bias_M[visits.members_B[rows_N]], position, visits.has_mood_B[rows_N])
    # What is wanted now: this blend is what a gate is to find.
    want_ND = gate_N[:, None] * visits.mood_BD[rows_N] + (1 - gate_N[:, None]) * visits.taste_BD[rows_N]
    target_N, queries = _draw_searches(world, visits, rows_N, task_N, want_ND, rng)
    scores_NT = visits.policy_BT[rows_N]
    meant: dict[int, Floats] = {}
    for at, query in queries.items():
        meant[at] = world.words.closeness(query.meant)
        typed = meant[at] if query.typed == query.meant else world.words.closeness(query.typed)
        scores_NT[at] += ((law.target_weight + law.closeness_weight) * typed).astype(np.float32)
    similar = np.flatnonzero(source_N != NONE)
    vectors_TD = world.titles.vectors_TD
    if len(similar):
        near_NT = world.titles.small_vectors_DT[:, source_N[similar]].T @ world.titles.small_vectors_DT
        scores_NT[similar] += np.float32(law.source_weight) * near_NT
    scores_NT += np.float32(law.policy_noise) * rng.standard_normal(scores_NT.shape, np.float32)
    lists = draw_lists(law, scores_NT, rng)

    shown_NKD = vectors_TD[lists.titles_NK]
    utility_NK = law.match_weight * np.einsum("nkd,nd->nk", shown_NKD, want_ND) + visits.appeal_T[lists.titles_NK]
    if len(similar):
        nearness_NK = np.einsum("nkd,nd->nk", shown_NKD[similar], vectors_TD[source_N[similar]])
        utility_NK[similar] += law.source_weight * nearness_NK
    for at, closeness_T in meant.items():
        is_target_K = lists.titles_NK[at] == target_N[at]
        utility_NK[at] += law.target_weight * is_target_K + law.closeness_weight * closeness_T[lists.titles_NK[at]]
    relevance_NK = relevances(law, utility_NK, task_N)
    examine_NK = examine_probabilities(law, task_N, law.list_length)
    examined_NK = rng.random((count, law.list_length)) < examine_NK
    clicked_NK = examined_NK & (rng.random((count, law.list_length)) < relevance_NK)
    return Round(
        position, rows_N, task_N, gate_N, source_N, target_N, queries, lists,
        utility_NK, relevance_NK, examine_NK, examined_NK, clicked_NK,
    )  # fmt: skip


def draw_tasks(law: Law, source_N: Ints, rng: Generator) -> Ints:
    """A search with the probability `search_share`; otherwise, where the session has opened a title, more-like-this of
    the newest one with `source_share`; otherwise pre-query.
    """
    first_N, second_N = rng.random((2, len(source_N)))
    is_similar_N = (source_N != NONE) & (second_N < law.source_share)
    other_N = np.where(is_similar_N, MORE_LIKE_THIS, PRE_QUERY)
    return np.where(first_N < law.search_share, SEARCH, other_N).astype(np.int64)


def _draw_searches(
    world: World, visits: Visits, rows_N: Ints, task_N: Ints, want_ND: Floats, rng: Generator
) -> tuple[Ints, dict[int, Query]]:
    """The title in mind of each search, drawn in proportion to e^(match + appeal) among those that may be shown, and
    the query that it leads to.
    """
    target_N = np.full(len(rows_N), NONE, np.int64)
    queries: dict[int, Query] = {}
    searches = np.flatnonzero(task_N == SEARCH)
    if len(searches):
        wish_ST = world.law.match_weight * want_ND[searches] @ world.titles.vectors_TD.T + visits.appeal_T
        mass_ST = np.cumsum(np.where(np.isfinite(visits.policy_BT[rows_N[searches]]), np.exp(wish_ST), 0.0), axis=1)
        for at, mass_T, share in zip(searches.tolist(), mass_ST, rng.random(len(searches)), strict=True):
            target = int(np.searchsorted(mass_T, share * mass_T[-1], side="right"))
            target_N[at] = target
            queries[at] = draw_query(world.law, world.words.words[target], rng)
    return target_N, queries
