"""The way of a ranking request, from the question to the answer.

Enters: a `RankRequest`. Leaves: a `RankAnswer`, always: what is missing behind the scorer makes the answer poorer, and
`status` says so. Called by the API, in the event loop.
"""

import asyncio
import logging
import math
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Literal

from features.engagement import TASK_NAMES, Task
from features.text import normalise_query
from features.vector import Context
from infra.clock import monotonic_s, now_ms
from infra.metrics import Metrics
from infra.redaction import describe_failure
from serving.candidates import Found, find_candidates, given_candidates
from serving.contract import RankAnswer, RankRequest, Status
from serving.drafted import merge_found, merge_scored
from serving.experiments import Experiment
from serving.ordering import Ordering
from serving.ranked import Ordered, Ranked, reading_order, to_groups, to_items, to_ranking, version_of
from serving.rankings_log import RankingsLog
from serving.scorer import LoadedModel, Prepared, Scored, Scorer
from serving.shared_scores import SharedScores
from serving.store_reader import RowKeys, RowsRead, StoreReader

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ranker:
    """Answers ranking requests with what the process holds."""

    scorer: Scorer
    store: StoreReader
    rankings: RankingsLog
    metrics: Metrics
    deadline_s: float
    ordering: Ordering
    shared: SharedScores
    experiment: Experiment = field(default_factory=Experiment)

    async def rank(self, request: RankRequest) -> RankAnswer:
        """The whole path; waits for nothing but the store, and for that at most `deadline_s`, or less on request."""
        phases = _Phases()
        at_ms = now_ms()
        task = TASK_NAMES[request.task]
        query = normalise_query(request.query or "") or None
        keys = RowKeys(request.user_id, query, request.source_item_id, request.country)
        own_s = math.inf if request.deadline_ms is None else request.deadline_ms / 1000
        is_hurried = own_s < self.deadline_s
        rows = await self.store.read(keys, at_ms, min(own_s, self.deadline_s), is_hurried=is_hurried)
        phases.end("store")

        sides = self._sides(request)
        context = _to_context(task, query, request, rows, at_ms, self.scorer.library.table.totals.priors(at_ms))
        models = [model for _, model in sides]
        is_shared = len(models) == 1 and self.shared.may_answer(request, models[0])
        found, made = self._score(request, models, context, phases, is_shared=is_shared)

        ranking_id = request.id or str(uuid.uuid4())
        ordered = self._order(ranking_id, request, context, found, made)
        phases.end("rules")

        variants = tuple(variant for variant, _ in sides)
        versions = tuple(version_of(side) for side, _ in made)
        ranked = Ranked(ranking_id, at_ms, variants, versions, rows, found, ordered, is_shared)
        items = to_items(self.scorer, ranked, request.explain)
        groups = to_groups(self.scorer, context, ranked, request)
        if request.log and items and self.rankings.has_broker:
            shown = replace(ranked, ordered=reading_order(groups, ranked)) if groups else ranked
            self.rankings.put(to_ranking(self.scorer.library, shown, request, context.priors))
        phases.end("answer")

        status = to_status(rows, has_model=sides[0][1] is not None)
        # The caller need not wait for it: the answer goes out first.
        asyncio.get_running_loop().call_soon(self._count, request.task, status, ranked, phases)
        return RankAnswer(
            ranking_id=ranked.ranking_id,
            model=ranked.model,
            variant=ranked.variant,
            took_ms=round(1000 * phases.total_s, 3),
            items=items,
            status=status,
            candidates=len(found.item_ids),
            groups=groups,
        )

    def _score(
        self,
        request: RankRequest,
        models: list[LoadedModel | None],
        context: Context,
        phases: "_Phases",
        *,
        is_shared: bool,
    ) -> tuple[Found, list[tuple[Prepared, Scored]]]:
        """The candidates, and each model's columns and scores of them."""
        include_seen = context.task is Task.SEARCH if request.include_seen is None else request.include_seen
        model = models[0]
        if is_shared and model is not None:
            found, prepared, scored = self.shared.score(request, model, context, include_seen)
            phases.end("shared")
            return found, [(prepared, scored)]

        found = reduce(merge_found, [self._candidates(request, model, context, include_seen) for model in models])
        phases.end("candidates")

        slots = self.scorer.library.table.slots(found.item_ids)
        sides = [self.scorer.prepare(model, context, slots) for model in models]
        phases.end("features")

        made = [(side, self.scorer.score(side, context.task)) for side in sides]
        phases.end("model")
        return found, made

    def _sides(self, request: RankRequest) -> list[tuple[str, LoadedModel | None]]:
        """The variants that answer, with their models: one, or two that have different models and are interleaved.

        An explained answer, and one in rows, is always of one.
        """
        pair = () if request.explain or request.groups else self.experiment.pair_of(request.user_id)
        sides = [self.scorer.model_of(variant) for variant in pair]
        if len({variant for variant, _ in sides}) == 2 and all(model is not None for _, model in sides):
            return sides
        return [self.scorer.model_of(self.experiment.assign(request.user_id))]

    def _order(
        self, ranking_id: str, request: RankRequest, context: Context, found: Found, made: list[tuple[Prepared, Scored]]
    ) -> Ordered:
        if len(made) == 1:
            ((prepared, scored),) = made
            order = self.ordering.order(ranking_id, request, context, found.item_ids, prepared, scored)
            return Ordered(prepared, scored, order, {})
        (prepared, scored), (prepared_2, scored_2) = made
        order, teams = self.ordering.draft(ranking_id, request, context, found.item_ids, (scored, scored_2))
        return Ordered(*merge_scored((prepared, prepared_2), (scored, scored_2), teams), order, teams)

    def _candidates(
        self, request: RankRequest, model: LoadedModel | None, context: Context, include_seen: bool
    ) -> Found:
        if request.items is not None:
            return given_candidates(request.items, request.pinned, request.blocked)
        return find_candidates(self.scorer, model, context, include_seen, request.pinned, request.blocked)

    def _count(self, task: str, status: Status, ranked: Ranked, phases: "_Phases") -> None:
        try:
            for phase, took_s in phases.took_s.items():
                self.metrics.observe("nowrank_scorer_phase_seconds", took_s, phase=phase)
            self.metrics.observe("nowrank_scorer_rank_seconds", phases.total_s, task=task)
            if len(ranked.variants) == 1:
                self.metrics.observe("nowrank_scorer_variant_seconds", phases.total_s, variant=ranked.variant)
            for source, count in ranked.found.by_source.items():
                self.metrics.count("nowrank_scorer_candidates_total", count, source=source)
            for index in ranked.ordered.teams:
                self.metrics.count("nowrank_scorer_interleaved_items_total", variant=ranked.team(index) or "")
            for degraded in _degraded(status, ranked.rows):
                self.metrics.count("nowrank_scorer_degraded_total", status=degraded)
            if status.user == "fresh":
                age_ms = max(0, ranked.at_ms - ranked.rows.user_as_of_ms)
                self.metrics.observe("nowrank_scorer_feature_age_seconds", age_ms / 1000)
        except Exception as error:  # noqa: BLE001 - the loop would write what was asked to the log
            log.error("a request was not counted\n%s", describe_failure(error, None))


def _degraded(status: Status, rows: RowsRead) -> Iterator[str]:
    if status.store != "ok":
        # Between the two reads: the member's own rows are there.
        yield "session_rows" if status.user == "fresh" else f"store_{status.store}"
    if status.model != "ok":
        yield f"model_{status.model}"
    if rows.invalid:
        yield "row_invalid"


def to_status(rows: RowsRead, *, has_model: bool) -> Status:
    """What the answer could use."""
    level: Literal["full", "long_term_only", "popularity"] = "popularity"
    if has_model and (rows.store == "ok" or rows.user_status == "fresh"):
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
        source_rows=rows.source_rows(request.source_item_id),
        country_targets=rows.targets.get("country"),
        priors=priors,
    )


class _Phases:
    """A stop watch; `took_s` holds the seconds of each phase."""

    def __init__(self) -> None:
        self.took_s: dict[str, float] = {}
        self._begin_s = self._last_s = monotonic_s()

    @property
    def total_s(self) -> float:
        """From the first moment to the end of the last phase."""
        return self._last_s - self._begin_s

    def end(self, phase: str) -> None:
        """The time since the phase before is this one's."""
        at_s = monotonic_s()
        self.took_s[phase] = at_s - self._last_s
        self._last_s = at_s
