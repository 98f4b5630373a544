"""The served log: what was answered, what became of it, and the events around it, read back for training.

Enters: settings, or the pieces themselves. Leaves: a `ServedLog`. Called by `nowrank train --from served` and `nowrank
promote --from served`.

The labels are those of the topic `labels`, if the stage of that name has written any; otherwise the log is joined here,
by the same function. A ranking is taken once its window is over, by the log's own newest time.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from features.catalogue import Item
from features.probe import is_probe
from infra.errors import InvalidEvent
from infra.settings import Settings
from streams.audit.log_reader import LogReader
from streams.audit.skew_catalogue import LoggedCatalogue
from streams.events import Engaged, Ranking, decode_record
from streams.shown_labels import LogJoin, RankingLabels, decode_labels, newest_labels
from streams.topics import EVENT_TOPICS, LABELS

TOPIC, JOINED = "topic", "joined"


class LabelledRanking(NamedTuple):
    """An answer and what became of it."""

    ranking: Ranking
    labels: RankingLabels


@dataclass(frozen=True, slots=True)
class ServedLog:
    """Titles, settled rankings in the order of their times, and every engagement in the order of its time.

    `left_out` counts rankings by the reason why they are not here.
    """

    items: list[Item]
    rankings: list[LabelledRanking]
    events: list[Engaged]
    labels_from: str = JOINED
    left_out: Counter[str] = field(default_factory=Counter)


def read_served_log(settings: Settings, *, join_again: bool = False) -> ServedLog:
    """Everything that the log holds; raises `BrokerUnavailable`. `join_again`: do not read the topic `labels`."""
    joined, newest_ms = LogJoin(settings.future_limit_s * 1000), 0
    rankings: dict[str, Ranking] = {}
    events: list[Engaged] = []
    with LogReader(settings) as reader:
        items = [item for item in LoggedCatalogue(reader).table.items if item is not None]
        for span in reader.spans(EVENT_TOPICS).values():
            for record in reader.read_span(span):
                try:
                    event = decode_record(record.topic, record.value)
                    joined.add_event(event, record.broker_ts_ms)
                except InvalidEvent:
                    continue
                newest_ms = max(newest_ms, record.broker_ts_ms)
                if isinstance(event, Ranking):
                    rankings.setdefault(event.ranking_id, event)
                elif not is_probe(event.item_id):
                    events.append(event)
        written = {} if join_again else _read_labels(reader)
    labels = written or joined.labels(settings.label_window_s * 1000)
    settled_ms = newest_ms - settings.label_window_s * 1000
    return settle(items, list(rankings.values()), events, labels, settled_ms, TOPIC if written else JOINED)


def settle(
    items: list[Item],
    rankings: list[Ranking],
    events: list[Engaged],
    labels: dict[str, RankingLabels],
    settled_ms: int,
    labels_from: str = JOINED,
) -> ServedLog:
    """The rankings up to `settled_ms` with their labels, and what is left out."""
    left_out: Counter[str] = Counter()
    taken = []
    for ranking in rankings:
        found = labels.get(ranking.ranking_id)
        if ranking.event_ts_ms > settled_ms:
            left_out["its window is not over"] += 1
        elif found is None:
            left_out["it has no label"] += 1
        elif not ranking.items:
            left_out["it shows nothing"] += 1
        else:
            taken.append(LabelledRanking(ranking, found))
    taken.sort(key=lambda one: (one.ranking.event_ts_ms, one.ranking.ranking_id))
    events.sort(key=lambda event: event.event_ts_ms)
    return ServedLog(items, taken, events, labels_from, left_out)


def _read_labels(reader: LogReader) -> dict[str, RankingLabels]:
    found = []
    for span in reader.spans([LABELS]).values():
        for record in reader.read_span(span):
            try:
                found.append(decode_labels(record.value))
            except (msgspec.DecodeError, msgspec.ValidationError):
                continue
    return newest_labels(found)
