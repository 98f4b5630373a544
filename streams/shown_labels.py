"""Labels of logged rankings: what became of each answer that was shown, and the join that says so.

Enters: a user's row of the stage `labels`; or the records of the log. Leaves: `RankingLabels`, for the topic `labels`
or for training. Called by `label_agent.py`, and by whoever joins the log itself: both by `features.shown.join`.

A label's id is its ranking's. The one of the highest `version` holds; the same version is the same label.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Literal

import msgspec

from features.engagement import Kind, Thumb
from features.shown import (
    ItemOutcome,
    ListOutcome,
    Reaction,
    ShownList,
    ShownState,
    join,
    join_state,
    to_list,
    to_reaction,
)
from infra.errors import InvalidEvent
from streams.events import FUTURE_LIMIT_MS, Engaged, Ranking, decode_record, to_engagement
from streams.log_records import Record

ThumbName = Literal["up", "double_up", "down", "none"]
_THUMB_NAMES: dict[int, ThumbName] = {
    int(Thumb.UP): "up",
    int(Thumb.DOUBLE_UP): "double_up",
    int(Thumb.DOWN): "down",
    int(Thumb.NONE): "none",
}


class ItemLabel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a member did with one shown title; `thumb` is the newest one."""

    item_id: str
    clicked: bool = False
    watched_percent: int | None = None
    thumb: ThumbName | None = None

    @property
    def is_positive(self) -> bool:
        """Clicked, played or thumbed up, and not thumbed down."""
        if self.thumb == "down":
            return False
        return self.clicked or self.watched_percent is not None or self.thumb in ("up", "double_up")


class RankingLabels(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one ranking; a shown title that `items` does not name got nothing."""

    ranking_id: str
    user_id: str
    event_ts_ms: int
    version: int
    items: list[ItemLabel]

    @property
    def positives(self) -> set[str]:
        """The ids of the titles that count as positive."""
        return {item.item_id for item in self.items if item.is_positive}


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(RankingLabels)


def encode_labels(labels: RankingLabels) -> bytes:
    """The record's value on the topic `labels`; its key is the ranking's id."""
    return _ENCODER.encode(labels)


def decode_labels(value: bytes | None) -> RankingLabels:
    """The labels in a record; raises `msgspec.DecodeError` or `msgspec.ValidationError`."""
    return _DECODER.decode(value or b"")


def newest_labels(found: Iterable[RankingLabels]) -> dict[str, RankingLabels]:
    """Of each ranking the labels that hold."""
    newest: dict[str, RankingLabels] = {}
    for labels in found:
        if labels.ranking_id not in newest or labels.version > newest[labels.ranking_id].version:
            newest[labels.ranking_id] = labels
    return newest


def labels_of_row(user_id: str, state: ShownState, window_ms: int) -> dict[str, RankingLabels]:
    """The labels of every ranking that a row remembers."""
    return {ranking_id: to_labels(user_id, outcome) for ranking_id, outcome in join_state(state, window_ms).items()}


def to_labels(user_id: str, outcome: ListOutcome) -> RankingLabels:
    """What became of a list, in the form of the topic; titles in the order of their ids."""
    return RankingLabels(
        ranking_id=outcome.shown.ranking_id,
        user_id=user_id,
        event_ts_ms=outcome.shown.event_ts_ms,
        version=outcome.version,
        items=[_item_label(item_id, outcome.items[item_id]) for item_id in sorted(outcome.items)],
    )


class LogJoin:
    """The same join over records of the log in any order, nothing forgotten."""

    def __init__(self, future_limit_ms: int = FUTURE_LIMIT_MS) -> None:
        self._future_limit_ms = future_limit_ms
        self._lists: dict[str, dict[str, ShownList]] = defaultdict(dict)
        self._reactions: dict[str, dict[tuple[int, int], Reaction]] = defaultdict(dict)

    def add(self, record: Record) -> None:
        """Take a record; one that is no event is skipped, as the stages do."""
        try:
            self.add_event(decode_record(record.topic, record.value), record.broker_ts_ms)
        except InvalidEvent:
            return

    def add_event(self, event: Engaged | Ranking, broker_ts_ms: int) -> None:
        """Take an event; of the same id the first one stays. Raises `InvalidEvent`."""
        engagement = to_engagement(event, broker_ts_ms, self._future_limit_ms)
        if engagement.kind is Kind.IMPRESSION:
            self._lists[engagement.user_id].setdefault(engagement.event_id, to_list(engagement))
        else:
            reaction = to_reaction(engagement, named_ranking(event))
            self._reactions[engagement.user_id].setdefault((reaction.kind, reaction.id_hash), reaction)

    def labels(self, window_ms: int) -> dict[str, RankingLabels]:
        """The labels of every ranking, by its id."""
        return {
            ranking_id: to_labels(user_id, outcome)
            for user_id, lists in self._lists.items()
            for ranking_id, outcome in join(
                lists.values(), self._reactions.get(user_id, {}).values(), window_ms
            ).items()
        }


def named_ranking(event: Engaged | Ranking) -> str | None:
    """The ranking that an engagement says it came from."""
    return None if isinstance(event, Ranking) else event.ranking_id


def _item_label(item_id: str, item: ItemOutcome) -> ItemLabel:
    thumb = None if item.thumb is None else _THUMB_NAMES[item.thumb]
    return ItemLabel(item_id=item_id, clicked=item.clicked, watched_percent=item.watched_percent, thumb=thumb)
