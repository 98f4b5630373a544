"""The simulation's Redis: keys, hashes and expiry in memory, under the real `FencedStore`.

Enters: the commands and scripts that `features/online_store.py` sends. Leaves: their answers; snapshots, to which the
whole store can be rolled back. Called by `simulation_worker.py`; `test_simulation.py` compares the scripts' answers
with those of a real Redis.

Only the socket is replaced: rows are encoded, decoded and judged by the real code. A restart breaks every connection; a
flush leaves them open, and only the fence protects the store.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import redis

from features import online_store
from features.online_store import GENERATION_KEY, Command, FencedStore
from tests.faults.simulation_logs import BEGIN_MS

PROJECT = "nowrank"
Hash = dict[bytes, bytes]


@dataclass(slots=True)
class Contents:
    """What a Redis holds."""

    values: dict[bytes, bytes] = field(default_factory=dict)
    hashes: dict[bytes, Hash] = field(default_factory=dict)
    expire_at_ms: dict[bytes, int] = field(default_factory=dict)

    def copy(self) -> "Contents":
        """The same at this moment; keys and values never change in place."""
        hashes = {key: dict(pairs) for key, pairs in self.hashes.items()}
        return Contents(dict(self.values), hashes, dict(self.expire_at_ms))


class SimulatedRedis:
    """One Redis server; `restarts` counts how often its connections were broken."""

    def __init__(self) -> None:
        self.contents = Contents()
        self.now_ms = BEGIN_MS
        self.restarts = 0
        self.generations = 0

    def snapshot(self) -> Contents:
        """What it holds now, as a backup has it."""
        return self.contents.copy()

    def restart_with(self, contents: Contents) -> None:
        """Come back with these contents; every connection is broken."""
        self.contents = contents.copy()
        self.restarts += 1

    def flush(self) -> None:
        """Empty it under open connections."""
        self.contents = Contents()

    def expire(self) -> None:
        """Drop what has expired."""
        contents = self.contents
        for key in [key for key, at_ms in contents.expire_at_ms.items() if at_ms <= self.now_ms]:
            del contents.expire_at_ms[key]
            contents.hashes.pop(key, None)

    def read_script(self, keys: list[bytes], args: list[bytes]) -> list[list[bytes | None]]:
        """`_READ`: the wanted fields of every row."""
        self.check_fence(keys, args)
        return [[self.contents.hashes.get(key, {}).get(name) for name in args[1:]] for key in keys[1:]]

    def write_script(self, keys: list[bytes], args: list[Any]) -> int:
        """`_WRITE`: compare-and-set of one row."""
        self.check_fence(keys, args)
        if self.contents.hashes.get(keys[1], {}).get(b"_in", b"") != args[1]:
            return 0
        self.set_fields(keys[1], args[3:])
        self.contents.expire_at_ms[keys[1]] = self.now_ms + int(args[2])
        return 1

    def move_script(self, keys: list[bytes], args: list[bytes]) -> int:
        """`_MOVE_CHECKPOINTS`: forward only."""
        self.check_fence(keys, args)
        stored = self.contents.hashes.get(keys[1], {})
        for log, value in zip(args[1::2], args[2::2], strict=True):
            if log not in stored or msgspec.msgpack.decode(stored[log])[0] <= msgspec.msgpack.decode(value)[0]:
                self.set_fields(keys[1], [log, value])
        return 1

    def check_fence(self, keys: list[bytes], args: list[bytes]) -> None:
        """What every script begins with."""
        if self.contents.values.get(keys[0]) != args[0]:
            raise redis.ResponseError("FENCED")

    def set_fields(self, key: bytes, fields: list[bytes]) -> None:
        """HSET."""
        self.contents.hashes.setdefault(key, {}).update(zip(fields[::2], fields[1::2], strict=True))


SCRIPTS: dict[str, Callable[[SimulatedRedis, list[bytes], list[Any]], Any]] = {
    online_store._READ: lambda server, keys, args: server.read_script(keys, args),
    online_store._WRITE: lambda server, keys, args: server.write_script(keys, args),
    online_store._MOVE_CHECKPOINTS: lambda server, keys, args: server.move_script(keys, args),
}


class SimulatedConnection:
    """redis-py's side of one connection; breaks after `break_after` of the next row writes, when that is set."""

    def __init__(self, server: SimulatedRedis) -> None:
        self.server = server
        self.break_after: int | None = None
        self._restarts = server.restarts
        self._answers: deque[Any] = deque()

    @property
    def is_broken(self) -> bool:
        """Whether the server has restarted since this connection was opened."""
        return self._restarts != self.server.restarts

    def send(self, commands: Sequence[Command]) -> None:
        """Run the commands one after the other, all or only the first `break_after`; other clients may come between."""
        reach = self.break_after if commands[0][1] == online_store._WRITE else None
        self._answers.extend(self._run(*command) for command in commands[:reach])
        if reach is not None:
            raise redis.ConnectionError("the connection broke in the middle of the writes")

    def read_response(self) -> Any:
        """The next answer; an error reply is raised."""
        answer = self._answers.popleft()
        if isinstance(answer, redis.RedisError):
            raise answer
        return answer

    def disconnect(self) -> None:
        """Closed; nothing is sent any more."""

    def _run(self, name: str, *parts: Any) -> Any:
        if self.is_broken:
            return redis.ConnectionError("the server restarted")
        if name == "HGETALL":
            return [part for pair in self.server.contents.hashes.get(parts[0], {}).items() for part in pair]
        script, key_count, *rest = parts
        try:
            return SCRIPTS[script](self.server, rest[:key_count], rest[key_count:])
        except redis.ResponseError as error:
            return error


class SimulatedStore(FencedStore):
    """The real store on the simulated server."""

    def __init__(self, server: SimulatedRedis) -> None:
        self.project = PROJECT
        self.client = SimulatedConnection(server)
        self._connection = self.client
        self._is_broken = False
        values = server.contents.values
        if GENERATION_KEY not in values:
            server.generations += 1
            values[GENERATION_KEY] = f"generation-{server.generations}".encode()
        self._generation = values[GENERATION_KEY]
        self._read_sha = online_store._READ
        self._write_sha = online_store._WRITE
        self._move_sha = online_store._MOVE_CHECKPOINTS

    def _send(self, commands: list[Command]) -> int:
        """Commands travel as they are."""
        self.client.send(commands)
        return len(commands)
