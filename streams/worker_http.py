"""The HTTP endpoint of a worker or a canary: health and metrics, nothing else, on loopback unless told otherwise.

Enters: requests of supervisors and of Prometheus. Leaves: `/health/live`, `/health/ready`, `/metrics`. Started and
stopped by `app.py` and `canary.py`.
"""

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from infra.metrics import Metrics


class WorkerHttp:
    """Runs in the process's own event loop: a loop that stalls stops answering. `waits_for` is what a process that is
    not ready waits for.
    """

    def __init__(
        self,
        host: str,
        port: int,
        metrics: Metrics,
        is_ready: Callable[[], bool],
        waits_for: str = "partitions",
    ) -> None:
        self._host, self._port = host, port
        self._waits_for = waits_for
        self._metrics = metrics
        self._is_ready = is_ready
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen; raises `OSError` when the port is taken."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/health/live", self._live),
                web.get("/health/ready", self._ready),
                web.get("/metrics", self._scrape),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _live(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "live"})

    async def _ready(self, _: web.Request) -> web.Response:
        ready = self._is_ready()
        return web.json_response(
            {"status": "ready" if ready else f"waiting for {self._waits_for}"}, status=200 if ready else 503
        )

    async def _scrape(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
