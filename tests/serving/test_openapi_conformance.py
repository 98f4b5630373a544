"""Schemathesis sends the real scorer what its OpenAPI document allows and what it forbids; answers must be as written.

The scorer has a model, and a broker and a store of its own: what is made up here must not reach other tests' titles.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from infra.embedded import EmbeddedServers
from infra.settings import Settings
from streams.topics import create_topics
from tests.serving.world import metric, running_scorer

pytestmark = pytest.mark.slow

CALLER, OPERATOR = "caller-token", "operator-token"
EXAMPLES = "60"
CONFORMANCE = (
    "status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,"
    "unsupported_method,allow_header_conformance"
)
VALIDATION = "not_a_server_error,negative_data_rejection,positive_data_acceptance,ignored_auth"
# 413: an array that is too long. 422: what no schema can say (a blank query, a title both pinned and blocked, a time
# that is too far ahead, 7.0 for 7).
RULES = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 413, 422]
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 422]
"""


@pytest.fixture(scope="module")
def well(artifact_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A scorer that wants tokens, with everything behind it."""
    folder = tmp_path_factory.mktemp("conformance")
    with EmbeddedServers(folder / "servers") as servers:
        settings = Settings(
            state_dir=folder,
            kafka=servers.kafka,
            redis=servers.redis,
            artifact_dir=str(artifact_dir),
            rank_deadline_ms=2_000,
            api_token=CALLER,
            admin_token=OPERATOR,
        )
        create_topics(settings)
        with running_scorer(settings) as (_, client):
            yield str(client.base_url)


@pytest.fixture
def poor(tmp_path: Path) -> Iterator[tuple[str, httpx.Client]]:
    """A scorer without store, broker and model, whose callers may ask a few times a second only."""
    settings = Settings(state_dir=tmp_path, rate_limit=5.0, api_token=CALLER)
    with running_scorer(settings) as (_, client):
        yield str(client.base_url), client


def report_of(url: str, folder: Path, checks: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "schemathesis.toml").write_text(RULES)
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--url", url),
        *("--checks", checks, "--mode", "all", "--generation-deterministic", "--no-color", *arguments),
    ]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("paths", "token"), [("^/(?!admin)", CALLER), ("^/admin", OPERATOR)], ids=["caller", "operator"]
)
def test_every_answer_is_one_that_the_document_allows(well: str, tmp_path: Path, paths: str, token: str) -> None:
    asked = ("--include-path-regex", paths, "--header", f"Authorization: Bearer {token}")
    phases = ("--phases", "examples,coverage,fuzzing", "--max-examples", EXAMPLES)
    report = report_of(well, tmp_path, f"{CONFORMANCE},{VALIDATION}", *asked, *phases)
    assert report.returncode == 0, report.stdout + report.stderr


@pytest.mark.parametrize("token", [CALLER, "wrong"])
def test_refusals_are_those_of_the_document_with_their_headers(
    poor: tuple[str, httpx.Client], tmp_path: Path, token: str
) -> None:
    url, client = poor
    asked = ("--include-path-regex", "^/(rank|events|items)", "--header", f"Authorization: Bearer {token}")
    report = report_of(url, tmp_path, CONFORMANCE, *asked, "--phases", "examples,fuzzing", "--max-examples", "20")
    assert report.returncode == 0, report.stdout + report.stderr
    assert metric(client, 'nowrank_scorer_refused_total{reason="rate_limit"}') > 0
    answered = metric(client, 'nowrank_scorer_requests_total{code="401",route="/events"}')
    answered += metric(client, 'nowrank_scorer_requests_total{code="503",route="/events"}')
    assert answered > 0, "or no other refusal was seen"
