"""Invalidations: Redis names the keys that somebody has changed.

Enters: messages on the invalidation channel. Leaves: keys. Opened by `near_cache.py`, whose other connection asks Redis
to send them here.
"""

from typing import Any, cast

import redis

from features.online_store import GENERATION_KEY, connect
from infra.clock import monotonic_s

CHANNEL = b"__redis__:invalidate"
TIMEOUT_S = 2.0
LONGEST_DRAIN_S = 0.02
EVERYTHING = b""
SILENCE_S = 3.0


class Invalidations:
    """The connection on which Redis names the keys that changed."""

    _connection: Any  # redis-py's connection has no types

    def __init__(self, connection_string: str) -> None:
        self._client = connect(connection_string, TIMEOUT_S)
        self._connection = cast(Any, self._client.connection_pool.get_connection())
        self._connection.send_command("CLIENT", "ID")
        self.client_id: int = self._connection.read_response()
        self._connection.send_command("SUBSCRIBE", CHANNEL)
        self._connection.read_response()
        self._heard_s = monotonic_s()

    def wait(self, timeout_s: float) -> list[bytes]:
        """The keys named within `timeout_s`; `EVERYTHING` after a flush or a rebuild.

        Raises `ConnectionError` when the store has fallen silent.
        """
        keys: list[bytes] = []
        last_s = monotonic_s() + timeout_s + LONGEST_DRAIN_S
        while self._connection.can_read(timeout=timeout_s):
            keys += _keys(self._connection.read_response())
            self._heard_s = monotonic_s()
            timeout_s = 0
            if self._heard_s > last_s:  # it never ends while the store is written to without a pause
                break
        if monotonic_s() - self._heard_s > SILENCE_S:
            raise redis.ConnectionError(f"the online store has been silent for {SILENCE_S} s")
        return keys

    def ping(self) -> None:
        """Ask for a sign of life, which `wait` will hear."""
        self._connection.send_command("PING")

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.disconnect()
        self._client.close()


def _keys(message: Any) -> list[bytes]:
    """The keys in a message; `[b"message", channel, None]` is a flush, `[b"pong", b""]` a sign of life. A new
    generation is a new store: `nowrank rebuild` puts one in the old one's place without a word about its rows.
    """
    if not isinstance(message, list) or message[0] != b"message":
        return []
    return [EVERYTHING] if message[2] is None or GENERATION_KEY in message[2] else message[2]
