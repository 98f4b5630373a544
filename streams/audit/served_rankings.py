"""What was served: the last rankings of the log, with their features and the offsets that they were made from.

Enters: a `LogReader`. Leaves: `Served`. Called by `skew`.
"""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from features.engagement import TASK_NAMES
from features.rows import COUNTRY, ITEM, QUERY, SOURCE_ITEM
from features.text import normalise_query
from features.vector import COLUMN_NAMES, Context, Matrix
from infra.errors import InvalidEvent
from streams.audit.log_reader import LogReader
from streams.audit.recompute import RowName
from streams.events import OF_ITEM, OF_SESSION, Ranking, decode_record
from streams.log_records import Record
from streams.topics import RANKINGS

WIDTH = len(COLUMN_NAMES)
FLOAT_BYTES = 4


class Served(NamedTuple):
    """One logged ranking: its name in the log, itself, and the ids and features (N, F) of the items that have them."""

    name: str
    ranking: Ranking
    item_ids: list[str]
    features_NF: Matrix

    @property
    def query(self) -> str | None:
        """The normalised query, None where there is none."""
        return normalise_query(self.ranking.query or "") or None

    @property
    def rows_were_read(self) -> bool:
        """Whether the store answered this request in time; what is missing there counts as read."""
        return "user" in self.ranking.contained

    def read_rows_of(self, titles: list[str]) -> bool:
        """Whether the source rows of these titles were read, or looked for."""
        return all(f"{OF_SESSION}{title}" in self.ranking.contained for title in titles)

    def target_rows(self) -> dict[RowName, dict[str, int]]:
        """The target rows that this ranking was made from, and the offsets that each contained; none, if it had no
        row.
        """
        ranking = self.ranking
        keys = ((QUERY, self.query), (SOURCE_ITEM, ranking.source_item_id), (COUNTRY, ranking.country))
        rows = {(family.name, key): ranking.contained.get(family.name, {}) for family, key in keys if key}
        of_session = {
            (SOURCE_ITEM.name, title): offsets
            for name, offsets in ranking.contained.items()
            if (title := name.removeprefix(OF_SESSION)) != name
        }
        items = {(ITEM.name, item_id): ranking.contained.get(f"{OF_ITEM}{item_id}", {}) for item_id in self.item_ids}
        return {**rows, **of_session, **items}

    def context(self, user: object, targets: dict[RowName, Any]) -> Context:
        """The context of the request, with these rows."""
        ranking = self.ranking
        return Context(
            task=TASK_NAMES[ranking.task],
            now_ms=ranking.event_ts_ms,
            user=user,  # type: ignore[arg-type]
            query=self.query,
            source_item_id=ranking.source_item_id,
            country=ranking.country,
            query_targets=targets.get((QUERY.name, self.query or "")),
            source_rows={key: row for (family, key), row in targets.items() if family == SOURCE_ITEM.name},
            country_targets=targets.get((COUNTRY.name, ranking.country or "")),
            priors=tuple(ranking.priors),
        )


def read_served(reader: LogReader, last: int) -> tuple[list[Served], Counter[str]]:
    """The last rankings with features, oldest first, and how many among them cannot be compared, by reason.

    Looks further and further back: rankings that a backfill brings have no features.
    """
    spans = reader.spans([RANKINGS]).values()
    back, is_whole = last, False
    while not is_whole:
        found, begins_ms = [], [0]
        for span in spans:
            records = list(reader.read_span(span, span.end - back))
            found += [pair for record in records if (pair := _with_features(record)) is not None]
            if records and span.end - back > span.first:
                begins_ms.append(records[0].broker_ts_ms)
        found.sort(key=lambda pair: pair[0].broker_ts_ms)
        # Nothing that was not read may be newer than what is taken.
        is_whole = len(begins_ms) == 1 or (len(found) >= last and found[-last][0].broker_ts_ms >= max(begins_ms))
        back *= 4
    reasons = [_why_not(ranking) for _, ranking in found[-last:]]
    served = [_to_served(*pair) for pair, why in zip(found[-last:], reasons, strict=True) if why is None]
    return served, Counter(why for why in reasons if why is not None)


def _with_features(record: Record) -> tuple[Record, Ranking] | None:
    try:
        event = decode_record(record.topic, record.value)
    except InvalidEvent:
        return None
    return (record, event) if isinstance(event, Ranking) and any(item.features for item in event.items) else None


def _why_not(ranking: Ranking) -> str | None:
    """Why the features of a ranking cannot be compared."""
    if any(len(item.features) not in (0, FLOAT_BYTES * WIDTH) for item in ranking.items):
        return "rankings with features of another schema"
    return "rankings whose scores a cluster shares" if ranking.shared else None


def _to_served(record: Record, ranking: Ranking) -> Served:
    items = [item for item in ranking.items if item.features]
    features_NF = np.frombuffer(b"".join(item.features for item in items), np.float32).reshape(-1, WIDTH)
    return Served(f"{record.log}-{record.offset}", ranking, [item.item_id for item in items], features_NF)
