"""The documentation page in a real browser: a token that is typed in goes with the requests that it is for."""

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
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser is here: apt-get install chromium")
    page = (files("serving") / "docs.html").read_text() + HAND.replace("PATH", path).replace("TYPED", repr(typed))

    async def watched_page(request: Request) -> Response:
        return Response(page, headers=DOCS_HEADERS, media_type="text/html")

    settings = Settings(state_dir=tmp_path, api_token=CALLER, admin_token=OPERATOR)
    process = ScorerProcess(settings)
    process.app.router.routes.append(Route("/watched", watched_page))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
    with running_app(process.app, settings, process.metrics) as client:
        seen = subprocess.run(
            [*command, "--virtual-time-budget=20000", "--dump-dom", f"{client.base_url}/watched"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    assert f"<title>answered {code}</title>" in seen
    assert "<legend>Authorize</legend>" in seen
    assert not any(token in seen.split("<script>")[0] for token in typed.values()), "a token is not shown"
