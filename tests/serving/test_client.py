"""The Python client and the commands, against a real scorer."""

import asyncio
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

import nowrank
from infra.clock import now_ms
from infra.embedded.servers import free_port
from infra.errors import InvalidRequest, ScorerUnavailable
from nowrank.cli import main
from serving.client import AsyncScorer, Scorer
from serving.contract import RankRequest
from serving.retries import RetryPolicy
from streams.events import Click, Play, Thumb
from streams.producer import Producer, new_event_id
from tests.serving.world import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def url(client: httpx.Client) -> str:
    return str(client.base_url)


def click(**fields: object) -> Click:
    return Click(
        **({"event_id": str(uuid.uuid4()), "user_id": "ann", "item_id": "t1", "event_ts_ms": now_ms()} | fields)
    )  # type: ignore[arg-type]


def test_client_ranks_and_sends_events(url: str) -> None:
    with Scorer(url) as scorer:
        answer = scorer.rank("ann", "search", query="far", limit=3, explain=True)
        assert len(answer.items) == 3
        assert answer.items[0].parts is not None
        play = Play(
            event_id=str(uuid.uuid4()), user_id="ann", item_id="t1", event_ts_ms=now_ms(), watched_ms=1, duration_ms=2
        )
        assert scorer.send_events([click(), play]).accepted == 2
        assert scorer.send_events([]).accepted == 0
        assert scorer.health().status == "ready"


def test_client_raises_what_the_scorer_refuses(url: str) -> None:
    with Scorer(url) as scorer:
        with pytest.raises(InvalidRequest) as refused:
            scorer.rank("ann", "search")
        assert (refused.value.reason, refused.value.field) == ("missing_field", "query")
        with pytest.raises(InvalidRequest, match="quary"):
            scorer.rank("ann", quary="x")
        taken = scorer.send_events([click(item_id="")])
        assert (taken.accepted, taken.rejected[0].field) == (0, "item_id")


@pytest.mark.parametrize(
    ("fields", "begin"),
    [
        ({"limit": 0}, "limit: Expected `int` >= 1"),
        ({"items": ["t1", "\n"]}, "items[1]: Expected `str` matching regex"),
        ({"task": "search"}, "the task `search` needs a `query`"),
    ],
)
def test_what_the_client_raises_names_the_field_once(url: str, fields: dict[str, Any], begin: str) -> None:
    with Scorer(url) as scorer, pytest.raises(InvalidRequest) as refused:
        scorer.rank("ann", **fields)
    assert str(refused.value).startswith(begin)
    assert refused.value.field is not None
    assert not refused.value.message.startswith(refused.value.field), "HTTP's details leave it to the field beside them"


def test_the_docstring_of_rank_names_every_optional_field_that_its_signature_does_not() -> None:
    more = set(RankRequest.__struct_fields__) - set(inspect.signature(Scorer.rank).parameters)
    told = (Scorer.rank.__doc__ or "").partition("`more` are the other fields of `RankRequest`:")[2].partition(".")[0]
    assert set(re.findall(r"`(\w+)`", told)) == more


def test_client_says_when_nobody_answers() -> None:
    with Scorer("http://127.0.0.1:1") as scorer, pytest.raises(ScorerUnavailable, match="nowrank up"):
        scorer.rank("ann")


def test_async_client_ranks_and_sends_events(url: str) -> None:
    async def scenario() -> None:
        async with AsyncScorer(url, timeout_s=30) as scorer:
            answers = await asyncio.gather(*(scorer.rank("ann", limit=limit) for limit in (1, 2, 3)))
            assert [len(answer.items) for answer in answers] == [1, 2, 3]
            assert (await scorer.send_events([click()])).accepted == 1
            assert (await scorer.send_events([])).accepted == 0
            assert (await scorer.health()).status == "ready"
            with pytest.raises(InvalidRequest) as refused:
                await scorer.rank("ann", "search")
            assert (refused.value.reason, refused.value.field) == ("missing_field", "query")

    asyncio.run(scenario())


def test_the_front_door_leads_to_both_clients() -> None:
    assert (nowrank.Scorer, nowrank.AsyncScorer, nowrank.RetryPolicy) == (Scorer, AsyncScorer, RetryPolicy)
    assert (nowrank.Producer, nowrank.new_event_id) == (Producer, new_event_id)
    assert (nowrank.Click, nowrank.Play, nowrank.Thumb) == (Click, Play, Thumb)


def test_rank_command_prints_rows(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rank", "--url", url, "--user", "ann", "--query", "far", "--groups", "--rows", "2"]) == 0
    printed = capsys.readouterr().out
    assert "Titles for 'far'  [match]" in printed
    assert "Related to 'far'  [related]" in printed
    assert "[genre]" not in printed
    assert main(["rank", "--url", url, "--user", "ann", "--source", "t1", "--groups"]) == 1
    assert "more_like_this" in capsys.readouterr().err


def test_rank_command_prints_a_table(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rank", "--url", url, "--user", "ann", "--query", "far", "--limit", "60", "--explain"]) == 0
    printed = capsys.readouterr().out
    assert "Far Signal" in printed
    assert "context" in printed
    assert "session_engagements" in printed
    assert main(["rank", "--url", url, "--user", "ann", "--source", "t1", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["items"]) == 10


def test_rank_command_says_whether_its_answer_is_in_the_log(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["rank", "--url", url, "--user", "ann", "--limit", "1"]
    assert main(asked) == 0
    assert re.search(r"; ranking \S+, not logged \(--log\)\n", capsys.readouterr().out)
    assert main([*asked, "--log"]) == 0
    assert re.search(r"; ranking \S+\n", capsys.readouterr().out)


def test_rank_command_tells_what_is_wrong(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rank", "--url", url, "--user", "ann", "--country", "de"]) == 1
    assert "nowrank: country: Expected `str` matching" in capsys.readouterr().err
    assert main(["rank", "--url", url, "--user", "ann", "--limit", "0"]) == 1
    assert "nowrank: limit: Expected `int` >= 1" in capsys.readouterr().err
    assert main(["rank", "--url", "http://127.0.0.1:1", "--user", "ann"]) == 1
    assert "no scorer answers" in capsys.readouterr().err


def test_scorer_command_starts_with_nothing_and_ends_when_told(tmp_path: Path) -> None:
    port = free_port()
    environment = {**os.environ, "NOWRANK_STATE_DIR": str(tmp_path), "NOWRANK_KAFKA": "", "NOWRANK_REDIS": ""}
    command = [sys.executable, "-m", "nowrank.cli", "scorer", "--port", str(port)]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, env=environment, stderr=log) as process:
        try:

            def ready() -> bool:
                try:
                    return httpx.get(f"http://127.0.0.1:{port}/health/ready", trust_env=False).status_code == 200
                except httpx.HTTPError:
                    return False

            wait_until(ready, 60)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_scorer_never_loads_torch_faust_or_feast() -> None:
    code = (
        "import sys, serving.process, serving.commands, serving.client\n"
        "print(sorted({'torch', 'faust', 'feast', 'onnx', 'pandas'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
