"""What became of one ranking request, and what is said of it: to the caller, and in the log.

Enters: found, scored and ordered candidates. Leaves: returned titles, rows of titles, the logged `Ranking`. Called by
`rank.py`.
"""

from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from features.model_inputs import pack_inputs
from features.registry import schema_hash
from features.vector import COLUMN_NAMES, Context
from serving.candidates import Found
from serving.contract import Group, RankedItem, RankRequest
from serving.experiments import JOINT
from serving.explain import explain_features, explain_parts
from serving.grounds import find_grounds
from serving.groups import make_groups
from serving.library import Library
from serving.ordering import best_first
from serving.rankings_log import MAX_LOGGED_ITEMS
from serving.rerank import Order
from serving.scorer import POPULARITY, Prepared, Scored, Scorer
from serving.store_reader import RowsRead
from streams.events import OF_ITEM, Ranking, ServedItem

SCHEMA_HASH = schema_hash(COLUMN_NAMES)


class Ordered(NamedTuple):
    """What was scored, in which order it is shown, and whose pick each title of an interleaved answer is."""

    prepared: Prepared
    scored: Scored
    order: Order
    teams: dict[int, int]


@dataclass(frozen=True, slots=True)
class Ranked:
    """One request's way so far; two variants and their models' versions where they are interleaved; whether its scores
    are shared with others of the member's cluster.
    """

    ranking_id: str
    at_ms: int
    variants: tuple[str, ...]
    versions: tuple[str, ...]
    rows: RowsRead
    found: Found
    ordered: Ordered
    is_shared: bool = False

    @property
    def variant(self) -> str:
        """Who answered."""
        return JOINT.join(self.variants)

    @property
    def model(self) -> str:
        """With which model."""
        return JOINT.join(self.versions)

    def team(self, index: int) -> str | None:
        """The variant whose pick a candidate is; None outside interleaved answers, and for a pinned title."""
        return self.variants[self.ordered.teams[index]] if index in self.ordered.teams else None


def to_items(scorer: Scorer, ranked: Ranked, explain: bool) -> list[RankedItem]:
    """The returned positions."""
    library, scored, prepared = scorer.library, ranked.ordered.scored, ranked.ordered.prepared
    indices = ranked.ordered.order.indices
    parts = explain_parts(scorer, prepared, scored, indices) if explain else [None] * len(indices)
    return [
        RankedItem(
            item_id=ranked.found.item_ids[index],
            score=float(scored.scores_N[index]),
            title=library.title(ranked.found.item_ids[index]),
            probability=None if scored.probabilities_N is None else float(scored.probabilities_N[index]),
            team=ranked.team(index),
            parts=part,
            features=explain_features(library, prepared, ranked.rows, index, ranked.at_ms) if explain else None,
        )
        for index, part in zip(indices, parts, strict=True)
    ]


def to_groups(scorer: Scorer, context: Context, ranked: Ranked, request: RankRequest) -> list[Group] | None:
    """The rows of a request that asks for them, of all candidates and not of the first `limit` only."""
    if not request.groups:
        return None
    shown_first = dict.fromkeys(
        (*ranked.ordered.order.indices, *best_first(ranked.ordered.scored, ranked.found.item_ids))
    )
    item_ids = [ranked.found.item_ids[index] for index in shown_first]
    scores = ranked.ordered.scored.scores_N[list(shown_first)].tolist()
    grounds = find_grounds(scorer, ranked.ordered.prepared.model, context, item_ids, scores)
    pinned = min(len(set(request.pinned)), request.limit)  # they stand first
    return make_groups(grounds, request.rows, request.per_row, pinned)


def reading_order(groups: list[Group], ranked: Ranked) -> Ordered:
    """What the rows show, row by row; none of it was drawn (`ordering.py`)."""
    index_by_id = {item_id: index for index, item_id in enumerate(ranked.found.item_ids)}
    indices = [index_by_id[item.item_id] for group in groups for item in group.items]
    return ranked.ordered._replace(order=Order(indices, [1.0] * len(indices)))


def to_ranking(library: Library, ranked: Ranked, request: RankRequest, priors: tuple[float, ...]) -> Ranking:
    """What is logged: the answer's first MAX_LOGGED_ITEMS, the exact features behind them, and the offsets in every
    row that they came from.
    """
    places = zip(ranked.ordered.order.indices, ranked.ordered.order.propensities, strict=True)
    shown = [
        (ranked.found.item_ids[index], index, propensity) for index, propensity in islice(places, MAX_LOGGED_ITEMS)
    ]
    item_offsets = {
        f"{OF_ITEM}{item_id}": offsets for item_id, _, _ in shown if (offsets := library.contained(item_id))
    }
    return Ranking(
        ranking_id=ranked.ranking_id,
        user_id=request.user_id,
        event_ts_ms=ranked.at_ms,
        task=request.task,
        items=[
            ServedItem(
                item_id=item_id,
                score=float(ranked.ordered.scored.scores_N[index]),
                propensity=propensity,
                features=ranked.ordered.prepared.pairs_NF[index].tobytes(),
                team=ranked.team(index) or "",
            )
            for item_id, index, propensity in shown
        ],
        session_id=request.session_id,
        query=request.query,
        source_item_id=request.source_item_id,
        country=request.country,
        model=ranked.model,
        variant=ranked.variant,
        contained={**ranked.rows.contained, **item_offsets},
        inputs=b""
        if ranked.ordered.prepared.inputs is None
        else pack_inputs(library.table, ranked.ordered.prepared.inputs),
        priors=list(priors),
        schema_hash=SCHEMA_HASH,
        shared=ranked.is_shared,
    )


def version_of(prepared: Prepared) -> str:
    """What the model that scores calls itself."""
    return POPULARITY if prepared.model is None else prepared.model.artifact.version
