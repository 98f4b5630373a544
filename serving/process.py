"""The scorer's process: what it holds, how it starts, keeps itself fresh and ends.

Enters: settings. Leaves: an ASGI application that is ready once it is warm. Called by `nowrank scorer`, and by the
tests.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from starlette.applications import Starlette

from infra.clock import monotonic_s, now_ms, thread_cpu_s
from infra.metrics import Metrics
from infra.settings import Settings
from infra.shared_metrics import SharedMetrics
from serving.api import Api, build_app
from serving.artifact_watch import ArtifactWatch
from serving.breaker import Breaker, BreakerRule
from serving.contract import Health
from serving.experiments import artifact_folder, parse_experiment
from serving.intake import Intake
from serving.library import Library
from serving.near_cache import NearCache
from serving.ordering import Ordering
from serving.rank import Ranker
from serving.rankings_log import RankingsLog
from serving.rerank import parse_rules
from serving.scorer import Scorer
from serving.shared_scores import SharedScores
from serving.store_reader import StoreReader
from streams.catalogue import CatalogueFollower

HOUSEKEEPING_S = 0.5
HOUSEKEEPING_SHARE = 0.05  # of the time, at most
ARTIFACT_POLL_S = 1.0
# How long the first answer waits for a catalogue that may never come.
CATALOGUE_WAIT_S = 5.0

T = TypeVar("T")

log = logging.getLogger(__name__)


class ScorerProcess:
    """Everything that lives as long as the process; `app` starts and stops it.

    With `shared` it is one of several on one port: it takes no connection before it is warm, since others are.
    """

    def __init__(self, settings: Settings, shared: SharedMetrics | None = None) -> None:
        self.settings = settings
        self.metrics = Metrics("scorer", shared=shared)
        self.metrics.count("nowrank_scorer_starts_total")
        self._has_siblings = shared is not None
        self.library = Library(self.metrics)
        self.scorer = Scorer(self.library)
        self._store = StoreReader(
            settings.redis,
            settings.feast_project,
            Breaker(BreakerRule(settings.store_failures, pause_s=settings.store_pause_ms / 1000), self._note_breaker),
        )
        self._rankings = RankingsLog(settings, self.metrics)
        self._intake = Intake(settings, self.metrics)
        experiment = parse_experiment(settings)
        self._watches = [
            ArtifactWatch(artifact_folder(settings, variant), self.scorer, self.metrics, variant)
            for variant in experiment.variants
        ]
        self._follower = CatalogueFollower(settings)
        self._near_cache: NearCache | None = None
        self._store_is_up = False
        self._is_warm = False
        self._looking_at_titles = asyncio.Lock()
        ordering = Ordering(self.library, self.metrics, parse_rules(settings))
        ranker = Ranker(
            self.scorer,
            self._store,
            self._rankings,
            self.metrics,
            settings.rank_deadline_ms / 1000,
            ordering,
            SharedScores(self.scorer, self.metrics, settings.answer_cache_s),
            experiment,
        )
        api = Api(ranker, self._intake, self.metrics, self.health, settings, self._look_again)
        self.app = build_app(api, self._lifespan)

    def health(self) -> Health:
        """What the process can answer with now."""
        model = self.scorer.model
        return Health(
            status="ready" if self._is_warm else "warming_up",
            model="" if model is None else model.artifact.version,
            items=self.library.titles_count,
            item_rows=self.library.rows_count,
            store="ok" if self._store_is_up else "missing",
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        if self.settings.redis:
            self._near_cache = NearCache(
                self.settings,
                deliver=lambda rows: _hand_over(loop, self.library.put_rows, rows),
                report=lambda is_up: _hand_over(loop, self._note_store, is_up),
            )
            self._near_cache.start()
        else:
            log.warning(
                "no store is set: answers know nothing of members and of what is trending; set NOWRANK_REDIS=host:port"
            )
        if self.settings.kafka:
            self._follower.start()
            self._rankings.start()
        else:
            log.warning(
                "no broker is set: there is no catalogue and rankings are not logged; set NOWRANK_KAFKA=host:port"
            )
        tasks = [asyncio.create_task(self._warm_up()), asyncio.create_task(self._keep_house())]
        try:
            while self._has_siblings and not self._is_warm and not tasks[0].done():
                await asyncio.sleep(0.02)
            yield
        finally:
            await self._end(tasks)

    async def _end(self, tasks: "list[asyncio.Task[None]]") -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._store.close()
        await asyncio.to_thread(self._stop_threads)

    def _stop_threads(self) -> None:
        if self._near_cache is not None:
            self._near_cache.stop()
        self._rankings.stop()
        self._follower.stop()
        self._intake.close()

    async def _warm_up(self) -> None:
        """Wait for the first look at everything, or for it to have failed.

        Then the first answer is as quick as the others.
        """
        begin_s = monotonic_s()
        await _looked(self._look_at_artifacts(), "artifacts")
        while self._near_cache is not None and not self._near_cache.tried:
            await asyncio.sleep(0.02)
        while self.settings.kafka and not self._follower.ready and monotonic_s() - begin_s < CATALOGUE_WAIT_S:
            await asyncio.sleep(0.02)
        await _looked(self._freshen(), "titles")
        await _looked(self._look_at_artifacts(), "artifacts")
        self._is_warm = True
        log.info("ready after %.1f s: %s", monotonic_s() - begin_s, self.health())
        while True:
            await asyncio.sleep(ARTIFACT_POLL_S)
            await _looked(self._look_at_artifacts(), "artifacts")

    async def _look_at_artifacts(self) -> None:
        for watch in self._watches:
            await watch.look()

    async def _look_again(self) -> None:
        for watch in self._watches:
            await watch.look_again()

    async def _keep_house(self) -> None:
        took_s = 0.0
        while True:
            await asyncio.sleep(max(HOUSEKEEPING_S, took_s / HOUSEKEEPING_SHARE))
            took_s = await _looked(self._freshen(), "titles") or 0.0

    async def _freshen(self) -> float:
        """Take the catalogue over, and look at all titles in a thread, one look at a time: with many it takes a while.

        The processor seconds that the look took: those that it waited on a busy machine are no reason to wait longer.
        """

        def refresh() -> float:
            begin_s = thread_cpu_s()
            self.library.refresh(now_ms())
            return thread_cpu_s() - begin_s

        async with self._looking_at_titles:
            await self.library.put_catalogue(self._follower.catalogue)
            return await asyncio.to_thread(refresh)

    def _note_store(self, is_up: bool) -> None:
        self._store_is_up = is_up
        self.metrics.set("nowrank_scorer_store_up", float(is_up))

    def _note_breaker(self, is_open: bool) -> None:
        self.metrics.set("nowrank_scorer_store_breaker_open", float(is_open))


async def _looked(look: Awaitable[T], at: str) -> T | None:
    """What a look brings; None, and a line in the log, when it fails: the next one may not, and an old view answers
    better than one that is never renewed again.
    """
    try:
        return await look
    except Exception:
        log.exception("a look at the %s failed; answers go by the last one", at)
        return None


def _hand_over(loop: asyncio.AbstractEventLoop, function: Callable[[T], None], argument: T) -> None:
    """Call a function in the loop's thread, which alone changes what requests read."""
    with contextlib.suppress(RuntimeError):  # the loop has ended before the thread did
        loop.call_soon_threadsafe(function, argument)
