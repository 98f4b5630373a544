"""The documentation page in a real browser: what it shows, and that a token goes with the requests that it is for."""

import json
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from infra.settings import Settings
from serving.api import DOCS_HEADERS
from serving.openapi import openapi_document
from serving.process import ScorerProcess
from tests.serving.world import running_app

CALLER, OPERATOR = "caller-token", "operator-token"
# What a person does on the page: type into the fields, open a route, press its button; then wait for the answer.
HAND = """
<script>
addEventListener("load", async () => {
  const until = async found => { while (!found()) await new Promise(done => setTimeout(done, 20)); return found(); };
  const box = await until(() => [...document.querySelectorAll("main details")]
    .find(one => one.querySelector("summary code").textContent === "PATH"));
  const typed = TYPED;
  for (const name in typed) {
    const field = document.getElementById("token-" + name);
    field.value = typed[name];
    field.dispatchEvent(new Event("input"));
  }
  box.querySelector("button").click();
  await until(() => box.querySelector("pre").textContent);
  document.title = "answered " + box.querySelector("pre").textContent.slice(0, 3);
});
</script>
"""


def see(url: str, folder: Path) -> str:
    """A page's elements as a browser shows them, once its script has run."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser is here: apt-get install chromium")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'browser'}"]
    return subprocess.run(
        [*command, "--virtual-time-budget=20000", "--dump-dom", url], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "typed", "code"),
    [
        ("/rank", {}, 401),
        ("/rank", {"caller": CALLER}, 200),
        ("/rank", {"operator": OPERATOR}, 401),
        ("/admin/log-level", {"caller": CALLER}, 401),
        ("/admin/log-level", {"caller": CALLER, "operator": OPERATOR}, 200),
    ],
)
def test_token_that_is_typed_in_goes_with_the_requests_that_it_is_for(
    tmp_path: Path, path: str, typed: dict[str, str], code: int
) -> None:
    page = (files("serving") / "docs.html").read_text() + HAND.replace("PATH", path).replace("TYPED", repr(typed))

    async def watched_page(request: Request) -> Response:
        return Response(page, headers=DOCS_HEADERS, media_type="text/html")

    settings = Settings(state_dir=tmp_path, api_token=CALLER, admin_token=OPERATOR)
    process = ScorerProcess(settings)
    process.app.router.routes.append(Route("/watched", watched_page))
    with running_app(process.app, settings, process.metrics) as client:
        seen = see(f"{client.base_url}/watched", tmp_path)
    assert f"<title>answered {code}</title>" in seen
    assert "<legend>Authorize</legend>" in seen
    assert not any(token in seen.split("<script>")[0] for token in typed.values()), "a token is not shown"


@pytest.mark.slow
def test_names_in_descriptions_are_set_as_code_and_each_example_is_seen_whole(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    process = ScorerProcess(settings)
    with running_app(process.app, settings, process.metrics) as client:
        seen = see(f"{client.base_url}/docs", tmp_path).split("<script>")[0]
    assert "Ranks the given <code>items</code>, or finds" in seen, "of an operation"
    assert "try again after <code>Retry-After</code></td>" in seen, "of an answer"
    assert "one of <code>NOWRANK_API_TOKEN</code>, where it is set</span>" in seen, "of a token"
    assert "<code>context + long_term + short_term</code> is <code>score</code>." in seen, "of a schema"
    assert "`" not in seen
    posts = [methods["post"] for methods in openapi_document()["paths"].values() if "post" in methods]
    media = [post["requestBody"]["content"]["application/json"] for post in posts if "requestBody" in post]
    rows = [len(json.dumps(one["example"], indent=2).splitlines()) + 1 for one in media]
    assert [int(found) for found in re.findall(r'<textarea [^>]*rows="(\d+)"', seen)] == rows
