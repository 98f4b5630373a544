"""The `session` view: what the user is doing now.

Enters: a user's state. Leaves: the view's values, and the session derived from the newest engagements. Called by stage
1 and `vector.py`.
"""

from itertools import islice
from typing import Any

import msgspec

from features.engagement import Kind
from features.spec import DType, FeatureSpec, ViewSpec, packed_spec
from features.user import Moment, UserState

SHOWN = 50
SHOWN_QUERIES = 5
GAP_MS = 30 * 60 * 1000
_KINDS = (int(Kind.CLICK), int(Kind.PLAY), int(Kind.THUMB))


def current_session(recent: list[Moment], now_ms: int) -> list[Moment]:
    """The engagements of the session that is open at `now_ms`, oldest first; empty when the last one is GAP_MS old or
    older.
    """
    begin, next_ms = len(recent), now_ms
    while begin > 0 and next_ms - recent[begin - 1].event_ts_ms < GAP_MS:
        begin -= 1
        next_ms = recent[begin].event_ts_ms
    return recent[begin:]


def newest_titles(session: list[Moment], count: int) -> list[str]:
    """The last `count` different titles of a session, the newest first."""
    return list(islice(dict.fromkeys(moment.item_id for moment in reversed(session)), count))


def last_queries(recent: list[Moment]) -> list[str]:
    """The last SHOWN_QUERIES different queries, the newest first."""
    return list(dict.fromkeys(moment.query for moment in reversed(recent) if moment.query))[:SHOWN_QUERIES]


def _values(state: UserState) -> tuple[Any, ...]:
    shown = state.recent[-SHOWN:]
    session = current_session(state.recent, state.as_of_ms)
    kinds = [moment.kind for moment in session]
    return (
        [moment.item_id for moment in shown],
        [moment.kind for moment in shown],
        [moment.event_ts_ms for moment in shown],
        [moment.query or "" for moment in shown],
        *(kinds.count(kind) for kind in _KINDS),
        state.as_of_ms - session[0].event_ts_ms if session else 0,
        last_queries(state.recent),
        state.as_of_ms,
        msgspec.msgpack.encode(state.recents),
    )


VIEW = ViewSpec(
    name="session",
    entity="user",
    join_key="user_id",
    ttl_s=24 * 3600,
    features=(
        FeatureSpec("session_items", DType.STRINGS, [], f"titles of the last {SHOWN} engagements, oldest first"),
        FeatureSpec("session_kinds", DType.INT64S, [], "their kinds: 1 click, 2 play, 3 thumb"),
        FeatureSpec("session_event_ts_ms", DType.INT64S, [], "their event times"),
        FeatureSpec("session_queries", DType.STRINGS, [], "the normalised query that each came from, or ''"),
        FeatureSpec("session_clicks", DType.INT64, 0, "clicks in the session of the newest engagement"),
        FeatureSpec("session_plays", DType.INT64, 0, "plays in that session"),
        FeatureSpec("session_thumbs", DType.INT64, 0, "thumbs in that session"),
        FeatureSpec("session_length_ms", DType.INT64, 0, "from its first engagement to the newest"),
        FeatureSpec("session_last_queries", DType.STRINGS, [], f"the last {SHOWN_QUERIES} queries, newest first"),
        FeatureSpec(
            "session_as_of_ms", DType.INT64, 0, "event time of the newest engagement; now minus this is the idle time"
        ),
        packed_spec("session"),
    ),
    values=_values,
    doc="the newest engagements of a user; a session is the tail without a gap of 30 minutes",
)
