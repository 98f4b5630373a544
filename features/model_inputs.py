"""Model inputs: the request side of UniCoRn as fixed-size arrays, the same for training and serving.

Enters: the item table and a `Context`. Leaves: arrays without a batch axis; items are slots of the table (0: none).
Called by the scorer and the replay. `pack_inputs` is their form in the log of rankings, for `nowrank reproduce`.
"""

from math import log1p
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.engagement import Task
from features.item_table import ItemTable
from features.tokens import country_token, query_tokens
from features.vector import HISTORY_TITLES, Context

QUERY_TOKENS = 24
SESSION_EVENTS = 20
DAYPARTS = 4


class RequestInputs(NamedTuple):
    """One request. L = SESSION_EVENTS, T = HISTORY_TITLES, Q = QUERY_TOKENS; sequences are padded with slot 0 at the
    end.
    """

    task: int
    country: int
    daypart: int
    query_tokens_Q: NDArray[np.int64]
    query_flags_2: NDArray[np.float32]
    source_slot: int
    session_slots_L: NDArray[np.int64]
    session_kinds_L: NDArray[np.int64]
    session_gaps_L: NDArray[np.float32]
    history_slots_T: NDArray[np.int64]
    history_weights_T: NDArray[np.float32]


def request_inputs(table: ItemTable, context: Context) -> RequestInputs:
    """The request side of the model for one context.

    Missing context is imputed as in the paper: more-like-this gets its source's title as the query, search has the null
    source. `query_flags` are the query's length over QUERY_TOKENS and whether it was imputed; a session's gap is log1p
    of the seconds from an event to `now_ms`.
    """
    source_slot = table.slot_by_id.get(context.source_item_id or "", 0)
    imputed = not context.query and context.task is Task.MORE_LIKE_THIS and source_slot > 0
    text = table.titles[source_slot] if imputed else context.query or ""
    tokens = query_tokens(text, QUERY_TOKENS)
    session = [moment for moment in context.session if moment.item_id in table.slot_by_id][-SESSION_EVENTS:]
    history = [
        (table.slot_by_id[item_id], weight)
        for item_id, weight in context.heaviest_titles
        if item_id in table.slot_by_id
    ]
    return RequestInputs(
        task=int(context.task),
        country=country_token(context.country),
        daypart=context.now_ms // 3_600_000 % 24 * DAYPARTS // 24,
        query_tokens_Q=_padded(tokens, QUERY_TOKENS, np.int64),
        query_flags_2=np.array([len(tokens) / QUERY_TOKENS, float(imputed)], np.float32),
        source_slot=source_slot,
        session_slots_L=_padded([table.slot_by_id[moment.item_id] for moment in session], SESSION_EVENTS, np.int64),
        session_kinds_L=_padded([moment.kind for moment in session], SESSION_EVENTS, np.int64),
        session_gaps_L=_padded(
            [log1p(max(0, context.now_ms - moment.event_ts_ms) / 1000) for moment in session],
            SESSION_EVENTS,
            np.float32,
        ),
        history_slots_T=_padded([slot for slot, _ in history], HISTORY_TITLES, np.int64),
        history_weights_T=_padded([weight for _, weight in history], HISTORY_TITLES, np.float32),
    )


class _Packed(msgspec.Struct, frozen=True, array_like=True):
    """`RequestInputs` without padding, items by id, floats as float32 bytes."""

    task: int
    country: int
    daypart: int
    query_tokens: list[int]
    query_flags: bytes
    source_item_id: str
    session_item_ids: list[str]
    session_kinds: list[int]
    session_gaps: bytes
    history_item_ids: list[str]
    history_weights: bytes


def pack_inputs(table: ItemTable, inputs: RequestInputs) -> bytes:
    """One request's inputs in a form that needs no table to keep: some 10 bytes an item."""
    session, history = (slots[slots > 0] for slots in (inputs.session_slots_L, inputs.history_slots_T))
    tokens = inputs.query_tokens_Q
    return msgspec.msgpack.encode(
        _Packed(
            inputs.task,
            inputs.country,
            inputs.daypart,
            tokens[tokens > 0].tolist(),
            inputs.query_flags_2.tobytes(),
            table.ids[inputs.source_slot],
            [table.ids[slot] for slot in session.tolist()],
            inputs.session_kinds_L[: len(session)].tolist(),
            inputs.session_gaps_L[: len(session)].tobytes(),
            [table.ids[slot] for slot in history.tolist()],
            inputs.history_weights_T[: len(history)].tobytes(),
        )
    )


def unpack_inputs(table: ItemTable, packed: bytes) -> RequestInputs:
    """What `pack_inputs` was given, bit for bit, with the slots of this table; items that it lacks get one."""
    found = msgspec.msgpack.decode(packed, type=_Packed)

    def slots(item_ids: list[str]) -> list[int]:
        return [table.slot(item_id) for item_id in item_ids]

    return RequestInputs(
        task=found.task,
        country=found.country,
        daypart=found.daypart,
        query_tokens_Q=_padded(found.query_tokens, QUERY_TOKENS, np.int64),
        query_flags_2=np.frombuffer(found.query_flags, np.float32),
        source_slot=table.slot(found.source_item_id) if found.source_item_id else 0,
        session_slots_L=_padded(slots(found.session_item_ids), SESSION_EVENTS, np.int64),
        session_kinds_L=_padded(found.session_kinds, SESSION_EVENTS, np.int64),
        session_gaps_L=_padded(np.frombuffer(found.session_gaps, np.float32).tolist(), SESSION_EVENTS, np.float32),
        history_slots_T=_padded(slots(found.history_item_ids), HISTORY_TITLES, np.int64),
        history_weights_T=_padded(
            np.frombuffer(found.history_weights, np.float32).tolist(), HISTORY_TITLES, np.float32
        ),
    )


def _padded(values: list[int] | list[float], length: int, dtype: type) -> NDArray[Any]:
    array: NDArray[Any] = np.zeros(length, dtype)
    array[: len(values)] = values
    return array
