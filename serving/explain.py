"""Why a title stands where it stands: the parts of its score, and every input with its age.

Enters: what was scored and the rows it was scored from. Leaves: `Parts` that add up to the score, and `FeatureValue`s
by column. Called by `rank.py` for the returned titles of a request that asks for it; costs two more runs of the model
over those titles.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.registry import VIEWS_BY_NAME
from features.vector import COLUMNS
from model.artifact import Side
from serving.contract import FeatureStatus, FeatureValue, Parts
from serving.library import Library
from serving.scorer import Prepared, Scored, Scorer
from serving.store_reader import RowsRead
from streams.events import OF_SESSION

_OWNERS = {
    "item_": "item",
    "query_": "query",
    "source_item_": "source_item",
    "country_": "country",
    "user_": "user",
    "session_next": "session_rows",
    "session_": "session",
}


def _owner(column: str) -> str:
    """Whose row a column is read from; `catalogue` for what needs no row."""
    return next((owner for prefix, owner in _OWNERS.items() if column.startswith(prefix)), "catalogue")


_COLUMN_OWNERS = tuple(_owner(column.name) for column in COLUMNS)


@dataclass(frozen=True, slots=True)
class RowAge:
    """Where a feature came from: its status, and its age where it has one."""

    status: FeatureStatus
    age_ms: int | None = None


def explain_parts(scorer: Scorer, prepared: Prepared, scored: Scored, order: list[int]) -> list[Parts]:
    """The parts of the scores of the candidates `order`, in that order; without a model everything is context."""
    model, inputs = prepared.model, prepared.inputs
    if model is None or inputs is None:
        return [Parts(context=float(scored.scores_N[index]), long_term=0.0, short_term=0.0) for index in order]
    slots, pairs_NF = prepared.slots[order], prepared.pairs_NF[order]
    vectors = model.vectors(len(scorer.library.table))

    def score_without(side: Side | None) -> NDArray[np.float64]:
        logits_N = model.artifact.score(vectors, inputs, slots, pairs_NF, side).logits_N
        return np.nan_to_num(logits_N.astype(np.float64))

    # Scored anew over the same few titles each time, so that a side that is absent differs by exactly 0.
    whole_N, without_long_N, without_short_N = score_without(None), score_without("long"), score_without("short")
    columns = (scored.scores_N[order].astype(float), whole_N - without_long_N, whole_N - without_short_N)
    return [
        Parts(context=score - long_term - short_term, long_term=long_term, short_term=short_term, gate=scored.gate)
        for score, long_term, short_term in zip(*(column.tolist() for column in columns), strict=True)
    ]


def explain_features(
    library: Library, prepared: Prepared, rows: RowsRead, index: int, now_ms: int
) -> dict[str, FeatureValue]:
    """Every column of candidate `index` with its value, its part, and how old the row is that it came from."""
    ages = _row_ages(library, int(prepared.slots[index]), rows, now_ms)
    return {
        column.name: FeatureValue(value=value, part=column.part, status=ages[owner].status, age_ms=ages[owner].age_ms)
        for column, owner, value in zip(COLUMNS, _COLUMN_OWNERS, prepared.pairs_NF[index].tolist(), strict=True)
    }


def _row_ages(library: Library, slot: int, rows: RowsRead, now_ms: int) -> dict[str, RowAge]:
    ages = {
        entity: RowAge("stale")
        if entity in rows.stale
        else _age(state.as_of_ms if state is not None else 0, entity, now_ms)
        for entity, state in ((name, rows.targets.get(name)) for name in ("query", "source_item", "country"))
    }
    history, session = (_age(rows.user_as_of_ms, view, now_ms) for view in ("user_history", "session"))
    if rows.user_status == "remembered":  # a session never is
        history, session = RowAge("stale", history.age_ms), RowAge("default")
    ages |= {"user": history, "session": session, "session_rows": _session_rows_age(rows, now_ms)}
    ages["item"] = _age(int(library.table.as_of_ms[slot]), "item", now_ms)
    ages["catalogue"] = RowAge("default" if library.table.items[slot] is None else "fresh")
    return ages


def _session_rows_age(rows: RowsRead, now_ms: int) -> RowAge:
    """The age of the newest source row of the session's titles."""
    newest_ms = max((row.as_of_ms for name, row in rows.targets.items() if name.startswith(OF_SESSION)), default=0)
    if newest_ms == 0 and any(name.startswith(OF_SESSION) for name in rows.stale):
        return RowAge("stale")
    return _age(newest_ms, "source_item", now_ms)


def _age(as_of_ms: int, view: str, now_ms: int) -> RowAge:
    """The age of a row's view; a time of 0 says that there is no row."""
    if as_of_ms == 0:
        return RowAge("default")
    age_ms = max(0, now_ms - as_of_ms)
    return RowAge("stale" if age_ms > 1000 * VIEWS_BY_NAME[view].ttl_s else "fresh", age_ms)
