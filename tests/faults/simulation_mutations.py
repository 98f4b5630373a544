"""Broken rules: for each, a small patch of the apply code or of the store, under which rows must stop being exact.

Enters: the name of a rule. Leaves: a context in which it is broken. Called by `test_simulation.py`: a simulation that
does not notice a broken rule proves nothing about it.
"""

import asyncio
import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest import mock

import features.item
import features.online_store
import features.user
import streams.session_agent
import tests.faults.simulation_worker
from features.decay import DAY_MS
from features.engagement import Coordinate, Engagement
from features.online_store import FencedStore, Row
from features.rows import FOLDS, USER
from features.user import Folded, UserState, fold_user
from streams.checkpoints import Checkpoint
from streams.deltas import SourcedDelta, encode_deltas, partition_of
from streams.session_agent import STAGE as SESSION_STAGE
from streams.session_agent import Decoded, SessionStage
from streams.stage import RowCache, move_checkpoints
from streams.target_agent import RowDeltas, TargetStage
from tests.faults.simulation_network import CallFailed
from tests.faults.simulation_poison import breaking
from tests.faults.simulation_store import SimulatedConnection, SimulatedRedis
from tests.faults.simulation_worker import Worker

Patch = Callable[[], AbstractContextManager[Any]]
EMPTIED = {"empty": 3.0}
CALM = {"gap": 0.0, "empty": 0.0, "rollback": 0.0, "crash": 0.0, "lose": 0.0}
BACK = {"snapshot": 3.0, "rollback": 3.0}


class Rule(NamedTuple):
    """How a rule is broken, and the faults against which it protects."""

    break_it: Patch
    faults: Mapping[str, float] = MappingProxyType({})


def patched(target: Any, name: str, new: Any) -> Patch:
    """A patch of one attribute."""
    return lambda: mock.patch.object(target, name, new)


def _write_without_compare(server: SimulatedRedis, keys: list[bytes], args: list[Any]) -> int:
    server.check_fence(keys, args)
    server.set_fields(keys[1], args[3:])
    return 1


def _without_fence(script: str) -> Patch:
    real = getattr(SimulatedRedis, script)

    def unfenced(server: SimulatedRedis, keys: list[bytes], args: list[Any]) -> Any:
        with mock.patch.object(server, "check_fence"):
            return real(server, keys, args)

    return patched(SimulatedRedis, script, unfenced)


def _is_new_by_offset(checkpoint: Checkpoint, sourced: SourcedDelta) -> bool:
    is_new = sourced.offset > checkpoint.highest.get(sourced.log, (-1, -1))[0]
    if is_new:
        checkpoint.highest[sourced.log] = (sourced.offset, sourced.ordinal)
    return is_new


def _fold_by_stored_window(stage: SessionStage, decoded: list[Decoded]) -> Any:
    users = {one.engagement.user_id for one in decoded}
    stored = {user_id: copy.deepcopy(stage._cache.get(USER, user_id).state.seen) for user_id in users}

    def fold(state: UserState, coordinate: Coordinate, engagement: Engagement) -> Folded:
        window = state.seen.get(coordinate.log, [])
        state.seen[coordinate.log] = list(stored[engagement.user_id].get(coordinate.log, []))
        folded = fold_user(state, coordinate, engagement)
        if not folded.duplicate:
            window = [*window, state.seen[coordinate.log][-1]][-features.user.SEEN_CAPACITY :]
        state.seen[coordinate.log] = window
        return folded

    with mock.patch.object(streams.session_agent, "fold_user", breaking(fold)):
        return _REAL_FOLD(stage, decoded)


def _fold_with_shared_window(state: UserState, coordinate: Coordinate, engagement: Engagement) -> Folded:
    state.seen = {coordinate.log: state.seen.get("all", [])}
    folded = fold_user(state, coordinate, engagement)
    state.seen = {"all": state.seen[coordinate.log]}
    return folded


def _shared_window() -> AbstractContextManager[Any]:
    """In the stage and in the oracle: the rule is that no order of the logs may matter."""
    patches = ExitStack()
    for module in (streams.session_agent, features.user):
        patches.enter_context(mock.patch.object(module, "fold_user", _fold_with_shared_window))
    return patches


async def _send_without_waiting(worker: Worker, deltas: list[SourcedDelta]) -> int:
    worker._network.loop.create_task(_REAL_SEND(worker, deltas))
    return len(deltas)


async def _send_all_at_once(deltas: Iterable[SourcedDelta], partitions: int, send: Any) -> int:
    sends = [send(partition_of(one.delta, partitions), encode_deltas([one])) for one in deltas]
    await asyncio.gather(*sends)
    return len(sends)


def _sends_go_on() -> AbstractContextManager[Any]:
    real = Worker.call

    def call(worker: Worker, kind: str, action: Callable[[], Any]) -> Any:
        async def or_nothing() -> Any:
            try:
                return await real(worker, kind, action)
            except CallFailed:
                return None

        return or_nothing() if kind == "send" else real(worker, kind, action)

    return mock.patch.object(Worker, "call", call)


async def _checkpoint_then_write(stage: SessionStage, decoded: list[Decoded], changed: list[str]) -> None:
    await move_checkpoints(stage._store, SESSION_STAGE, stage.checkpoints, [one.record for one in decoded])
    await _REAL_WRITE(stage, decoded, changed)


def _begin_without_repeats(stage: TargetStage, checkpoints: dict[str, Checkpoint]) -> None:
    for checkpoint in checkpoints.values():
        checkpoint.highest.clear()
    _REAL_BEGIN(stage, checkpoints)


def _begin_with_old_cache(stage: SessionStage, checkpoints: dict[str, Checkpoint]) -> None:
    stage.checkpoints = checkpoints


def _refold_delta_by_delta(row: Row, own: RowDeltas) -> bool:
    before = dict(row.contained)
    for record, delta in own.deltas:
        if row.contained.get(record.log, -1) < record.offset:
            FOLDS[delta.entity](row.state, delta)
            row.contained[record.log] = record.offset
    return row.contained != before


async def _reload_without_looking(cache: RowCache, family: Any, value: str) -> Row:
    """The row that was refused, as if it were the one in the store."""
    row = cache.get(family, value)
    fresh = (await cache._store.call(FencedStore.read_rows, family, [value]))[0]
    row.stored = fresh.stored
    return row


_REAL_FOLD, _REAL_WRITE, _REAL_SEND, _REAL_BEGIN = (
    SessionStage._fold,
    SessionStage._write,
    Worker._send_deltas,
    TargetStage.begin,
)
RULES: dict[str, Rule] = {
    "a write compares what it has read (13)": Rule(patched(SimulatedRedis, "write_script", _write_without_compare)),
    "a refused write reloads the row (13)": Rule(patched(RowCache, "reload", _reload_without_looking)),
    "every call checks the fence (14)": Rule(patched(SimulatedRedis, "check_fence", lambda *_: None), EMPTIED),
    "a read checks the fence (14)": Rule(
        _without_fence("read_script"), CALM | {"empty": 2.0, "join": 3.0, "rebalance": 6.0, "pipeline": 0.0}
    ),
    "a checkpoint checks the fence (14)": Rule(_without_fence("move_script"), EMPTIED),
    "a client never reconnects (14)": Rule(patched(SimulatedConnection, "is_broken", property(lambda _: False)), BACK),
    "a repeat is judged by offset and ordinal (11)": Rule(
        patched(TargetStage, "_is_new", staticmethod(_is_new_by_offset))
    ),
    "the repeats are part of the checkpoint (16)": Rule(patched(TargetStage, "begin", _begin_without_repeats)),
    "duplicates are judged on the working copy (4)": Rule(patched(SessionStage, "_fold", _fold_by_stored_window)),
    "every log has its own window (4)": Rule(_shared_window),
    "deltas are acknowledged before rows are written (15)": Rule(
        patched(Worker, "_send_deltas", _send_without_waiting)
    ),
    "one message of a partition is under way (10)": Rule(
        patched(tests.faults.simulation_worker, "send_deltas", _send_all_at_once)
    ),
    "an unknown outcome ends the process (10)": Rule(_sends_go_on, {"lose": 10.0}),
    "rows are written before the checkpoint (15)": Rule(patched(SessionStage, "_write", _checkpoint_then_write)),
    "an assignment begins with an empty cache (17)": Rule(
        patched(SessionStage, "begin", _begin_with_old_cache), CALM | {"join": 6.0, "rebalance": 6.0}
    ),
    "a message's deltas for a row are one write (12)": Rule(
        patched(TargetStage, "_refold", staticmethod(_refold_delta_by_delta))
    ),
    "Redis drops only what is empty by the fold's rule (8)": Rule(
        patched(features.online_store, "_expire_ms", lambda family: family.retention_ms - 60 * DAY_MS), {"gap": 3.0}
    ),
    "a fold forgets what was idle for too long (8)": Rule(
        patched(features.item, "RETENTION_MS", 1 << 60), {"gap": 3.0}
    ),
}
