"""The way of a ranking request, from the question to the answer.

Enters: a `RankRequest`. Leaves: a `RankAnswer`, always: what is missing behind the scorer makes the answer poorer, and
`status` says so. Called by the API, in the event loop.
"""

import uuid
from dataclasses import dataclass, field, replace
from typing import Literal

from features.engagement import TASK_NAMES, Task
from features.model_inputs import pack_inputs
from features.text import normalise_query
from features.vector import Context
from infra.clock import monotonic_s, now_ms
from infra.metrics import Metrics
from serving.candidates import Found, find_candidates, given_candidates
from serving.contract import Group, RankAnswer, RankedItem, RankRequest, Status
from serving.experiments import Experiment
from serving.explain import explain_features, explain_parts
from serving.grounds import find_grounds
from serving.groups import make_groups
from serving.library import Library
from serving.ordering import Ordering, best_first
from serving.rankings_log import RankingsLog
from serving.rerank import Order
from serving.scorer import POPULARITY, LoadedModel, Prepared, Scored, Scorer
from serving.store_reader import RowKeys, RowsRead, StoreReader
from streams.events import Ranking, ServedItem


@dataclass(frozen=True, slots=True)
class Ranker:
    """Answers ranking requests with what the process holds."""

    scorer: Scorer
    store: StoreReader
    rankings: RankingsLog
    metrics: Metrics
    deadline_s: float
    ordering: Ordering
    experiment: Experiment = field(default_factory=Experiment)

    async def rank(self, request: RankRequest) -> RankAnswer:
        """The whole path; waits for nothing but the store, and for that at most `deadline_s`."""
        phases = _Phases(self.metrics)
        at_ms = now_ms()
        task = TASK_NAMES[request.task]
        query = (normalise_query(request.query) if request.query is not None else "") or None
        rows = await self.store.read(
            RowKeys(request.user_id, query, request.source_item_id, request.country), at_ms, self.deadline_s
        )
        phases.end("store")

        variant, model = self.scorer.model_of(self.experiment.assign(request.user_id))
        context = _to_context(task, query, request, rows, at_ms, self.scorer.library.table.totals.priors(at_ms))
        found = self._candidates(request, model, context)
        phases.end("candidates")

        prepared = self.scorer.prepare(model, context, self.scorer.library.table.slots(found.item_ids))
        phases.end("features")

        scored = self.scorer.score(prepared, task)
        phases.end("model")

        ranking_id = request.id or str(uuid.uuid4())
        order = self.ordering.order(ranking_id, request, context, found.item_ids, prepared, scored)
        phases.end("rules")

        ranked = _Ranked(ranking_id, at_ms, variant, rows, found, prepared, scored, order)
        items = _to_items(self.scorer, ranked, request.explain)
        groups = _to_groups(self.scorer, context, ranked, request)
        if request.log and items:
            shown = replace(ranked, order=_reading_order(groups, ranked)) if groups else ranked
            self.rankings.put(_to_ranking(self.scorer.library, shown, request, context.priors))
        phases.end("answer")

        status = to_status(rows, has_model=model is not None)
        self._count(status, ranked)
        self.metrics.observe("nowrank_scorer_rank_seconds", phases.total_s, task=request.task)
        self.metrics.observe("nowrank_scorer_variant_seconds", phases.total_s, variant=variant)
        return RankAnswer(
            ranking_id=ranked.ranking_id,
            model=_version(prepared),
            variant=variant,
            took_ms=round(1000 * phases.total_s, 3),
            items=items,
            status=status,
            candidates=len(found.item_ids),
            groups=groups,
        )

    def _candidates(self, request: RankRequest, model: LoadedModel | None, context: Context) -> Found:
        if request.items is not None:
            return given_candidates(request.items, request.pinned, request.blocked)
        include_seen = context.task is Task.SEARCH if request.include_seen is None else request.include_seen
        return find_candidates(self.scorer, model, context, include_seen, request.pinned, request.blocked)

    def _count(self, status: Status, ranked: "_Ranked") -> None:
        for source, count in ranked.found.by_source.items():
            self.metrics.count("nowrank_scorer_candidates_total", count, source=source)
        if status.store != "ok":
            self.metrics.count("nowrank_scorer_degraded_total", status=f"store_{status.store}")
        if status.model != "ok":
            self.metrics.count("nowrank_scorer_degraded_total", status=f"model_{status.model}")
        if status.user == "fresh":
            self.metrics.observe(
                "nowrank_scorer_feature_age_seconds", max(0, ranked.at_ms - ranked.rows.user_as_of_ms) / 1000
            )


@dataclass(frozen=True, slots=True)
class _Ranked:
    """One request's way so far."""

    ranking_id: str
    at_ms: int
    variant: str
    rows: RowsRead
    found: Found
    prepared: Prepared
    scored: Scored
    order: Order


def to_status(rows: RowsRead, *, has_model: bool) -> Status:
    """What the answer could use."""
    level: Literal["full", "long_term_only", "popularity"] = "popularity"
    if has_model and rows.store == "ok":
        level = "full"
    elif has_model and rows.user_status == "remembered":
        level = "long_term_only"
    return Status(level=level, store=rows.store, model="ok" if has_model else "missing", user=rows.user_status)


def _to_context(
    task: Task, query: str | None, request: RankRequest, rows: RowsRead, at_ms: int, priors: tuple[float, ...]
) -> Context:
    return Context(
        task=task,
        now_ms=at_ms,
        user=rows.user,
        query=query,
        source_item_id=request.source_item_id,
        country=request.country,
        query_targets=rows.targets.get("query"),
        source_targets=rows.targets.get("source_item"),
        country_targets=rows.targets.get("country"),
        priors=priors,
    )


def _to_items(scorer: Scorer, ranked: _Ranked, explain: bool) -> list[RankedItem]:
    library, scored, prepared = scorer.library, ranked.scored, ranked.prepared
    indices = ranked.order.indices
    parts = explain_parts(scorer, prepared, scored, indices) if explain else [None] * len(indices)
    return [
        RankedItem(
            item_id=ranked.found.item_ids[index],
            score=float(scored.scores_N[index]),
            title=library.title(ranked.found.item_ids[index]),
            probability=None if scored.probabilities_N is None else float(scored.probabilities_N[index]),
            parts=part,
            features=explain_features(library, prepared, ranked.rows, index, ranked.at_ms) if explain else None,
        )
        for index, part in zip(indices, parts, strict=True)
    ]


def _to_groups(scorer: Scorer, context: Context, ranked: _Ranked, request: RankRequest) -> list[Group] | None:
    """The rows of a request that asks for them, of all candidates and not of the first `limit` only."""
    if not request.groups:
        return None
    shown_first = dict.fromkeys((*ranked.order.indices, *best_first(ranked.scored, ranked.found.item_ids)))
    item_ids = [ranked.found.item_ids[index] for index in shown_first]
    scores = ranked.scored.scores_N[list(shown_first)].tolist()
    grounds = find_grounds(scorer, ranked.prepared.model, context, item_ids, scores)
    return make_groups(grounds, request.rows, request.per_row)


def _reading_order(groups: list[Group], ranked: _Ranked) -> Order:
    """What the rows show, row by row."""
    index_by_id = {item_id: index for index, item_id in enumerate(ranked.found.item_ids)}
    propensities = dict(zip(ranked.order.indices, ranked.order.propensities, strict=True))
    indices = [index_by_id[item.item_id] for group in groups for item in group.items]
    return Order(indices, [propensities.get(index, 1.0) for index in indices])


def _to_ranking(library: Library, ranked: _Ranked, request: RankRequest, priors: tuple[float, ...]) -> Ranking:
    """What is logged: the answer, the exact features behind it, and the offsets in every row that they came from."""
    shown = [
        (ranked.found.item_ids[index], index, propensity)
        for index, propensity in zip(ranked.order.indices, ranked.order.propensities, strict=True)
    ]
    item_offsets = {f"item:{item_id}": offsets for item_id, _, _ in shown if (offsets := library.contained(item_id))}
    return Ranking(
        ranking_id=ranked.ranking_id,
        user_id=request.user_id,
        event_ts_ms=ranked.at_ms,
        task=request.task,
        items=[
            ServedItem(
                item_id=item_id,
                score=float(ranked.scored.scores_N[index]),
                propensity=propensity,
                features=ranked.prepared.pairs_NF[index].tobytes(),
            )
            for item_id, index, propensity in shown
        ],
        session_id=request.session_id,
        query=request.query,
        source_item_id=request.source_item_id,
        country=request.country,
        model=_version(ranked.prepared),
        variant=ranked.variant,
        contained={**ranked.rows.contained, **item_offsets},
        inputs=b"" if ranked.prepared.inputs is None else pack_inputs(library.table, ranked.prepared.inputs),
        priors=list(priors),
    )


def _version(prepared: Prepared) -> str:
    return POPULARITY if prepared.model is None else prepared.model.artifact.version


class _Phases:
    """A stop watch that tells the metrics how long each phase took."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._begin_s = self._last_s = monotonic_s()

    @property
    def total_s(self) -> float:
        """From the first moment to the end of the last phase."""
        return self._last_s - self._begin_s

    def end(self, phase: str) -> None:
        """The time since the phase before is this one's."""
        at_s = monotonic_s()
        self._metrics.observe("nowrank_scorer_phase_seconds", at_s - self._last_s, phase=phase)
        self._last_s = at_s
