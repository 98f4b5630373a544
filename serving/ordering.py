"""The order of an answer: by score, then by the re-rank rules, with what the member saw last.

Enters: a request's scored candidates. Leaves: an `Order`. Called by `rank.py`; remembers what it showed.
"""

import random
from dataclasses import dataclass, field

import numpy as np

from features.vector import Context
from infra.metrics import Metrics
from serving.contract import RankRequest
from serving.interleaving import team_draft
from serving.library import Library
from serving.rerank import Order, RerankRules, diversify, explore, kendall_distance, pin, stabilise
from serving.scorer import Prepared, Scored
from serving.shown_lists import Question, ShownLists


@dataclass(frozen=True, slots=True)
class Ordering:
    """Puts candidates in order, one request after the other."""

    library: Library
    metrics: Metrics
    rules: RerankRules = field(default_factory=RerankRules)
    shown: ShownLists = field(default_factory=ShownLists)

    def order(
        self,
        ranking_id: str,
        request: RankRequest,
        context: Context,
        item_ids: list[str],
        prepared: Prepared,
        scored: Scored,
    ) -> Order:
        """At most `limit` candidates; the same `ranking_id` draws the same titles."""
        rules, question = self.rules, _to_question(request, context.query)
        before = self.shown.before(question, context.now_ms)
        indices = self._diversify(best_first(scored, item_ids), request, context, item_ids, prepared, scored)
        if before and rules.stability_places:
            places = {item_id: place for place, item_id in enumerate(before)}
            shown = {index: places[item_id] for index, item_id in enumerate(item_ids) if item_id in places}
            indices = stabilise(indices, scored.scores_N, shown, rules.stability_places, rules.stability_margin)
        pinned = _pinned(request, item_ids)
        others = [index for index in indices if index not in pinned] if pinned else indices
        # Rows show titles beyond the last place too: what is drawn for it would not be the chance of being shown.
        share = 0.0 if request.groups else rules.exploration
        order = explore(others, request.limit - len(pinned), share, random.Random(ranking_id))
        order = pin(order, pinned, request.limit)
        self._remember(question, before, [item_ids[index] for index in order.indices], request, context.now_ms)
        return order

    def draft(
        self,
        ranking_id: str,
        request: RankRequest,
        context: Context,
        item_ids: list[str],
        sides: tuple[Scored, Scored],
    ) -> tuple[Order, dict[int, int]]:
        """Two models' orders interleaved, at most `limit`, and whose pick each title is (0, 1).

        Pins hold and are nobody's pick; the other rules would blur whose merit an order is.
        """
        question = _to_question(request, context.query)
        before = self.shown.before(question, context.now_ms)
        pinned = _pinned(request, item_ids)
        first, second = ([index for index in best_first(side, item_ids) if index not in pinned] for side in sides)
        draft = team_draft(first, second, random.Random(f"{ranking_id}\0team"), request.limit - len(pinned))
        order = pin(Order(draft.picks, draft.propensities), pinned, request.limit)
        teams = dict(zip(draft.picks, draft.teams, strict=True))
        self._remember(question, before, [item_ids[index] for index in order.indices], request, context.now_ms)
        return order, teams

    def _diversify(
        self,
        indices: list[int],
        request: RankRequest,
        context: Context,
        item_ids: list[str],
        prepared: Prepared,
        scored: Scored,
    ) -> list[int]:
        strength = self.rules.diversity.get(context.task, 0.0)
        if not strength or not indices or prepared.model is None or self._is_named(context, item_ids[indices[0]]):
            return indices
        vectors_ND = prepared.model.vectors(len(self.library.table)).vectors_VD[prepared.slots]
        return diversify(indices, scored.scores_N, vectors_ND, strength, request.limit)

    def _is_named(self, context: Context, item_id: str) -> bool:
        """Whether the search is this title's name: what was asked for exactly is not to be varied."""
        table = self.library.table
        return context.query is not None and table.titles[table.slot_by_id.get(item_id, 0)] == context.query

    def _remember(
        self, question: Question, before: tuple[str, ...], shown: list[str], request: RankRequest, now_ms: int
    ) -> None:
        if (distance := kendall_distance(before, shown)) is not None:
            self.metrics.observe("nowrank_scorer_kendall_distance_ratio", distance, task=request.task)
        if request.log:
            self.shown.put(question, shown, now_ms)


def best_first(scored: Scored, item_ids: list[str]) -> list[int]:
    """The candidates by falling score, equal ones by id, so that the same question has the same answer."""
    falling_N = -scored.scores_N
    order_N = np.argsort(falling_N, kind="stable")
    if (np.diff(falling_N[order_N]) > 0).all():
        order: list[int] = order_N.tolist()
        return order
    return [index for _, _, index in sorted(zip(falling_N.tolist(), item_ids, range(len(item_ids)), strict=True))]


def _pinned(request: RankRequest, item_ids: list[str]) -> list[int]:
    """The candidates that are pinned, as far as the answer is long enough for them."""
    if not request.pinned:
        return []
    index_of = {item_id: index for index, item_id in enumerate(item_ids)}
    return [index_of[item_id] for item_id in dict.fromkeys(request.pinned)][: request.limit]


def _to_question(request: RankRequest, query: str | None) -> Question:
    return Question(request.user_id, request.session_id, request.task, query, request.source_item_id, request.country)
