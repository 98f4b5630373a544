"""The spare store: another logical database of the same Redis, where a new store is built and then put in place.

Enters: the live store's connection string. Leaves: a prepared spare database; the switch, which is one atomic call.
Called by `rebuild`.

`SWAPDB` exchanges the databases under every client that is connected: who reads the live one reads the new rows from
the next command on, under the same address. Workers meet another `generation` and begin anew at the new checkpoints;
the scorer's near cache, which follows that key, reads every row again.
"""

import uuid
from typing import Any

import redis

from features.online_store import GENERATION_KEY, connect, parse_address
from infra.errors import NowrankError, StoreUnavailable
from streams.audit.store_snapshot import row_name

MARKER_KEY = b"nowrank:rebuild"  # on a spare database: which rebuild fills it, or that it holds what was replaced
OURS = b"nowrank:"
TIMEOUT_S = 30.0
SCAN_COUNT = 2_000
_SWITCH = """
redis.call('SELECT', ARGV[2])
if redis.call('GET', KEYS[2]) ~= ARGV[3] then
    return redis.error_reply('another rebuild has taken the spare database')
end
local generation = redis.call('GET', KEYS[1])
if not generation then return redis.error_reply('the spare database holds no store') end
redis.call('DEL', KEYS[2])
redis.call('SWAPDB', ARGV[1], ARGV[2])
redis.call('SET', KEYS[2], 'replaced')
redis.call('SELECT', ARGV[1])
redis.call('SET', KEYS[1], generation)
return redis.status_reply('OK')
"""


class SpareStore:
    """The spare database beside the live one; every method raises `StoreUnavailable` or `NowrankError`."""

    def __init__(self, live: str, project: str, spare_db: int | None = None) -> None:
        self.live_db: int = parse_address(live).get("db", 0)
        self.db = self.live_db + 1 if spare_db is None else spare_db
        self.address = with_db(live, self.db)
        self._live = live
        self._project = project
        self._marker = uuid.uuid4().hex.encode()
        if self.db == self.live_db:
            raise NowrankError(f"the live store is in database {self.db}: name another one as --spare-db")

    def prepare(self) -> None:
        """Empty the spare database and mark it as ours, if nothing of anybody else's can be lost by that."""
        live, spare = connect(self._live, TIMEOUT_S), connect(self.address, TIMEOUT_S)
        try:
            self._check_server(live)
            self._check_live(live)
            if spare.dbsize() and not spare.exists(MARKER_KEY):
                raise NowrankError(
                    f"database {self.db} holds keys that are not a rebuild's: name an empty one as --spare-db"
                )
            spare.flushdb(asynchronous=True)
            spare.set(MARKER_KEY, self._marker)
        except redis.ResponseError as error:
            raise NowrankError(f"this Redis has no database {self.db} to build the new store in: {error}") from error
        except redis.RedisError as error:
            raise StoreUnavailable(f"the online store does not answer: {error}") from error
        finally:
            live.close()
            spare.close()

    def switch(self) -> None:
        """Put the spare database in the place of the live one, which becomes the spare one."""
        client: Any = connect(self._live, TIMEOUT_S)
        try:
            client.eval(_SWITCH, 2, GENERATION_KEY, MARKER_KEY, self.live_db, self.db, self._marker)
        except redis.ResponseError as error:
            raise NowrankError(f"the new store could not take the live one's place: {error}") from error
        except redis.RedisError as error:
            raise StoreUnavailable(f"the switch was not acknowledged; `nowrank verify` tells: {error}") from error
        finally:
            client.close()

    def free(self) -> None:
        """Empty the spare database; what another rebuild is filling stays."""
        client: Any = connect(self.address, TIMEOUT_S)
        try:
            if client.get(MARKER_KEY) in (self._marker, b"replaced"):
                client.flushdb(asynchronous=True)
        except redis.RedisError as error:
            raise StoreUnavailable(f"the old rows could not be freed: {error}") from error
        finally:
            client.close()

    def _check_server(self, live: Any) -> None:
        info = live.info()
        if info.get("cluster_enabled"):
            raise NowrankError("a Redis Cluster has no second database: fill a new one and point NOWRANK_REDIS at it")
        limit_bytes, used_bytes = info.get("maxmemory", 0), info.get("used_memory", 0)
        if limit_bytes and 2 * used_bytes > limit_bytes:
            raise NowrankError(
                f"Redis uses {used_bytes} of at most {limit_bytes} bytes: a second store beside the first does not fit"
            )

    def _check_live(self, live: Any) -> None:
        """Everything in the live database is put away by the switch, so it must be ours."""
        cursor = None
        while cursor != 0:
            cursor, keys = live.scan(cursor or 0, count=SCAN_COUNT)
            for key in keys:
                if not key.startswith(OURS) and row_name(key, self._project) is None:
                    raise NowrankError(
                        f"database {self.live_db} holds keys that are not of project {self._project!r}, such as "
                        f"{key!r}: a rebuild would put them away; give Nowrank a database of its own"
                    )


def with_db(connection_string: str, db: int) -> str:
    """The connection string with another logical database."""
    address, *options = connection_string.split(",")
    return ",".join((address, *(option for option in options if not option.startswith("db=")), f"db={db}"))
