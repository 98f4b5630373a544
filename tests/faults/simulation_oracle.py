"""The simulation's oracle: what every row, the delta log and the checkpoints must be after all logs were folded.

Enters: a drained simulation. Leaves: a list of differences, empty when there are none. Called by `simulation_run.py`
and the state machine.

Three judges. A pure fold of the logs, with the real folds and nothing of the stages, gives every row byte for byte
(only `updated_ms` is left out: it counts writes). The deltas of that fold are what the delta log must hold once its
repeats are dropped. And plain counts, which share no code with the folds, give every title's totals.
"""

from collections.abc import Iterator
from typing import Any

from features import user as user_fold
from features.engagement import Coordinate
from features.online_store import CHECKPOINT_KEY, Row
from features.rows import (
    FAMILIES,
    FOLDS,
    ITEM,
    LOG_FIELD,
    TARGET_FAMILIES,
    USER,
    RowFamily,
    encode_row,
    value_in_key,
)
from features.user import UserState
from streams.checkpoints import Checkpoint, decode_checkpoints
from streams.deltas import SourcedDelta, decode_deltas, partition_of
from streams.events import decode_record, to_engagement
from streams.log_records import log_name
from streams.session_agent import STAGE as SESSION_STAGE
from streams.target_agent import STAGE as TARGET_STAGE
from streams.topics import DELTAS
from tests.faults.simulation_counts import different_counts
from tests.faults.simulation_logs import DELTA_PARTITIONS, EVENT_PARTITIONS, PARTITIONS, Logs
from tests.faults.simulation_poison import is_poison
from tests.faults.simulation_store import PROJECT, SimulatedRedis, SimulatedStore

RowName = tuple[str, str]
Contained = dict[str, int]
Expected = dict[RowName, tuple[Any, Contained]]
Deltas = dict[tuple[int, str], list[SourcedDelta]]
Highest = dict[str, dict[str, tuple[int, int]]]


def differences(logs: Logs, server: SimulatedRedis, had_gap: bool) -> list[str]:
    """Everything that is not as the logs say."""
    users, expected_deltas = fold_events(logs)
    targets, delta_log, highest = fold_deltas(logs)
    stored = stored_rows(server)
    found = list(different_rows({**users, **targets}, stored, server))
    found += different_deltas(expected_deltas, delta_log)
    found += different_checkpoints(logs, server, highest)
    found += different_dead_letters(logs, delta_log)
    if not had_gap:
        found += different_counts(
            logs, {value: row.state.totals for (name, value), row in stored.items() if name == ITEM.name}
        )
    return found


def fold_events(logs: Logs) -> tuple[Expected, Deltas]:
    """The user rows, and the deltas by (delta partition, source), in order."""
    users: Expected = {}
    deltas: Deltas = {}
    for partition in EVENT_PARTITIONS:
        for record in logs.records[partition]:
            if f"{record.log}-{record.offset}" in logs.refusals:
                continue
            engagement = to_engagement(decode_record(record.topic, record.value), record.broker_ts_ms)
            state, contained = users.setdefault((USER.name, engagement.user_id), (UserState(), {}))
            folded = user_fold.fold_user(state, Coordinate(record.log, record.offset), engagement)
            contained[record.log] = record.offset
            for ordinal, delta in enumerate(folded.deltas):
                own = deltas.setdefault((partition_of(delta, PARTITIONS), record.log), [])
                own.append(SourcedDelta(record.log, record.offset, ordinal, delta))
    return users, deltas


def fold_deltas(logs: Logs) -> tuple[Expected, Deltas, Highest]:
    """The target rows, the delta log without its repeats, and the highest place of every source by delta log."""
    targets: Expected = {}
    fresh: Deltas = {}
    highest: Highest = {}
    for partition in DELTA_PARTITIONS:
        places = highest.setdefault(log_name(*partition), {})
        for record in logs.records[partition]:
            for sourced in decode_deltas(record.value or b""):
                place = (sourced.offset, sourced.ordinal)
                if place <= places.get(sourced.log, (-1, -1)):
                    continue
                places[sourced.log] = place
                fresh.setdefault((partition[1], sourced.log), []).append(sourced)
                if is_poison(sourced.delta):
                    continue
                family = TARGET_FAMILIES[sourced.delta.entity]
                state, contained = targets.setdefault((family.name, sourced.delta.key), (family.new_state(), {}))
                FOLDS[sourced.delta.entity](state, sourced.delta)
                contained[record.log] = record.offset
    return targets, fresh, highest


def stored_rows(server: SimulatedRedis) -> dict[RowName, Row]:
    """Every row in the store, as a worker reads it."""
    reader = SimulatedStore(server)
    found: dict[RowName, Row] = {}
    for family in FAMILIES:
        held = (value_in_key(key, family.join_key, PROJECT) for key in server.contents.hashes)
        values = [value.decode() for value in held if value is not None]
        rows = reader.read_rows(family, values)
        found |= {(family.name, value): row for value, row in zip(values, rows, strict=True)}
    return found


def different_rows(expected: Expected, stored: dict[RowName, Row], server: SimulatedRedis) -> Iterator[str]:
    """Rows that are missing, too many, or different; what is empty by the rule of retention counts as missing."""
    families = {family.name: family for family in FAMILIES}
    now_ms = server.now_ms
    for name in sorted({*expected, *stored}):
        family = families[name[0]]
        wanted = without_expired(family, *expected[name], now_ms) if name in expected else None
        found = without_expired(family, stored[name].state, stored[name].contained, now_ms) if name in stored else None
        if wanted is None or found is None:
            if wanted is not found:
                yield f"{name}: in the store {found}, in the log {wanted}"
            continue
        found[0].updated_ms = wanted[0].updated_ms
        if found != wanted:
            yield f"{name}: in the store {found}, in the log {wanted}"
        elif wanted[1] == stored[name].contained:
            shown = server.contents.hashes[stored[name].key]
            fields = encode_row(family, *wanted)
            pairs = zip(fields[::2], fields[1::2], strict=True)
            wrong = [key for key, value in pairs if key not in UNSTABLE[family.name] and shown[key] != value]
            if wrong:
                yield f"{name}: the features {wrong} are not those of the state"


def without_expired(family: RowFamily, state: Any, contained: Contained, now_ms: int) -> tuple[Any, Contained] | None:
    """The row without what has been idle for longer than its retention; None when nothing is left."""
    if family is not USER:
        return (state, contained) if now_ms - state.touched_ms <= family.retention_ms else None
    live = {log for log, at_ms in state.touched_ms.items() if now_ms - at_ms <= family.retention_ms}
    parts: dict[str, Any] = {
        name: _only(live, getattr(state, name)) for name in ("recents", "logs", "seen", "touched_ms")
    }
    return (UserState(**parts), _only(live, contained)) if live else None


def _only(live: set[str], part: dict[str, Any]) -> dict[str, Any]:
    return {log: value for log, value in part.items() if log in live}


def different_deltas(expected: Deltas, found: Deltas) -> Iterator[str]:
    """Deltas that the delta log lacks, has in another order, or should not have."""
    for source in sorted({*expected, *found}):
        wanted, own = expected.get(source, []), found.get(source, [])
        if wanted != own:
            missing = [delta for delta in wanted if delta not in own]
            extra = [delta for delta in own if delta not in wanted]
            yield f"deltas of {source}: missing {missing}, too many {extra}, or in another order"


def different_checkpoints(logs: Logs, server: SimulatedRedis, highest: Highest) -> Iterator[str]:
    """Checkpoints that are not at their log's end, or remember other repeats than the log has."""
    for stage, partitions in ((SESSION_STAGE, EVENT_PARTITIONS), (TARGET_STAGE, DELTA_PARTITIONS)):
        stored = server.contents.hashes.get(CHECKPOINT_KEY + stage.encode(), {})
        found = decode_checkpoints({log.decode(): value for log, value in stored.items()})
        for partition in partitions:
            log, end = log_name(*partition), logs.end(partition)
            checkpoint = found.get(log, Checkpoint())
            if checkpoint.next_offset != end or checkpoint.highest != highest.get(log, {}):
                yield f"checkpoint of {log}: {checkpoint}, the log ends at {end}, highest {highest.get(log)}"


def different_dead_letters(logs: Logs, delta_log: Deltas) -> Iterator[str]:
    """Dead letters that are missing, too many, or have another reason. One may have been sent twice."""
    found = {letter.name: letter.reason for letter in logs.dead if letter.topic != DELTAS}
    if found != logs.refusals:
        yield f"dead letters: found {found}, expected {logs.refusals}"
    poison = {str(sourced.delta) for own in delta_log.values() for sourced in own if is_poison(sourced.delta)}
    told = {letter.message.partition(": ZeroDivisionError")[0] for letter in logs.dead if letter.topic == DELTAS}
    if told != poison:
        yield f"dead deltas: found {told}, expected {poison}"


# What `updated_ms` goes into, and packed maps, whose bytes depend on the order of their keys: compared when decoded.
UNSTABLE = {
    family.name: {LOG_FIELD, *family.packed_fields, *(b"_ts:" + view.name.encode() for view in family.views)}
    for family in FAMILIES
}
