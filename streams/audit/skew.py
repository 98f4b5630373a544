"""Skew: are the features that were served the ones that the log gives for that moment?

Enters: settings, a number of rankings, the model's similarities where there are any. Leaves: a `SkewReport` by column.
Called by `nowrank skew`.

Every ranking carries the packed features of its items and the offsets that each row contained. The logs are replayed
to those offsets, the vector is computed anew at the logged time, and compared. It is assumed that the rows began where
those of the present store did. What cannot be known any more is not compared, and counted by reason.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.item import ItemState
from features.item_table import ItemTable
from features.online_store import connect
from features.rows import COUNTRY, ITEM, QUERY, SOURCE_ITEM, USER
from features.user import UserState
from features.vector import COLUMN_NAMES, Context, Similarities, Slots, pair_matrix, session_sources
from infra.settings import Settings
from streams.audit.log_reader import LogReader
from streams.audit.recompute import RowName
from streams.audit.replayed_rows import ReplayedRows
from streams.audit.served_rankings import Served, read_served
from streams.audit.skew_catalogue import LoggedCatalogue
from streams.audit.skew_report import SHOWN_EXAMPLES, SkewExample, SkewReport
from streams.audit.store_folds import begin_highest, troubled_logs
from streams.audit.store_snapshot import read_checkpoints
from streams.events import OF_ITEM
from streams.progress import ShowProgress, progress_bar
from streams.topics import FOLDED_TOPICS, read_topic_ids

RELATIVE, ABSOLUTE = 1e-5, 1e-6  # float32, and sums in another order
WITHOUT_MODEL = "popularity"
# The similarities of a model of this version, None when it is not at hand.
SimilaritySource = Callable[[str, ItemTable, Context, Slots], Similarities | None]
Mask = NDArray[np.bool_]


def _columns(*prefixes: str) -> Mask:
    return np.array([name.startswith(prefixes) for name in COLUMN_NAMES])


_OF_MODEL = np.array([name.endswith(("_similarity", "_ease")) for name in COLUMN_NAMES])
_OF_GENRES = np.array([name.endswith("_genres") for name in COLUMN_NAMES])
_OF_TITLE = _columns("title_")
_OF_PRIORS = np.array(
    [name.startswith("item_share_") or (name.startswith("item_") and name.endswith("_rate")) for name in COLUMN_NAMES]
)
_OF_USER = _columns("user_", "session_")
_OF_SESSION_ROWS = _columns("session_next")
_OF_ROW = {family.name: _columns(f"{family.name}_") for family in (ITEM, QUERY, SOURCE_ITEM, COUNTRY)}


def compare_served(
    settings: Settings,
    last: int,
    similarities: SimilaritySource | None = None,
    progress: ShowProgress = progress_bar,
) -> SkewReport:
    """Compare the last rankings with a replay; raises `BrokerUnavailable`, `StoreUnavailable` or
    `CheckpointInvalid`.
    """
    report = SkewReport()
    with LogReader(settings) as reader:
        served, others = read_served(reader, last)
        report.not_compared.update(others)
        with connect(settings.redis) as client:
            store = read_checkpoints(client)
        spans = reader.spans(FOLDED_TOPICS)
        trouble = troubled_logs(store, spans, read_topic_ids(settings))
        begins = {**store.session, **store.target}
        spans = {
            log: span._replace(first=max(span.first, begins[log].first_offset)) if log in begins else span
            for log, span in spans.items()
        }
        rows = ReplayedRows(served, settings.future_limit_ms)
        with progress("replaying the log", rows.total(spans)) as advance:
            rows.replay(reader, spans, begin_highest(store, spans), advance)
        comparison = _Comparison(report, rows, LoggedCatalogue(reader), set(trouble), similarities)
    for one in served:
        comparison.compare(one)
    return report


class _Comparison:
    """Computes each ranking's features anew and compares them."""

    def __init__(
        self,
        report: SkewReport,
        rows: ReplayedRows,
        catalogue: LoggedCatalogue,
        trouble: set[str],
        similarities: SimilaritySource | None,
    ) -> None:
        self._report = report
        self._rows = rows
        self._catalogue = catalogue
        self._trouble = trouble
        self._similarities = similarities

    def compare(self, served: Served) -> None:
        """Compare one ranking, but for what cannot be known."""
        unknown = _Unknown(served, self._report)
        table = self._catalogue.table
        slots = np.array([table.slot(item_id) for item_id in served.item_ids], np.int64)
        user = self._user(served, unknown)
        context = served.context(user, self._targets(served, unknown))
        if not served.read_rows_of(session_sources(user, context.now_ms)):
            unknown.columns(_OF_SESSION_ROWS, "the store did not answer in time")
        for item_id, slot in zip(served.item_ids, slots.tolist(), strict=True):
            table.set_state(slot, self._item(served, item_id, unknown))
        for item_id in context.title_weights:
            table.slot(item_id)
        if not served.ranking.priors:
            unknown.columns(_OF_PRIORS, "the catalogue's own rates and totals were not logged")
        self._mark_catalogue(served, context, unknown)
        similar = self._similar(served, table, context, slots, unknown)
        self._count(served, pair_matrix(table, slots, context, similar), unknown.mask_NF)

    def _user(self, served: Served, unknown: "_Unknown") -> UserState:
        if not served.rows_were_read:
            unknown.columns(_OF_USER | _OF_MODEL, "the store did not answer in time")
            return UserState()
        contained = served.ranking.contained[USER.name]
        state = None if self._trouble & contained.keys() else self._rows.user(served)
        if state is None:
            unknown.columns(_OF_USER | _OF_MODEL, "the log no longer holds what the row was made of")
            return UserState()
        return UserState() if USER.is_stale(state.as_of_ms, served.ranking.event_ts_ms) else state

    def _targets(self, served: Served, unknown: "_Unknown") -> dict[RowName, Any]:
        targets: dict[RowName, Any] = {}
        for name, contained in served.target_rows().items():
            if name[0] == ITEM.name:
                continue
            family = next(one for one in (QUERY, SOURCE_ITEM, COUNTRY) if one.name == name[0])
            columns = _OF_ROW[family.name]
            if family is SOURCE_ITEM:
                is_own = name[1] == served.ranking.source_item_id
                columns = columns | _OF_SESSION_ROWS if is_own else _OF_SESSION_ROWS
            state = None if self._trouble & contained.keys() else self._rows.target(name, contained)
            if not served.rows_were_read:
                unknown.columns(columns, "the store did not answer in time")
            elif state is None:
                unknown.columns(columns, "the log no longer holds what the row was made of")
            elif contained and not family.is_stale(state.as_of_ms, served.ranking.event_ts_ms):
                targets[name] = state
        return targets

    def _item(self, served: Served, item_id: str, unknown: "_Unknown") -> ItemState:
        contained = served.ranking.contained.get(f"{OF_ITEM}{item_id}", {})
        state = None if self._trouble & contained.keys() else self._rows.target((ITEM.name, item_id), contained)
        if state is None:
            unknown.item(item_id, _OF_ROW[ITEM.name], "the log no longer holds what the row was made of")
            return ItemState()
        return ItemState() if ITEM.is_stale(state.as_of_ms, served.ranking.event_ts_ms) else state

    def _mark_catalogue(self, served: Served, context: Context, unknown: "_Unknown") -> None:
        why = "the title has changed since"
        changed = self._catalogue.changed_since(served.ranking.event_ts_ms)
        if not self._catalogue.is_known and served.ranking.model != WITHOUT_MODEL:
            unknown.columns(_OF_TITLE | _OF_GENRES, "there is no catalogue")
        for item_id in changed.intersection(served.item_ids):
            unknown.item(item_id, _OF_TITLE | _OF_GENRES, why)
        if changed & {served.ranking.source_item_id or "", *context.title_weights}:
            unknown.columns(_OF_GENRES, why)

    def _similar(
        self, served: Served, table: ItemTable, context: Context, slots: Slots, unknown: "_Unknown"
    ) -> Similarities | None:
        if served.ranking.model == WITHOUT_MODEL:
            return None
        similar = self._similarities and self._similarities(served.ranking.model, table, context, slots)
        if similar is None:
            unknown.columns(_OF_MODEL, f"the model {served.ranking.model} is not at hand")
        return similar

    def _count(self, served: Served, replayed_NF: NDArray[np.float32], unknown_NF: Mask) -> None:
        logged = served.features_NF.astype(np.float64)
        gaps = np.abs(logged - replayed_NF)
        bound = ABSOLUTE + RELATIVE * np.maximum(np.abs(logged), np.abs(replayed_NF))
        differing = ~(gaps <= bound) & ~unknown_NF
        report = self._report
        report.rankings += 1
        report.compared += (~unknown_NF).sum(axis=0)
        report.differing += differing.sum(axis=0)
        report.largest = np.maximum(report.largest, np.where(differing, gaps, 0.0).max(axis=0))
        for row, column in np.argwhere(differing)[: max(0, SHOWN_EXAMPLES - len(report.examples))].tolist():
            values = float(logged[row, column]), float(replayed_NF[row, column])
            report.examples.append(SkewExample(served.name, served.item_ids[row], COLUMN_NAMES[column], *values))


class _Unknown:
    """Which values of one ranking cannot be compared."""

    def __init__(self, served: Served, report: SkewReport) -> None:
        self.mask_NF: Mask = np.zeros(served.features_NF.shape, np.bool_)
        self._index = {item_id: index for index, item_id in enumerate(served.item_ids)}
        self._report = report

    def columns(self, columns: Mask, why: str) -> None:
        """These columns of all items."""
        self._mark(np.broadcast_to(columns, self.mask_NF.shape), why)

    def item(self, item_id: str, columns: Mask, why: str) -> None:
        """These columns of one item."""
        marked = np.zeros_like(self.mask_NF)
        marked[self._index[item_id]] = columns
        self._mark(marked, why)

    def _mark(self, marked: Mask, why: str) -> None:
        self._report.not_compared[why] += int((marked & ~self.mask_NF).sum())
        self.mask_NF |= marked
