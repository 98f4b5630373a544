"""Served examples: one for each ranking, its candidates the titles that were shown.

Enters: a `ServedLog`. Leaves: `ServedExamples`, with positions and propensities beside the arrays of `Examples`. Called
by `train_served.py` and `promotion.py`.

Logged features are taken as they are: they are what the model saw. A ranking that was logged under another feature
schema, or without features, is replayed (its features computed from the events before it) or left out, and counted.

legend: as in `examples.py`; K is the longest list, at most MOST_SHOWN
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.model_inputs import RequestInputs, request_inputs, unpack_inputs
from features.registry import schema_hash
from features.vector import COLUMN_NAMES
from infra.errors import BadInput
from model.aging import AgingNeighbours
from model.examples import Examples, Floats, Ints, replay_columns
from model.progress import Progress
from model.replay import Replay
from streams.events import Engaged, Ranking
from streams.labels import Label, Log
from streams.served_log import WINDOW_OPEN, LabelledRanking, ServedLog

MOST_SHOWN = 40
FLOAT_BYTES = 4
NO_TASK = "pre_query"


@dataclass(frozen=True, slots=True)
class ServedExamples:
    """Examples whose candidates are shown titles; `positions_BK` count from 1, 0 is padding. `sources` counts rankings
    by where their features come from.
    """

    examples: Examples
    positions_BK: Ints
    propensities_BK: Floats
    times_ms_B: Ints
    users_B: NDArray[np.str_]
    ranking_ids: tuple[str, ...]
    sources: Counter[str]

    def __len__(self) -> int:
        return len(self.examples)

    def take(self, rows: Ints) -> "ServedExamples":
        """Some of the examples."""
        return ServedExamples(
            self.examples.take(rows),
            self.positions_BK[rows],
            self.propensities_BK[rows],
            self.times_ms_B[rows],
            self.users_B[rows],
            tuple(self.ranking_ids[row] for row in rows),
            self.sources,
        )


@dataclass(slots=True)
class _Shown:
    """One ranking as arrays: its request, and its titles by position."""

    labelled: LabelledRanking
    inputs: RequestInputs
    slots_K: Ints
    positions_K: Ints
    propensities_K: Floats
    pairs_KF: Floats


def replay_of(served: ServedLog) -> Replay:
    """A replay of the served log's events, each as a label of its own; rankings are not among them."""
    labels = [
        Label(
            event.user_id, event.item_id, True, event.event_ts_ms, event.task or NO_TASK, event.session_id or "",
            event.query, event.source_item_id, event.country, (event,),
        )
        for event in served.events
    ]  # fmt: skip
    return Replay(Log(served.items, labels))


def aging_of(served: ServedLog, replay: Replay) -> AgingNeighbours:
    """Co-plays and EASE for what is replayed, fitted anew along the rankings."""
    times_ms = [labelled.ranking.event_ts_ms for labelled in served.rankings]
    return AgingNeighbours(replay, min(times_ms, default=0), max(times_ms, default=0))


def build_served(
    served: ServedLog, replay: Replay, progress: Progress, *, replay_others: bool = False
) -> ServedExamples:
    """An example for each ranking, in time order; afterwards `replay` has folded every event.

    Raises `BadInput` when there is none. `replay_others`: compute what was not logged for this schema.
    """
    expected, sources = schema_hash(COLUMN_NAMES), Counter[str]()
    aging = aging_of(served, replay)
    shown = []
    progress.step("rankings", len(served.rankings))
    for labelled in served.rankings:
        progress.advance()
        replay.fold_until(labelled.ranking.event_ts_ms)
        why_not = unusable(labelled.ranking, expected)
        if why_not is None:
            sources["logged"] += 1
            shown.append(_logged(labelled, replay))
        elif replay_others:
            sources["replayed"] += 1
            aging.keep_up(labelled.ranking.event_ts_ms)
            shown.append(_replayed(labelled, replay, aging))
        else:
            sources[f"left out: {why_not}"] += 1
    replay.fold_until(max((event.event_ts_ms for event in served.events), default=0) + 1)
    if not shown:
        told = told_sources(sources, served)
        raise BadInput("too_few_labels", f"the log holds no ranking that can be trained on: {told}")
    return _stack(shown, sources)


def told_sources(sources: Counter[str], served: ServedLog) -> str:
    """For a refusal: what became of the log's rankings, by reason, and when to try again where waiting helps."""
    if not sources and not served.left_out:
        return "no ranking was logged"
    told = f"{dict(sources)}, not considered: {dict(served.left_out)}"
    if served.left_out[WINDOW_OPEN]:
        told += "; a window is over once the log has a record NOWRANK_LABEL_WINDOW_S after the ranking: try again then"
    return told


def unusable(ranking: Ranking, expected: str) -> str | None:
    """Why a ranking's logged features cannot be used as they are; None when they can."""
    if not any(item.features for item in ranking.items):
        return "no features"
    if ranking.schema_hash != expected:
        return "another feature schema"
    if not ranking.inputs:
        return "no request inputs: answered without a model"
    if any(item.features and len(item.features) != FLOAT_BYTES * len(COLUMN_NAMES) for item in ranking.items):
        return "features of another width"
    return None


def _logged(labelled: LabelledRanking, replay: Replay) -> _Shown:
    """The first positions that have features."""
    items = [(place, item) for place, item in enumerate(labelled.ranking.items, 1) if item.features][:MOST_SHOWN]
    pairs_KF = np.frombuffer(b"".join(item.features for _, item in items), np.float32).reshape(-1, len(COLUMN_NAMES))
    return _Shown(
        labelled,
        unpack_inputs(replay.table, labelled.ranking.inputs),
        np.array([replay.table.slot(item.item_id) for _, item in items], np.int64),
        np.array([place for place, _ in items], np.int64),
        np.array([item.propensity for _, item in items], np.float32),
        pairs_KF,
    )


def _replayed(labelled: LabelledRanking, replay: Replay, aging: AgingNeighbours) -> _Shown:
    """The features that the events before the ranking give."""
    ranking, items = labelled.ranking, labelled.ranking.items[:MOST_SHOWN]
    no_events: tuple[Engaged, ...] = ()
    asked = Label(
        ranking.user_id, "", False, ranking.event_ts_ms, ranking.task, ranking.session_id or "", ranking.query,
        ranking.source_item_id, ranking.country, no_events,
    )  # fmt: skip
    context = replay.context(asked)
    slots_K = np.array([replay.table.slot(item.item_id) for item in items], np.int64)
    return _Shown(
        labelled,
        request_inputs(replay.table, context),
        slots_K,
        np.arange(1, len(items) + 1),
        np.array([item.propensity for item in items], np.float32),
        replay_columns(replay, aging, context, slots_K),
    )


def _stack(shown: list[_Shown], sources: Counter[str]) -> ServedExamples:
    count, longest = len(shown), max(len(one.slots_K) for one in shown)
    slots_BK, positions_BK = np.zeros((count, longest), np.int64), np.zeros((count, longest), np.int64)
    labels_BK, propensities_BK = np.zeros((count, longest), np.float32), np.ones((count, longest), np.float32)
    pairs_BKF = np.zeros((count, longest, len(COLUMN_NAMES)), np.float32)
    for row, one in enumerate(shown):
        length = len(one.slots_K)
        positives = one.labelled.labels.positives
        items = one.labelled.ranking.items
        slots_BK[row, :length], positions_BK[row, :length] = one.slots_K, one.positions_K
        propensities_BK[row, :length], pairs_BKF[row, :length] = one.propensities_K, one.pairs_KF
        labels_BK[row, :length] = [items[place - 1].item_id in positives for place in one.positions_K.tolist()]
    requests = {
        name: np.array([one.inputs[place] for one in shown]) for place, name in enumerate(RequestInputs._fields)
    }
    # Nothing was drawn: every shown title is there, at a rate of 1.
    examples = Examples(requests, slots_BK, labels_BK, pairs_BKF, np.ones((count, longest), np.float32))
    return ServedExamples(
        examples,
        positions_BK,
        propensities_BK,
        np.array([one.labelled.ranking.event_ts_ms for one in shown], np.int64),
        np.array([one.labelled.ranking.user_id for one in shown]),
        tuple(one.labelled.ranking.ranking_id for one in shown),
        sources,
    )
