"""A small world for the scorer's tests: titles, members and their rows in a real store, and a real scorer over HTTP.

Enters: settings that point at real servers. Leaves: rows as the workers would have written them; a running scorer.
Called by the tests of this folder.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import uvicorn
from kafka import KafkaConsumer
from starlette.applications import Starlette

from features.catalogue import Item
from features.engagement import Coordinate, Engagement, Kind, Thumb
from features.online_store import FencedStore, Row
from features.rows import FOLDS, TARGET_FAMILIES, USER, RowFamily
from features.user import UserState, fold_user
from infra.clock import now_ms
from infra.metrics import Metrics
from infra.settings import Settings
from serving.connections import server_config
from serving.library import Library
from serving.ordering import Ordering
from serving.process import ScorerProcess
from serving.rank import Ranker
from serving.rankings_log import RankingsLog
from serving.scorer import Scorer
from serving.shared_scores import SharedScores
from serving.store_reader import StoreReader
from streams.events import Ranking, decode_record
from streams.topics import CLICKS, PLAYS, RANKINGS, THUMBS

GENRES = ("Noir", "Comedy", "Western", "Sci-Fi")
NAMES = ("Night Train", "Paper Moon", "Dust Road", "Far Signal", "Quiet City", "Broken Clock")
TITLES = 60


def make_items() -> list[Item]:
    """TITLES titles `t0`, `t1`, ...; their genres go round."""
    return [
        Item(
            item_id=f"t{number}",
            title=f"{NAMES[number % len(NAMES)]} {number}",
            genres=(GENRES[number % len(GENRES)],),
            year=1950 + number,
        )
        for number in range(TITLES)
    ]


class World:
    """Folds engagements into rows of the store, as both stages of the stream do."""

    def __init__(self, settings: Settings) -> None:
        self._store = FencedStore(settings.redis, settings.feast_project)
        self._offset = 0

    def close(self) -> None:
        self._store.close()

    def engage(self, user_id: str, item_id: str, kind: Kind = Kind.PLAY, *, age_ms: int = 1_000, **more: Any) -> None:
        """One engagement of a member, `age_ms` ago, in the rows of everybody whom it concerns."""
        self._offset += 1
        engagement = Engagement(
            kind=kind,
            event_id=f"event-{self._offset:016d}",
            user_id=user_id,
            event_ts_ms=now_ms() - age_ms,
            ingested_ts_ms=now_ms(),
            item_id=item_id,
            watched_ms=90 if kind is Kind.PLAY else 0,
            duration_ms=100 if kind is Kind.PLAY else 0,
            **more,
        )
        topic = {Kind.PLAY: PLAYS, Kind.CLICK: CLICKS, Kind.THUMB: THUMBS}[kind]
        log = f"{topic}-0"
        user = self._row(USER, user_id)
        deltas = fold_user(user.state, Coordinate(log, self._offset), engagement).deltas
        user.contained[log] = self._offset
        self._write(user)
        for delta in deltas:
            row = self._row(TARGET_FAMILIES[delta.entity], delta.key)
            FOLDS[delta.entity](row.state, delta)
            row.contained["deltas-0"] = self._offset
            self._write(row)

    def user(self, user_id: str) -> UserState:
        """A member's row as the store holds it."""
        state = self._row(USER, user_id).state
        assert isinstance(state, UserState)
        return state

    def _row(self, family: RowFamily, value: str) -> Row:
        return self._store.read_rows(family, [value])[0]

    def _write(self, row: Row) -> None:
        assert self._store.write_rows([row]) == [True]


def fill(world: World) -> None:
    """Titles with low numbers are the most played.

    `ann` has a history and a session, `bob` a history, `cy` a thumb down.
    """
    for number in range(20):
        for fan in range(20 - number):
            world.engage(f"fan{fan}", f"t{number}", age_ms=3_600_000 + number)
    for number in (1, 5, 9):
        world.engage("ann", f"t{number}", age_ms=5 * 86_400_000, country="DE")
        world.engage("bob", f"t{number}", age_ms=5 * 86_400_000)
    for number in (2, 6):
        world.engage("ann", f"t{number}", Kind.CLICK, age_ms=60_000, country="DE")
    world.engage("cy", "t0", Kind.THUMB, thumb=Thumb.DOWN)
    world.engage("dee", "t33", Kind.CLICK, age_ms=60_000, query="far")
    world.engage("dee", "t34", Kind.CLICK, age_ms=60_000, source_item_id="t1")


@contextlib.contextmanager
def running_scorer(settings: Settings) -> Iterator[tuple[ScorerProcess, httpx.Client]]:
    """A scorer behind a real HTTP server on a free port, and a client of it; ready when the block begins."""
    process = ScorerProcess(settings)
    with running_app(process.app, settings, process.metrics) as client:
        yield process, client


@contextlib.contextmanager
def running_app(app: Starlette, settings: Settings, metrics: Metrics) -> Iterator[httpx.Client]:
    """An app behind a real HTTP server on a free port; its client, once the app is ready."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(server_config(app, settings, metrics))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            with httpx.Client(base_url=url, trust_env=False, timeout=30.0) as client:
                wait_until(lambda: server.started and client.get("/health/ready").status_code == 200)
                yield client
        finally:
            server.should_exit = True
            thread.join(timeout=20)


def bare_ranker(rankings: RankingsLog, store: StoreReader | None = None, deadline_s: float = 0.05) -> Ranker:
    """A ranker without titles, rows and a model."""
    metrics = Metrics("scorer")
    library = Library(metrics)
    scorer = Scorer(library)
    return Ranker(
        scorer,
        StoreReader("", "nowrank") if store is None else store,
        rankings,
        metrics,
        deadline_s,
        Ordering(library, metrics),
        SharedScores(scorer, metrics, 0),
    )


def wait_until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Return once the condition holds; fail when it does not in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s"
        time.sleep(0.01)


def wait_for_ranking(settings: Settings, ranking_id: str) -> Ranking:
    """The logged ranking, once it is on the broker."""
    consumer = KafkaConsumer(
        RANKINGS, bootstrap_servers=settings.kafka, group_id=None, auto_offset_reset="earliest", fetch_max_wait_ms=20
    )
    found: list[Ranking] = []

    def look() -> bool:
        for records in consumer.poll(timeout_ms=50).values():
            events = (decode_record(RANKINGS, record.value) for record in records)
            found.extend(event for event in events if isinstance(event, Ranking) and event.ranking_id == ranking_id)
        return bool(found)

    wait_until(look)
    consumer.close()
    return found[0]


def metric(client: httpx.Client, name: str) -> float:
    """The value of one line of /metrics: a name with its labels; 0 when it is not there."""
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.rpartition(" ")[2])
    return 0.0
