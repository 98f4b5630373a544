"""The engagement: one normalised record of who did what to which target, in which context, when.

Enters: values that `streams.events` has validated. Leaves: `Engagement` and `Coordinate`. Read by every fold.
"""

from enum import IntEnum
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta


class Kind(IntEnum):
    """What happened. The numbers are stored in rows: never reuse one."""

    IMPRESSION = 0
    CLICK = 1
    PLAY = 2
    THUMB = 3


class Thumb(IntEnum):
    """A thumb's statement. The numbers are stored in rows: never reuse one."""

    NONE = 0
    UP = 1
    DOUBLE_UP = 2
    DOWN = -1


class Task(IntEnum):
    """What the member was doing. The numbers are inputs of the model: never reuse one."""

    PRE_QUERY = 0
    SEARCH = 1
    MORE_LIKE_THIS = 2


TASK_NAMES = {"pre_query": Task.PRE_QUERY, "search": Task.SEARCH, "more_like_this": Task.MORE_LIKE_THIS}

# As rows hold them; the numbers have no gaps, and an impression is no engagement that is remembered.
EngagedKind = Annotated[int, Meta(ge=int(Kind.CLICK), le=int(max(Kind)))]
ThumbNumber = Annotated[int, Meta(ge=int(min(Thumb)), le=int(max(Thumb)))]
ReactionValue = Annotated[int, Meta(ge=int(min(Thumb)), le=100)]  # a thumb, or the watched share in percent

COMPLETED_SHARE = 0.9


class Coordinate(NamedTuple):
    """Where a record stands in its log: the topic-partition as `topic-partition`, and the offset in it."""

    log: str
    offset: int


class Engagement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One engagement; `event_ts_ms` is clamped to `ingested_ts_ms`, the record's broker timestamp; `query` is
    normalised or None.
    """

    kind: Kind
    event_id: str
    user_id: str
    event_ts_ms: int
    ingested_ts_ms: int
    item_id: str
    query: str | None = None
    source_item_id: str | None = None
    country: str | None = None
    watched_ms: int = 0
    duration_ms: int = 0
    thumb: Thumb = Thumb.NONE
    impressions: tuple[str, ...] = ()

    @property
    def watched_share(self) -> float:
        """The share of the title that was watched, in [0, 1]; 0 when the duration is unknown."""
        return min(1.0, self.watched_ms / self.duration_ms) if self.duration_ms > 0 else 0.0

    @property
    def completed(self) -> bool:
        """Whether a play reached COMPLETED_SHARE of the title."""
        return self.watched_share >= COMPLETED_SHARE
