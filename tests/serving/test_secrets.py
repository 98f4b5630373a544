"""Neither user ids nor tokens nor what was sent reach the scorer's log or what a dead letter says."""

import logging
import os
import subprocess
import sys
import uuid
from dataclasses import replace
from typing import Any, cast

import pytest

from infra.clock import now_ms
from infra.errors import InvalidEvent
from infra.redaction import hash_id
from infra.settings import Settings
from serving.api import build_app
from streams.dead_letters import DeadLetter
from streams.events import decode_record
from streams.log_records import Record
from streams.topics import CLICKS
from tests.serving.test_admission import make_api, no_lifespan
from tests.serving.world import running_app, running_scorer

USER = "canary.member@example.org"
TOKEN = "canary-token-0123456789"
QUESTION = {"user_id": USER, "task": "pre_query"}
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def event(**changes: Any) -> dict[str, Any]:
    fields = {"type": "click", "event_id": str(uuid.uuid4()), "user_id": USER, "item_id": "t1", "event_ts_ms": now_ms()}
    return fields | changes


@pytest.fixture
def everything(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """All that is logged, at the level that says most."""
    caplog.set_level(logging.DEBUG)
    return caplog


def said(caplog: pytest.LogCaptureFixture) -> str:
    """The log as a handler would write it, traces included."""
    formatter = logging.Formatter("%(levelname)s %(name)s: %(message)s")
    return "\n".join(formatter.format(record) for record in caplog.records if record.name.split(".")[0] != "httpx")


def test_canary_user_and_token_are_not_in_the_scorers_log(
    world_settings: Settings, everything: pytest.LogCaptureFixture
) -> None:
    settings = replace(world_settings, api_token=TOKEN, admin_token=f"{TOKEN}-admin")
    with running_scorer(settings) as (_, client):
        client.headers.update(HEADERS)
        assert client.post("/rank", json=QUESTION).status_code == 200
        assert client.post("/events", json=event()).status_code == 200
        for bad in (event(type=USER), event(task=USER), event(item_id=7), event(event_ts_ms=USER), {USER: USER}):
            assert client.post("/events", json=bad).status_code == 422
        assert client.post("/rank", json=QUESTION | {USER: 1}).status_code == 422
        assert client.post("/rank", content=USER.encode()).status_code == 400
        assert client.post("/rank", json=QUESTION, headers={"Authorization": f"Bearer {TOKEN}x"}).status_code == 401
        assert client.post("/admin/reload", headers=HEADERS).status_code == 403
    assert "canary" not in said(everything)
    assert "ready after" in said(everything), "there was a log to look at"


@pytest.mark.parametrize(("level", "expected"), [("DEBUG", "WARNING"), ("INFO", "WARNING"), ("ERROR", "ERROR")])
@pytest.mark.parametrize(
    "start", ["main(['scorer', '--port', '99999'])", "configure_logs(os.environ['NOWRANK_LOG_LEVEL'], 'scorer-1')"]
)
def test_a_scorers_kafka_client_tells_no_records_and_no_more_than_was_asked_for(
    start: str, level: str, expected: str
) -> None:
    imports = "import logging, os; from infra.logs import configure_logs; from nowrank.cli import main"
    program = f"{imports}; {start}; print(logging.getLevelName(logging.getLogger('kafka').getEffectiveLevel()))"
    environment = {**os.environ, "NOWRANK_LOG_LEVEL": level}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{expected}\n"


class BrokenRanker:
    async def rank(self, request: Any) -> Any:
        try:
            raise KeyError(request.user_id)
        except KeyError as error:
            raise RuntimeError(f"no row of {request.user_id!r}") from error


class BrokenIntake:
    async def take_events(self, body: bytes, *, is_lines: bool) -> Any:
        raise RuntimeError(f"cannot take {body!r}")


def test_failure_is_logged_with_a_digest_for_the_user_and_without_the_events(
    everything: pytest.LogCaptureFixture,
) -> None:
    api = replace(make_api(BrokenRanker()), intake=cast(Any, BrokenIntake()))
    with running_app(build_app(api, no_lifespan), api.settings, api.metrics) as client:
        assert client.post("/rank", json=QUESTION).status_code == 500
        assert client.post("/events", json=event()).status_code == 500
    text = said(everything)
    assert "canary" not in text
    assert f"RuntimeError: no row of '{hash_id(USER)}'" in text
    assert "in take_events" in text


@pytest.mark.parametrize(
    "value",
    [
        b'{"type": "click", "user_id": "%s", "item_id": 7}' % USER.encode(),
        b'{"type": "%s"}' % USER.encode(),
        b'{"type": "click", "user_id": "%s' % USER.encode(),
        USER.encode(),
    ],
)
def test_dead_letter_says_why_without_what_was_sent_and_keeps_the_record(value: bytes) -> None:
    with pytest.raises(InvalidEvent) as refused:
        decode_record(CLICKS, value)
    record = Record(CLICKS, 0, 7, 1, value)
    letter = DeadLetter.of(record, refused.value.reason, refused.value.message)
    assert letter.message
    assert "canary" not in letter.message
    assert letter.raw == value, "what is needed to repair it"
