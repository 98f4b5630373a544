"""The online store: rows in Redis, read, and written by compare-and-set under a fence.

Enters: keys and states. Leaves: rows, and whether a write was accepted. Called by both stages (`FencedStore`), and by
tools and tests (`read_states`).

The protocol: a row carries the offsets it contains (`_in`), a write succeeds only if they are still the ones that were
read, and every call of a worker checks `generation`, a random value that the store got when it was first used. A store
that was emptied has another one; a connection that broke is never opened again, because the store behind it may have
been rolled back. In both cases the process ends and begins at its checkpoints. Rows carry their project and checkpoints
do not, so a store belongs to the project that it was first used for.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from features.rows import (
    CONTAINED_FIELD,
    LOG_FIELD,
    RowFamily,
    encode_contained,
    encode_row,
    lacks_part,
    restore_log_state,
)
from infra.addresses import hide_password, split_address
from infra.errors import CheckpointInvalid, RowInvalid, SettingsError, StoreFenced, StoreUnavailable
from infra.redaction import hash_id

# Longer than any record of ours stays in its log: what Redis drops that late is empty by the fold's own rule.
LOG_RETENTION_MS = 8 * 7 * 24 * 3600 * 1000
GENERATION_KEY = b"nowrank:generation"
PROJECT_KEY = b"nowrank:project"
CHECKPOINT_KEY = b"nowrank:checkpoint:"
REFUSALS = (redis.ResponseError, redis.AuthenticationError)  # a wrong password is a ConnectionError to redis-py
SENT_TOGETHER = 16  # rows
WRONG_TYPE = "WRONGTYPE"
FENCED = "FENCED"  # what the scripts below answer in a store of another generation
Command = tuple[Any, ...]

_READ = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED') end
local rows = {}
for i = 2, #KEYS do rows[i - 1] = redis.pcall('HMGET', KEYS[i], unpack(ARGV, 2)) end
return rows
"""
_WRITE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED') end
if (redis.pcall('HGET', KEYS[2], '_in') or '') ~= ARGV[2] then return 0 end -- another type: reading it says so
redis.call('HSET', KEYS[2], unpack(ARGV, 4))
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1
"""
_MOVE_CHECKPOINTS = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED') end
for i = 2, #ARGV, 2 do
    local stored = redis.call('HGET', KEYS[2], ARGV[i])
    if not stored or cmsgpack.unpack(stored)[1] <= cmsgpack.unpack(ARGV[i + 1])[1] then
        redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
    end
end
return 1
"""


def parse_address(connection_string: str) -> dict[str, Any]:
    """Host, port and options of Feast's form `host:port[,db=0][,password=...][,ssl=true]`; raises `SettingsError`."""
    address, *options = connection_string.split(",")
    try:
        host, port = split_address(address)
    except ValueError as error:
        raise SettingsError(
            f"NOWRANK_REDIS is {hide_password(connection_string)!r}; it must be host:port[,db=0][,password=...]"
        ) from error
    parsed: dict[str, Any] = {"host": host, "port": port}
    for option in options:
        name, equals, value = option.partition("=")
        if name == "db" and value.isdecimal():
            parsed["db"] = int(value)
        elif name in ("password", "username") and equals:
            parsed[name] = value
        elif name == "ssl":
            parsed["ssl"] = value.lower() == "true"
        else:
            raise SettingsError(
                f"NOWRANK_REDIS is {hide_password(connection_string)!r}, with an option that is not known; known are "
                "db=NUMBER, username, password (without a comma) and ssl"
            )
    return parsed


def no_answer(connection_string: str, error: Exception) -> StoreUnavailable:
    """What to raise when the store does not answer, or with a refusal: its address without the password, and why."""
    did = "refuses" if isinstance(error, REFUSALS) else "does not answer"
    return StoreUnavailable(f"the online store at {hide_password(connection_string)!r} {did}: {error}")


def connect(connection_string: str, timeout_s: float = 5.0) -> redis.Redis:
    """A client that gives up after `timeout_s` and never retries by itself."""
    return redis.Redis(
        **parse_address(connection_string),
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
    )


@dataclass(slots=True)
class Row:
    """A row as it was read: its state, the offsets that it contains, their bytes as stored ('' when the row does not
    exist), and about how many bytes the store holds for it.
    """

    family: RowFamily
    key: bytes
    state: Any
    contained: dict[str, int]
    stored: bytes = b""
    size_bytes: int = 0


class FencedStore:
    """A worker's one connection to the store; raises `StoreUnavailable`, `SettingsError` for the store of another
    project, and `StoreFenced` once the store is not the one it began with.

    It speaks through one connection that it opens itself, once: redis-py's clients would open another one silently.
    """

    def __init__(self, connection_string: str, project: str, timeout_s: float = 5.0) -> None:
        self.project = project
        self._connection = _new_connection(connection_string, timeout_s)
        self._is_broken = False
        try:
            self._connection.connect()
            _, self._generation, _, owner, self._read_sha, self._write_sha, self._move_sha = self._exchange(
                [
                    ("SET", GENERATION_KEY, uuid.uuid4().hex, "NX"),
                    ("GET", GENERATION_KEY),
                    ("SET", PROJECT_KEY, project, "NX"),
                    ("GET", PROJECT_KEY),
                    *(("SCRIPT", "LOAD", script) for script in (_READ, _WRITE, _MOVE_CHECKPOINTS)),
                ]
            )
        except redis.RedisError as error:
            self.close()
            raise no_answer(connection_string, error) from error
        if owner != project.encode():
            self.close()
            raise SettingsError(
                f"NOWRANK_FEAST_PROJECT is {project!r}, but the online store at {hide_password(connection_string)!r} "
                f"is that of {owner.decode(errors='replace')!r}: each project needs a database of its own"
            )

    def read_rows(self, family: RowFamily, values: Sequence[str]) -> list[Row]:
        """The rows of `values`, in order; a missing one has a new state and contains nothing. One round trip. Raises
        `RowInvalid` with the digest of the value.
        """
        return self.read_families({family: values})[family]

    def read_families(self, wanted: Mapping[RowFamily, Sequence[str]]) -> dict[RowFamily, list[Row]]:
        """The rows of each family's values, as `read_rows` gives them, all in one round trip."""
        keys = {family: [family.key(value, self.project) for value in values] for family, values in wanted.items()}
        replies = self._execute(
            self._script(self._read_sha, keys[family], [*family.packed_fields, LOG_FIELD, CONTAINED_FIELD])
            for family in wanted
        )
        return {
            family: [_to_named_row(family, *one) for one in zip(values, keys[family], of_family, strict=True)]
            for (family, values), of_family in zip(wanted.items(), replies, strict=True)
        }

    def write_rows(self, rows: Iterable[Row]) -> list[bool]:
        """Write each row if the stored one still contains what was read; False where another writer was first.

        One round trip: while some rows are encoded, the store writes those before them.
        """
        rows = list(rows)
        groups = (map(self._write, rows[at : at + SENT_TOGETHER]) for at in range(0, len(rows), SENT_TOGETHER))
        accepted = [bool(reply) for reply in self._execute(*groups)]
        for row, is_accepted in zip(rows, accepted, strict=True):
            if is_accepted:
                row.stored = encode_contained(row.contained)
        return accepted

    def read_checkpoints(self, stage: str) -> dict[str, bytes]:
        """The checkpoint of each log that `stage` has written; raises `CheckpointInvalid` when there stands something
        else.
        """
        fence = self._script(self._read_sha, [], [])
        key = CHECKPOINT_KEY + stage.encode()
        try:
            _, stored = self._execute([fence, ("HGETALL", key)])
        except StoreFenced as error:
            if not str(error.__cause__).startswith(WRONG_TYPE):
                raise
            raise CheckpointInvalid(key.decode(), error.__cause__) from error
        return {log.decode(errors="replace"): value for log, value in zip(stored[::2], stored[1::2], strict=True)}

    def write_checkpoints(self, stage: str, checkpoints: dict[str, bytes]) -> None:
        """Move the checkpoints of `stage` (msgpack arrays that begin with the next offset), none of them back; without
        any, only check the fence.
        """
        fields = [part for log, value in checkpoints.items() for part in (log.encode(), value)]
        self._execute([self._script(self._move_sha, [CHECKPOINT_KEY + stage.encode()], fields)])

    def close(self) -> None:
        """Close the connection."""
        self._is_broken = True
        self._connection.disconnect()

    def _script(self, sha: bytes, keys: list[bytes], args: Sequence[Any]) -> Command:
        """A fenced script on `keys`."""
        return ("EVALSHA", sha, 1 + len(keys), GENERATION_KEY, *keys, self._generation, *args)

    def _write(self, row: Row) -> Command:
        fields = encode_row(row.family, row.state, row.contained)
        row.size_bytes = sum(map(len, fields))
        return self._script(self._write_sha, [row.key], [row.stored, _expire_ms(row.family), *fields])

    def _execute(self, *groups: Iterable[Command]) -> list[Any]:
        """The replies to all commands, sent one group after the other; after an error the connection is never used
        again.
        """
        if self._is_broken:
            raise StoreFenced("the connection to the online store broke; the store behind it may be an older one")
        try:
            return self._exchange(*groups)
        except redis.RedisError as error:
            self.close()
            if isinstance(error, REFUSALS) and FENCED not in str(error):
                raise StoreFenced(f"the online store refuses: {error}") from error
            raise StoreFenced(
                f"the online store is not the one this process began with, or is gone: {error}"
            ) from error

    def _exchange(self, *groups: Iterable[Command]) -> list[Any]:
        """As `_execute`; raises `RedisError`."""
        sent = [self._send(list(commands)) for commands in groups]
        return [self._connection.read_response() for _ in range(sum(sent))]

    def _send(self, commands: list[Command]) -> int:
        """Send commands; returns how many. As one piece: every call of a socket may wait for the interpreter lock."""
        self._connection.send_packed_command([b"".join(self._connection.pack_commands(commands))], check_health=False)
        return len(commands)


@cache
def _expire_ms(family: RowFamily) -> int:
    return family.retention_ms + (LOG_RETENTION_MS if family.outlives_log else 0)


def _new_connection(connection_string: str, timeout_s: float) -> Any:
    """One connection, not yet open, that gives up after `timeout_s` and never retries."""
    address = parse_address(connection_string)
    connection_class = redis.SSLConnection if address.pop("ssl", False) else redis.Connection
    return connection_class(
        socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0), **address
    )


def refuse_other_type(reply: Any) -> None:
    """Raise `RowInvalid` for the reply of a row's key that holds something else, any other error as it is."""
    if isinstance(reply, Exception):
        if not str(reply).startswith(WRONG_TYPE):
            raise reply
        raise RowInvalid(f"its key holds something else ({reply}); `nowrank rebuild` computes all rows anew")


def _to_named_row(family: RowFamily, value: str, key: bytes, reply: Any) -> Row:
    try:
        return _to_row(family, key, reply)
    except RowInvalid as error:
        raise RowInvalid(f"{family.name} {hash_id(value)}: {error}") from error


def _to_row(family: RowFamily, key: bytes, reply: Any) -> Row:
    refuse_other_type(reply)
    *packed, log_state, stored = reply
    state, contained = family.decode_row(packed, stored)
    if family.log_state is not None:
        if stored is not None and log_state is None:
            raise lacks_part(family, LOG_FIELD.decode())
        restore_log_state(state, log_state)
    return Row(family, key, state, contained, stored or b"", sum(len(part or b"") for part in reply))


def read_states(client: redis.Redis, project: str, wanted: Sequence[tuple[RowFamily, str]]) -> list[Any]:
    """The states of (family, entity value) pairs, in order, in one round trip; a missing row gives a new state."""
    pipeline: Any = client.pipeline(transaction=False)
    for family, value in wanted:
        pipeline.hmget(family.key(value, project), family.packed_fields)
    return [family.decode(reply) for (family, _), reply in zip(wanted, pipeline.execute(), strict=True)]
