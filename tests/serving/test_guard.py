"""A bug in the scorer is the scorer's problem: the caller gets a problem document, the log gets the trace."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from infra.metrics import Metrics
from infra.settings import Settings
from serving.api import Api, build_app
from serving.contract import Health
from serving.intake import Intake


class BrokenRanker:
    """Fails at every request."""

    async def rank(self, request: object) -> Any:
        raise RuntimeError("the inside of the scorer")


@contextlib.asynccontextmanager
async def no_lifespan(app: Starlette) -> AsyncIterator[None]:
    yield


def test_unexpected_failure_is_a_problem_without_a_trace(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics("scorer")
    api = Api(cast(Any, BrokenRanker()), Intake(Settings(), metrics), metrics, lambda: Health(status="ready"))
    with TestClient(build_app(api, no_lifespan)) as client:
        answer = client.post("/rank", json={"user_id": "canary@example.org", "task": "pre_query"})
        alive = client.get("/health/live")
    assert (answer.status_code, alive.status_code) == (500, 200)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:nowrank:problem:internal-server-error"
    assert "inside" not in answer.text
    assert "the inside of the scorer" in caplog.text
    assert "canary" not in caplog.text
    counted = {"route": "/rank", "code": "500"}
    assert metrics.registry.get_sample_value("nowrank_scorer_requests_total", counted) == 1
