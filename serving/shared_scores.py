"""Scores that members of a cluster share: what one of them was answered with serves the next ones for a while.

Enters: a request's context, and the candidates that were found and scored for it. Leaves: the same for the next member
of the cluster with the same question, without finding or scoring. Held by `rank.py`; used where NOWRANK_ANSWER_CACHE_S
says so and the model knows no more of members than their cluster (`nowrank train --personalisation clusters`, `none`).

Only what is nobody's own is shared: candidates and columns are made for a member without a past. What was seen, blocked
or liked is applied afterwards to each answer.
"""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from features.model_inputs import RequestInputs, request_inputs
from features.user import UserState
from features.vector import Context
from infra.clock import monotonic_s
from infra.metrics import Metrics
from serving.candidates import Found, find_candidates, given_candidates, seen_titles
from serving.contract import RankRequest
from serving.scorer import LoadedModel, Prepared, Scored, Scorer

CAPACITY = 10_000
Key = tuple[object, ...]


class Shared(NamedTuple):
    """Candidates with their columns and scores."""

    found: Found
    prepared: Prepared
    scored: Scored


@dataclass(frozen=True, slots=True)
class _Held:
    shared: Shared
    until_s: float


class SharedScores:
    """Scores by model, cluster and question, each for `lifetime_s`; the least recently asked for go first."""

    def __init__(self, scorer: Scorer, metrics: Metrics, lifetime_s: float) -> None:
        self._scorer = scorer
        self._metrics = metrics
        self._lifetime_s = lifetime_s
        self._held: OrderedDict[Key, _Held] = OrderedDict()

    def may_answer(self, request: RankRequest, model: LoadedModel | None) -> bool:
        """Whether the answer may be one that others get too: not an explained one, nor one with pins."""
        is_shared = self._lifetime_s > 0 and model is not None and model.artifact.knows_clusters_only
        return is_shared and not request.explain and not request.pinned

    def score(self, request: RankRequest, model: LoadedModel, context: Context, include_seen: bool) -> Shared:
        """The candidates of a request without those that this member is not to see, scored now or a while ago.

        About 0.3 ms when they are there.
        """
        table = self._scorer.library.table
        inputs = request_inputs(table, context)
        cluster = model.artifact.cluster(model.vectors(len(table)), inputs)
        given = None if request.items is None else tuple(request.items)
        asked = (context.task, context.query, context.source_item_id, context.country, inputs.daypart, given)
        key: Key = (model.artifact.version, cluster, *asked)
        held = self._held.get(key)
        is_fresh = held is not None and monotonic_s() < held.until_s
        self._metrics.count("nowrank_scorer_answer_cache_total", result="hit" if is_fresh else "miss")
        if held is None or not is_fresh:
            held = _Held(self._score_for_anybody(request, model, context, inputs), monotonic_s() + self._lifetime_s)
            self._held[key] = held
            if len(self._held) > CAPACITY:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        found, prepared, scored = held.shared
        is_given = request.items is not None  # a caller's own candidates are ranked whoever has seen them
        out = {*request.blocked, *(() if include_seen or is_given else seen_titles(context.user))}
        return without(Shared(found, replace(prepared, inputs=inputs), scored), out)

    def _score_for_anybody(
        self, request: RankRequest, model: LoadedModel, context: Context, inputs: RequestInputs
    ) -> Shared:
        """Found and scored for the cluster of this member: of the member's own past only the history in `inputs`, which
        says the cluster, is given to the model.
        """
        table = self._scorer.library.table
        anybody = replace(context, user=UserState())
        if request.items is None:
            found = find_candidates(self._scorer, model, anybody, include_seen=True)
        else:
            found = given_candidates(request.items)
        prepared = self._scorer.prepare(model, anybody, table.slots(found.item_ids))
        prepared = replace(prepared, inputs=inputs)
        return Shared(found, prepared, self._scorer.score(prepared, context.task))


def without(shared: Shared, out: Collection[str]) -> Shared:
    """All candidates but some; what comes back may be the very arrays that came in."""
    found, prepared, scored = shared
    kept = [index for index, item_id in enumerate(found.item_ids) if item_id not in out]
    if len(kept) == len(found.item_ids):
        return shared
    kept_N = np.array(kept, np.int64)
    probabilities_N = None if scored.probabilities_N is None else scored.probabilities_N[kept_N]
    return Shared(
        Found([found.item_ids[index] for index in kept], found.by_source),
        replace(prepared, slots=prepared.slots[kept_N], pairs_NF=prepared.pairs_NF[kept_N]),
        Scored(scored.scores_N[kept_N], probabilities_N, scored.gate),
    )
