"""The near cache: every item row of the online store, kept as fresh as Redis can say.

Enters: the store's invalidations (`CLIENT TRACKING` in broadcast mode over the item keys and the generation). Leaves:
batches of `ItemRow`s, handed to the thread that owns the item table. Started by the scorer's process; runs in a thread
of its own.

One connection listens for the keys that changed, another reads their rows again. Both are looked at every REFRESH_S
only, which is the bound of staleness while both live: woken at each message, this thread would take the interpreter
from the requests several hundred times a second. When either breaks or falls silent, both are
opened anew and every row is read again, so that nothing that was missed stays missed.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import redis

from features.item import ItemState
from features.online_store import GENERATION_KEY, connect, refuse_other_type
from features.probe import is_probe
from features.rows import CONTAINED_FIELD, ITEM, entity_prefix, value_in_key
from infra.clock import monotonic_s, now_ms
from infra.errors import RowInvalid
from infra.redaction import describe_failure, hash_id
from infra.settings import Settings
from serving.invalidations import EVERYTHING, TIMEOUT_S, Invalidations

REFRESH_S = 0.05
HEARTBEAT_S = 1.0
BATCH_ROWS = 400
MAX_ROWS = 1_500_000
MAX_AHEAD_MS = 600_000  # two clocks differ by less; the totals of the last 30 minutes fade by what a row is ahead
FIRST_RETRY_S, LAST_RETRY_S = 0.1, 2.0
PREFIX = entity_prefix(ITEM.join_key)
_FOLLOWED = ("PREFIX", PREFIX, "PREFIX", GENERATION_KEY)
_FIELDS = [*ITEM.packed_fields, CONTAINED_FIELD]

log = logging.getLogger(__name__)


class ItemRow(NamedTuple):
    """One row as it was read; `changed_s` is the earliest that it can have changed, None in a full read.

    An empty state when the row is gone.
    """

    item_id: str
    state: ItemState
    contained: bytes
    changed_s: float | None


class NearCache:
    """Follows the store in a thread. `deliver` is called there with each batch.

    `report` with whether the store answers.
    """

    def __init__(
        self, settings: Settings, deliver: Callable[[list[ItemRow]], None], report: Callable[[bool], None]
    ) -> None:
        self._settings = settings
        self._deliver = deliver
        self._report = report
        self._known: set[str] = set()  # the very strings that were handed on: ids cost memory once
        self._changed: dict[str, float] = {}
        self._all_changed = False
        self._heard_s = 0.0
        self._stop = threading.Event()
        self._tried = threading.Event()
        self._thread = threading.Thread(target=self._run, name="near-cache", daemon=True)

    @property
    def tried(self) -> bool:
        """Whether the first full read has succeeded or failed."""
        return self._tried.is_set()

    def start(self) -> None:
        """Begin to follow; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=TIMEOUT_S + 1)

    def _run(self) -> None:
        retry_s = FIRST_RETRY_S
        while not self._stop.is_set():
            started_s = monotonic_s()
            try:
                self._follow()
            except Exception as error:  # noqa: BLE001 - the thread's edge: whatever broke, rows must be followed again
                retry_s = (
                    FIRST_RETRY_S
                    if monotonic_s() - started_s > LAST_RETRY_S + TIMEOUT_S
                    else min(LAST_RETRY_S, 2 * retry_s)
                )
                said = error if isinstance(error, redis.RedisError | OSError) else describe_failure(error, None)
                log.warning("item rows cannot be followed, next try in %.1f s: %s", retry_s, said)
                self._report(False)
                self._tried.set()
                self._stop.wait(retry_s)

    def _follow(self) -> None:
        reader = connect(self._settings.redis, TIMEOUT_S)
        listener = Invalidations(self._settings.redis)
        self._heard_s = monotonic_s()
        connection: Any = reader.client()  # type: ignore[no-untyped-call]  # one connection: tracking belongs to it
        try:
            connection.execute_command("CLIENT", "TRACKING", "ON", "REDIRECT", listener.client_id, "BCAST", *_FOLLOWED)
            self._read_all(connection, listener)
            self._report(True)
            self._tried.set()
            heartbeat_s = monotonic_s()
            while not self._stop.wait(REFRESH_S):
                self._hear(listener)
                if self._changed or self._all_changed:
                    self._refresh(connection, listener)
                if self._heard_s - heartbeat_s >= HEARTBEAT_S:
                    connection.ping()
                    listener.ping()
                    self._report(True)
                    heartbeat_s = self._heard_s
        finally:
            self._changed.clear()
            self._all_changed = False
            listener.close()
            connection.close()
            reader.close()

    def _read_all(self, connection: Any, listener: Invalidations) -> None:
        """Every row of the store, after which the table knows no others."""
        earlier, self._known = self._known, set()
        try:
            self._scan(connection, listener)
            self._deliver([ItemRow(item_id, ItemState(), b"", None) for item_id in earlier - self._known])
        except Exception:
            self._known |= earlier  # the table still holds them, and what was read until now
            raise

    def _scan(self, connection: Any, listener: Invalidations) -> None:
        cursor = 0
        while True:
            cursor, keys = connection.scan(cursor, match=PREFIX + b"*", count=2_000)
            mine = {item_id for key in keys if (item_id := self._item_id(key)) is not None} - self._known
            self._read(connection, list(mine)[: MAX_ROWS - len(self._known)], {})
            self._hear(listener)
            if cursor == 0:
                break
        if len(self._known) >= MAX_ROWS:
            log.warning(
                "the store holds more item rows than the near cache's %d; the others count as missing", MAX_ROWS
            )

    def _refresh(self, connection: Any, listener: Invalidations) -> None:
        since_s, self._changed = self._changed, {}
        if self._all_changed:  # a rebuild; a flush, perhaps of another database of the same server
            self._all_changed = False
            self._read_all(connection, listener)
            return
        if len(self._known) + len(since_s) > MAX_ROWS:
            since_s = {item_id: at_s for item_id, at_s in since_s.items() if item_id in self._known}
        self._read(connection, since_s, since_s)

    def _read(self, connection: Any, item_ids: Iterable[str], changed: dict[str, float]) -> None:
        """Read rows in batches and hand each batch on."""
        wanted = list(item_ids)
        for begin in range(0, len(wanted), BATCH_ROWS):
            batch = wanted[begin : begin + BATCH_ROWS]
            pipeline = connection.pipeline(transaction=False)
            for item_id in batch:
                pipeline.execute_command("HMGET", ITEM.key(item_id, self._settings.feast_project), *_FIELDS)
            rows, invalid = [], []
            for item_id, reply in zip(batch, pipeline.execute(raise_on_error=False), strict=True):
                try:
                    row = _to_row(item_id, reply, changed.get(item_id))
                except RowInvalid as error:
                    invalid.append((hash_id(item_id), error))
                    row = ItemRow(item_id, ItemState(), b"", changed.get(item_id))
                rows.append(row)
            if invalid:
                log.warning("%d item rows count as missing; the first, of %s: %s", len(invalid), *invalid[0])
            self._known.update(batch)
            self._deliver(rows)

    def _hear(self, listener: Invalidations) -> None:
        """Remember which rows changed since it was last listened for, as if all had changed right then."""
        since_s, self._heard_s = self._heard_s, monotonic_s()
        for key in listener.wait(0):
            if key == EVERYTHING:
                self._all_changed = True
            elif (item_id := self._item_id(key)) is not None:
                self._changed.setdefault(item_id, since_s)

    def _item_id(self, key: bytes) -> str | None:
        """The item that a key is of; None for a key of another project, for one that is no text, and for a canary's
        title.
        """
        value = value_in_key(key, ITEM.join_key, self._settings.feast_project)
        if value is None:
            return None
        try:
            item_id = value.decode()
        except UnicodeDecodeError:
            return None
        return None if is_probe(item_id) else item_id


def _to_row(item_id: str, reply: Any, changed_s: float | None) -> ItemRow:
    """The row in a reply; raises `RowInvalid`, and what else Redis answered with."""
    refuse_other_type(reply)
    *packed, contained = reply
    state, _ = ITEM.decode_row(packed, contained)
    at_ms = now_ms()
    if state.as_of_ms - at_ms > MAX_AHEAD_MS:
        raise RowInvalid(
            f"its newest event is {state.as_of_ms - at_ms} ms after this machine's clock, at most {MAX_AHEAD_MS} are "
            "believed; if the clock is right, `nowrank rebuild` computes all rows anew"
        )
    if ITEM.is_stale(state.as_of_ms, at_ms):
        state = ItemState(as_of_ms=state.as_of_ms)  # empty, but for what tells it from a row that never was
    return ItemRow(item_id, state, contained or b"", changed_s)
