"""Tokens and rate limits: who may ask, how often, and that tokens stay secret."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from starlette.testclient import TestClient

from infra.errors import InvalidRequest, ScorerUnavailable
from infra.settings import Settings
from nowrank.cli import main
from serving.access import RateLimit, Tokens
from serving.client import Scorer
from tests.serving.test_admission import BusyRanker, make_app
from tests.serving.world import metric, running_scorer

QUESTION = {"user_id": "ann", "task": "pre_query"}
TOKEN, SECOND, ADMIN = "canary-token-1", "canary-token-2", "canary-operator"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def client_of(**changes: Any) -> TestClient:
    return TestClient(make_app(BusyRanker(), **changes))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, artifact_dir: Path) -> Iterator[tuple[httpx.Client, Path]]:
    """A scorer that wants tokens, and the folder where it looks for its model."""
    folder = tmp_path_factory.mktemp("guarded")
    settings = Settings(
        state_dir=folder, artifact_dir=str(folder / "artifact"), api_token=f"{TOKEN}, {SECOND}", admin_token=ADMIN
    )
    with running_scorer(settings) as (_, client):
        yield client, folder / "artifact"


@pytest.mark.parametrize("path", ["/rank", "/events", "/items"])
@pytest.mark.parametrize(
    "headers", [{}, bearer("wrong"), bearer(""), bearer(TOKEN + "x"), {"Authorization": f"Basic {TOKEN}"}]
)
def test_without_its_token_a_caller_gets_401(path: str, headers: dict[str, str]) -> None:
    answer = client_of(api_token=TOKEN).post(path, json=QUESTION, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert TOKEN not in answer.text


def test_each_of_several_tokens_is_good_and_health_needs_none(guarded: tuple[httpx.Client, Path]) -> None:
    client, _ = guarded
    for token in (TOKEN, SECOND):
        assert client.post("/rank", json=QUESTION, headers=bearer(token)).status_code == 200
    for path in ("/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200
    assert client.post("/rank", json=QUESTION).status_code == 401
    assert metric(client, 'nowrank_scorer_refused_total{reason="token"}') >= 1


def test_python_client_sends_the_token(guarded: tuple[httpx.Client, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(guarded[0].base_url)
    with Scorer(url, token=TOKEN) as scorer:
        assert scorer.rank("ann").ranking_id
    with Scorer(url, token="wrong") as scorer, pytest.raises(InvalidRequest) as refused:
        scorer.rank("ann")
    assert refused.value.reason == "unauthorized"
    monkeypatch.setenv("NOWRANK_API_TOKEN", f"{SECOND},other")
    with Scorer(url) as scorer:
        assert scorer.rank("ann").ranking_id


def test_rank_command_without_the_right_token_says_where_it_is_set(
    guarded: tuple[httpx.Client, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["rank", "--url", str(guarded[0].base_url), "--user", "ann"]
    for wrong in ("", "wrong"):
        monkeypatch.setenv("NOWRANK_API_TOKEN", wrong)
        assert main(asked) == 1
        assert "Authorization: Bearer TOKEN`; set NOWRANK_API_TOKEN" in capsys.readouterr().err
    monkeypatch.setenv("NOWRANK_API_TOKEN", TOKEN)
    assert main([*asked, "--task", "search"]) == 1
    assert "NOWRANK_API_TOKEN" not in capsys.readouterr().err
    assert main(asked) == 0


def test_python_client_calls_a_rate_limit_unavailable_and_not_invalid() -> None:
    class Refusing(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(429)

    scorer = Scorer("http://scorer")
    scorer._http = httpx.Client(base_url="http://scorer", transport=Refusing())
    with pytest.raises(ScorerUnavailable, match="429"):
        scorer.rank("ann")


def test_operators_routes_are_not_there_without_a_token_in_the_settings() -> None:
    client = client_of()
    for path in ("/admin/log-level", "/admin/reload"):
        assert client.post(path, json={"level": "DEBUG"}, headers=bearer("")).status_code == 404


def test_operators_routes_need_the_operators_token() -> None:
    client = client_of(admin_token=ADMIN, api_token=TOKEN)
    for path in ("/admin/log-level", "/admin/reload"):
        assert client.post(path, json={"level": "DEBUG"}).status_code == 401
        assert client.post(path, json={"level": "DEBUG"}, headers=bearer(TOKEN)).status_code == 403


def test_log_level_changes_at_once(guarded: tuple[httpx.Client, Path]) -> None:
    client, root = guarded[0], logging.getLogger()
    before = root.level
    try:
        answer = client.post("/admin/log-level", json={"level": "DEBUG"}, headers=bearer(ADMIN))
        assert (answer.status_code, answer.json()) == (200, {"level": "DEBUG"})
        assert root.level == logging.DEBUG
        for bad in (b'{"level": "LOUD"}', b"{}", b"nonsense", b""):
            refused = client.post("/admin/log-level", content=bad, headers=bearer(ADMIN))
            assert refused.status_code in (400, 422), bad
        assert root.level == logging.DEBUG
    finally:
        root.setLevel(before)


def test_reload_answers_with_the_model_that_was_found(guarded: tuple[httpx.Client, Path], artifact_dir: Path) -> None:
    client, folder = guarded
    assert client.post("/admin/reload", headers=bearer(ADMIN)).json()["model"] == ""
    shutil.copytree(artifact_dir, folder)
    answer = client.post("/admin/reload", headers=bearer(ADMIN))
    assert answer.status_code == 200
    assert answer.json()["model"]


def test_more_requests_than_the_rate_are_429_and_say_when_to_come_again() -> None:
    client = client_of(rate_limit=0.5)
    assert client.post("/rank", json=QUESTION).status_code == 200
    refused = client.post("/rank", json=QUESTION)
    assert refused.status_code == 429
    assert refused.headers["content-type"] == "application/problem+json"
    assert 1 <= int(refused.headers["retry-after"]) <= 2
    assert client.get("/health/live").status_code == 200


def test_wrong_tokens_use_up_the_rate_of_their_address_and_not_of_a_token() -> None:
    client = client_of(rate_limit=0.001, api_token=TOKEN)
    codes = [client.post("/rank", json=QUESTION, headers=bearer(f"guess {n}")).status_code for n in range(3)]
    assert codes == [401, 429, 429]
    assert client.post("/rank", json=QUESTION, headers=bearer(TOKEN)).status_code == 200


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_bucket_gives_a_burst_and_then_the_rate() -> None:
    clock = Clock()
    limit = RateLimit(5.0, clock_s=clock)
    assert [limit.wait_s("ann") for _ in range(5)] == [0.0] * 5
    assert limit.wait_s("ann") == pytest.approx(0.2)
    assert limit.wait_s("bob") == 0.0, "each caller has a bucket"
    clock.now_s += 0.2
    assert limit.wait_s("ann") == 0.0
    assert limit.wait_s("ann") > 0
    clock.now_s += 3600
    assert [limit.wait_s("ann") > 0 for _ in range(6)] == [False] * 5 + [True], "an hour's silence saves one second's"


def test_number_of_callers_is_bounded_and_the_one_not_seen_longest_is_forgotten() -> None:
    limit = RateLimit(1.0, max_callers=3, clock_s=Clock())
    for caller in ("a", "b", "c"):
        limit.wait_s(caller)
    assert limit.wait_s("a") > 0
    limit.wait_s("d")
    assert len(limit) == 3
    assert limit.wait_s("a") > 0, "seen lately, so not forgotten"
    assert limit.wait_s("b") == 0.0, "forgotten, so it begins anew"


def test_header_that_is_no_text_is_a_wrong_token() -> None:
    scope = cast(Any, {"headers": [(b"authorization", b"Bearer \xff\xfe")]})
    assert Tokens(TOKEN).caller(scope) is None


def test_tokens_are_neither_printed_nor_part_of_the_settings_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("NOWRANK_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("NOWRANK_API_TOKEN", TOKEN)
    monkeypatch.setenv("NOWRANK_ADMIN_TOKEN", ADMIN)
    assert main(["settings"]) == 0
    shown = capsys.readouterr().out + repr(Settings(api_token=TOKEN, admin_token=ADMIN))
    assert "***" in shown
    assert TOKEN not in shown
    assert ADMIN not in shown
