"""The served log: what was answered, what became of it, and the events around it, read back for training.

Enters: settings, or the pieces themselves. Leaves: a `ServedLog`. Called by `nowrank train --from served` and `nowrank
promote --from served`.

A ranking's label is the one of the higher version of two: that of the topic `labels`, and that of the log as it is
joined here, by the same function. The stage `labels` may lag or be stopped; what the log has lost only the topic knows.
A ranking is taken once its window is over, by the log's own newest time.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
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

TOPIC, JOINED, BOTH = "topic", "joined", "topic and joined"
WINDOW_OPEN = "its window is not over"


class LabelledRanking(NamedTuple):
    """An answer and what became of it."""

    ranking: Ranking
    labels: RankingLabels


@dataclass(frozen=True, slots=True)
class ServedLog:
    """Titles, settled rankings in the order of their times, and every engagement in the order of its time.

    `labels_from` says where the labels of these rankings come from; `left_out` counts others by the reason why they are
    not here.
    """

    items: list[Item]
    rankings: list[LabelledRanking]
    events: list[Engaged]
    labels_from: str = JOINED
    left_out: Counter[str] = field(default_factory=Counter)


def read_served_log(settings: Settings, *, join_again: bool = False) -> ServedLog:
    """Everything that the log holds; raises `BrokerUnavailable`. `join_again`: do not read the topic `labels`."""
    joined, newest_ms = LogJoin(settings.future_limit_ms), 0
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
    labels = newest_labels([*written.values(), *joined.labels(settings.label_window_ms).values()])
    settled_ms = newest_ms - settings.label_window_ms
    served = settle(items, list(rankings.values()), events, labels, settled_ms)
    return replace(served, labels_from=_labels_from(served.rankings, written))


def settle(
    items: list[Item],
    rankings: list[Ranking],
    events: list[Engaged],
    labels: dict[str, RankingLabels],
    settled_ms: int,
) -> ServedLog:
    """The rankings up to `settled_ms` with their labels, and what is left out."""
    left_out: Counter[str] = Counter()
    taken = []
    for ranking in rankings:
        found = labels.get(ranking.ranking_id)
        if ranking.event_ts_ms > settled_ms:
            left_out[WINDOW_OPEN] += 1
        elif found is None:
            left_out["it has no label"] += 1
        elif found.user_id != ranking.user_id:
            left_out["its label is another member's, of the same ranking id"] += 1
        elif not ranking.items:
            left_out["it shows nothing"] += 1
        else:
            taken.append(LabelledRanking(ranking, found))
    taken.sort(key=lambda one: (one.ranking.event_ts_ms, one.ranking.ranking_id))
    events.sort(key=lambda event: event.event_ts_ms)
    return ServedLog(items, taken, events, left_out=left_out)


def _labels_from(rankings: list[LabelledRanking], written: dict[str, RankingLabels]) -> str:
    """Which labels hold: those of the topic (also where the join says the same), joined ones, or some of each."""
    are_written = {labels is written.get(ranking.ranking_id) for ranking, labels in rankings}
    return BOTH if len(are_written) > 1 else TOPIC if True in are_written else JOINED


def _read_labels(reader: LogReader) -> dict[str, RankingLabels]:
    found = []
    for span in reader.spans([LABELS]).values():
        for record in reader.read_span(span):
            try:
                found.append(decode_labels(record.value))
            except (msgspec.DecodeError, msgspec.ValidationError):
                continue
    return newest_labels(found)
