"""Staleness: from an item row changed in Redis to the change seen in the scorer's answers.

Enters: a store, the port of a scorer that follows it. Leaves: milliseconds of each change. Called by `serving.py`.

A probe title's row is written as a worker writes it (`FencedStore`, compare-and-set); then the scorer is asked for this
one title with its reasons, without logging, until the column made of the row shows the new value. So a figure holds the
near cache's wait, its read, the hand-over and the last question itself.
"""

import math
import random
import time

import msgspec

from benchmarks.http_load import Connection
from features.item import SUMS
from features.online_store import FencedStore, Row
from features.rows import ITEM
from infra.clock import monotonic_s, now_ms
from infra.errors import NowrankError
from infra.settings import Settings

PROBE = "benchmark-staleness"
COLUMN = "item_clicks_14d"
STEP = 10.0
PAUSE_S = (0.02, 0.12)
POLL_S = 0.002
LOST_S = 10.0


def measure_staleness(settings: Settings, port: int, changes: int) -> list[float]:
    """Milliseconds from the write's acknowledgement until the change is seen, one change after the other."""
    store, draw = FencedStore(settings.redis, settings.feast_project), random.Random(0)
    [row] = store.read_rows(ITEM, [PROBE])
    taken = []
    with Connection(port) as connection:
        for number in range(1, changes + 1):
            _change(store, row, number)
            taken.append(_await_change(connection, number))
            time.sleep(draw.uniform(*PAUSE_S))
    store.close()
    return taken


def is_seen(value: float, number: int) -> bool:
    """Whether a column (log1p of the decayed sum) shows change `number`: its sum is STEP higher than the one before."""
    return value > math.log1p(STEP * (number - 0.5))


def _change(store: FencedStore, row: Row, number: int) -> None:
    row.state.as_of_ms = now_ms()
    row.state.first_seen_ms = row.state.first_seen_ms or row.state.as_of_ms
    row.state.sums = [STEP * number] * len(SUMS)
    row.contained = {"benchmark-0": number}
    if store.write_rows([row]) != [True]:
        raise NowrankError(f"the row of {PROBE!r} was written by somebody else meanwhile")


def _await_change(connection: Connection, number: int) -> float:
    asked = {"user_id": PROBE, "task": "pre_query", "items": [PROBE], "limit": 1, "explain": True, "log": False}
    body = msgspec.json.encode(asked)
    began_s = monotonic_s()
    while True:
        answer = connection.ask_json(body)
        if is_seen(answer["items"][0]["features"][COLUMN]["value"], number):
            return 1000 * (monotonic_s() - began_s)
        if monotonic_s() - began_s > LOST_S:
            raise NowrankError(f"a changed item row was not seen by the scorer within {LOST_S:g} s")
        time.sleep(POLL_S)
