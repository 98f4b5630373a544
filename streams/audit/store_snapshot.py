"""The whole store as it is read once: checkpoints first, then every row.

Enters: a connection to the online store. Leaves: `StoreSnapshot`. Called by `verify` and `rebuild`.

Workers go on meanwhile, so that rows are of different moments; each says by its contained offsets of which. Since a
checkpoint is written after its rows, every row contains at least what the checkpoints read before it cover.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import redis

from features.online_store import CHECKPOINT_KEY, GENERATION_KEY, connect, no_answer, refuse_other_type
from features.rows import CONTAINED_FIELD, FAMILIES, RowFamily, decode_contained, value_in_key
from infra.errors import CheckpointInvalid, RowInvalid, StoreUnavailable
from streams.audit.recompute import RowName
from streams.checkpoints import Checkpoint, decode_checkpoint

# By event log, the offset at which `nowrank rebuild --from` began: deltas of earlier events are not in the rows.
BEGIN_KEY = b"nowrank:begin"
LAST_ORDINAL = 1 << 40  # higher than any; (offset - 1, LAST_ORDINAL) in the map of rule 11 drops deltas before `offset`
SCAN_COUNT = 2_000
BATCH_ROWS = 500
TIMEOUT_S = 30.0
_SESSION_KEY, _TARGET_KEY = CHECKPOINT_KEY + b"session", CHECKPOINT_KEY + b"target"
T = TypeVar("T")


@dataclass(slots=True)
class StoredRow:
    """A row's hash as it stands in the store, and the offsets by log that it contains."""

    family: RowFamily
    value: str
    fields: dict[bytes, bytes]
    contained: dict[str, int]


@dataclass(slots=True)
class StoreSnapshot:
    """What the store held: its generation, the checkpoints of both stages, and the rows by (family, entity value).

    `damaged`: why the other rows cannot be read; what these contain is not known. `damaged_checkpoints`: what cannot be
    decoded of the others.
    """

    generation: bytes | None
    session: dict[str, Checkpoint]
    target: dict[str, Checkpoint]
    begin: dict[str, int]
    rows: dict[RowName, StoredRow] = field(default_factory=dict)
    damaged: dict[RowName, str] = field(default_factory=dict)
    damaged_checkpoints: list[CheckpointInvalid] = field(default_factory=list)


def read_checkpoints(client: redis.Redis) -> StoreSnapshot:
    """The store without its rows; raises `StoreUnavailable`, or `CheckpointInvalid`."""
    snapshot = read_sound_checkpoints(client)
    for error in snapshot.damaged_checkpoints:
        raise error
    return snapshot


def read_sound_checkpoints(client: redis.Redis) -> StoreSnapshot:
    """The store without its rows and without the checkpoints that cannot be decoded; raises `StoreUnavailable`."""
    any_client: Any = client
    damaged: list[CheckpointInvalid] = []
    try:
        pipeline = any_client.pipeline(transaction=True)
        pipeline.get(GENERATION_KEY)
        for key in (_SESSION_KEY, _TARGET_KEY, BEGIN_KEY):
            pipeline.hgetall(key)
        generation, session, target, begin = pipeline.execute(raise_on_error=False)
        if isinstance(generation, Exception):
            raise generation
        return StoreSnapshot(
            generation,
            _decoded(_SESSION_KEY, session, decode_checkpoint, damaged),
            _decoded(_TARGET_KEY, target, decode_checkpoint, damaged),
            _decoded(BEGIN_KEY, begin, _decode_offset, damaged),
            damaged_checkpoints=damaged,
        )
    except redis.RedisError as error:
        raise StoreUnavailable(f"the checkpoints could not be read: {error}") from error


def read_store(connection_string: str, project: str, advance: Callable[[int], None]) -> StoreSnapshot:
    """The checkpoints, then every row of the project; raises `StoreUnavailable` or `CheckpointInvalid`. `advance`
    counts rows.
    """
    client: Any = connect(connection_string, TIMEOUT_S)
    try:
        snapshot = read_checkpoints(client)
        cursor = None
        while cursor != 0:
            cursor, keys = client.scan(cursor or 0, count=SCAN_COUNT)
            named = {key: name for key in keys if (name := row_name(key, project)) is not None}
            _read_rows(client, snapshot, {key: name for key, name in named.items() if _is_new(snapshot, name)})
            advance(len(named))
        if client.get(GENERATION_KEY) != snapshot.generation:
            raise StoreUnavailable("the store was replaced while its rows were read; run the command again")
    except redis.RedisError as error:
        raise StoreUnavailable(f"the rows could not be read: {error}") from error
    finally:
        client.close()
    return snapshot


def count_keys(connection_string: str) -> int:
    """How many keys the database holds; raises `StoreUnavailable`."""
    client: Any = connect(connection_string, TIMEOUT_S)
    try:
        return int(client.dbsize())
    except redis.RedisError as error:
        raise no_answer(connection_string, error) from error
    finally:
        client.close()


def row_name(key: bytes, project: str) -> tuple[RowFamily, str] | None:
    """Whose row a key is; None for a key that is no row of the project."""
    for family in FAMILIES:
        if (value := value_in_key(key, family.join_key, project)) is not None:
            return family, value.decode(errors="replace")
    return None


def _decoded(
    key: bytes, reply: Any, decode: Callable[[str, bytes], T], damaged: list[CheckpointInvalid]
) -> dict[str, T]:
    """What a hash holds by log; what cannot be decoded goes to `damaged`."""
    try:
        refuse_other_type(reply)
    except RowInvalid:
        damaged.append(CheckpointInvalid(key.decode(), reply))
        return {}
    decoded = {}
    for name, value in reply.items():
        log = name.decode(errors="replace")
        try:
            decoded[log] = decode(log, value)
        except CheckpointInvalid as error:
            damaged.append(error)
    return decoded


def _decode_offset(log: str, stored: bytes) -> int:
    try:
        return int(stored)
    except ValueError as error:
        raise CheckpointInvalid(f"{BEGIN_KEY.decode()} of {log}", error) from error


def _is_new(snapshot: StoreSnapshot, name: tuple[RowFamily, str]) -> bool:
    read = (name[0].name, name[1])
    return read not in snapshot.rows and read not in snapshot.damaged  # a scan may name a key twice


def _read_rows(client: Any, snapshot: StoreSnapshot, named: dict[bytes, tuple[RowFamily, str]]) -> None:
    keys = list(named)
    for begin in range(0, len(keys), BATCH_ROWS):
        batch = keys[begin : begin + BATCH_ROWS]
        pipeline = client.pipeline(transaction=False)
        for key in batch:
            pipeline.hgetall(key)
        for key, reply in zip(batch, pipeline.execute(raise_on_error=False), strict=True):
            family, value = named[key]
            try:
                refuse_other_type(reply)
                if reply:  # it may have expired since the scan named it
                    contained = decode_contained(reply.get(CONTAINED_FIELD))
                    snapshot.rows[family.name, value] = StoredRow(family, value, reply, contained)
            except RowInvalid as error:
                snapshot.damaged[family.name, value] = str(error)
