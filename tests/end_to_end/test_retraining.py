"""Retraining on a running stack: what the scorer has logged trains a model, which the scorer then answers with."""

import json
import random
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from features.catalogue import Item
from features.registry import schema_hash
from features.vector import COLUMN_NAMES
from infra.clock import monotonic_s, now_ms
from infra.embedded.control import start_stack, stop_stack
from infra.settings import Settings
from nowrank.cli import main
from serving.client import Scorer
from streams.events import Click
from streams.producer import Producer, new_event_id
from streams.served_log import TOPIC, ServedLog, read_served_log
from tests.serving.untrained import save_untrained_artifact

pytestmark = pytest.mark.slow
ASKED = 520
TASKS = ("pre_query", "search", "more_like_this")
WAIT_S = 60.0
ITEMS = [Item(item_id=f"t{n}", title=f"Title {n}", kind="movie", genres=(("Drama", "Noir")[n % 2],)) for n in range(30)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A stack whose scorer answers with a model that nobody trained, and whose windows are over after a moment."""
    settings = Settings(state_dir=tmp_path_factory.mktemp("stack"), label_workers=1, label_window_s=1)
    save_untrained_artifact(settings.artifact_path, ITEMS)
    started = start_stack(settings, tied=True, only=("broker", "redis", "worker", "scorer"), say=lambda line: None)
    yield replace(settings, **{name: started[name] for name in ("kafka", "redis", "scorer_url")})
    stop_stack(settings, say=lambda line: None)


def serve(stack: Settings) -> None:
    """Members ask, and like one genre each."""
    draw = random.Random(0)
    with Scorer(stack.scorer_url) as scorer, Producer(stack) as producer:
        for item in ITEMS:
            producer.send_item(item)
        for number in range(ASKED):
            task = TASKS[number % len(TASKS)]
            more = {"search": {"query": "title"}, "more_like_this": {"source_item_id": "t1"}}.get(task, {})
            user = f"u{number % 20}"
            answer = scorer.rank(user, task, limit=8, **more)
            for place, item in enumerate(answer.items, 1):
                if int(item.item_id[1:]) % 2 == number % 2 and draw.random() < 1 / place:
                    ids = {"event_id": new_event_id(), "user_id": user, "item_id": item.item_id}
                    producer.send(Click(**ids, event_ts_ms=now_ms(), ranking_id=answer.ranking_id, position=place))


def await_log(stack: Settings) -> ServedLog:
    """The served log once the stage has labelled every answer. The log's own newest time says whose window is over, so
    it has to go on.
    """
    deadline_s = monotonic_s() + WAIT_S
    with Producer(stack) as producer:
        while len((served := read_served_log(stack)).rankings) < ASKED or served.labels_from != TOPIC:
            assert monotonic_s() < deadline_s, (served.left_out, served.labels_from)
            producer.send(Click(event_id=new_event_id(), user_id="later", item_id="t0", event_ts_ms=now_ms()))
            producer.flush()
    return served


def test_what_was_served_trains_a_model_that_is_promoted_and_answers(
    stack: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NOWRANK_STATE_DIR", str(stack.state_dir))
    monkeypatch.setenv("NOWRANK_LABEL_WINDOW_S", "1")
    serve(stack)
    served = await_log(stack)
    assert {one.ranking.schema_hash for one in served.rankings} == {schema_hash(COLUMN_NAMES)}
    candidate = stack.state_dir / "candidate"
    assert main(["train", "--from", "served", "--out", str(candidate), "--threads", "1", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["training"]["labels_from"] == "topic"
    assert set(card["training"]["rankings"]) == {"logged"}
    assert main(["promote", str(candidate), "--ece", "0", "--json"]) == 1
    assert main(["promote", str(candidate), "--ece", "100", "--margin", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["judged_on"] == "served"
    deadline_s = monotonic_s() + WAIT_S
    with Scorer(stack.scorer_url) as scorer:
        while scorer.rank("u1", "pre_query").model != card["version"]:
            assert monotonic_s() < deadline_s, "the scorer did not take the new artifact"
            time.sleep(0.2)
