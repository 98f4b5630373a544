"""The stage `labels` on a running stack: lists and reactions in, labels on their topic, also across a kill -9."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from infra.clock import monotonic_s, now_ms
from infra.embedded.control import start_stack, stop_stack
from infra.embedded.stack_file import running_stack
from infra.settings import Settings
from streams.audit.log_reader import LogReader
from streams.events import Click, Engaged, Ranking, ServedItem, Thumb
from streams.producer import Producer, new_event_id
from streams.served_log import JOINED, TOPIC, read_served_log
from streams.shown_labels import RankingLabels, decode_labels, newest_labels
from streams.topics import LABELS

pytestmark = pytest.mark.slow
WAIT_S = 60.0
USERS = 20


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Broker, Redis, and a worker of each stage, `labels` among them."""
    settings = Settings(state_dir=tmp_path_factory.mktemp("stack"), label_workers=1, label_window_s=600)
    parts = ("broker", "redis", "worker")
    started = start_stack(settings, tied=True, only=parts, say=lambda line: None)
    yield replace(settings, **{name: started[name] for name in ("kafka", "redis")})
    stop_stack(settings, say=lambda line: None)


def written(settings: Settings) -> dict[str, RankingLabels]:
    with LogReader(settings) as reader:
        spans = list(reader.spans([LABELS]).values())
        return newest_labels([decode_labels(record.value) for span in spans for record in reader.read_span(span)])


def await_positives(settings: Settings, expected: dict[str, set[str]]) -> None:
    deadline_s = monotonic_s() + WAIT_S
    while {name: labels.positives for name, labels in written(settings).items()} != expected:
        assert monotonic_s() < deadline_s, "the labels did not come"
        time.sleep(0.1)


def kill_label_worker(settings: Settings) -> None:
    running = running_stack(settings.state_dir)
    assert running is not None
    [worker] = [process for process in running["processes"] if process["name"] == "labels-0"]
    os.kill(worker["pid"], signal.SIGKILL)


def test_lists_get_their_labels_and_late_reactions_amend_them(stack: Settings) -> None:
    begin_ms = now_ms() - 3_600_000
    items = [ServedItem(item_id=item_id, score=0.0) for item_id in ("a", "b", "c")]
    rankings = [
        Ranking(ranking_id=f"r{n}", user_id=f"u{n}", event_ts_ms=begin_ms, task="pre_query", items=items)
        for n in range(USERS)
    ]

    def common(n: int, item_id: str, after_ms: int) -> dict[str, object]:
        ids = {"event_id": new_event_id(), "user_id": f"u{n}", "item_id": item_id}
        return {**ids, "event_ts_ms": begin_ms + after_ms}

    with Producer(stack) as producer:
        producer.deliver(rankings)
        await_positives(stack, {f"r{n}": set() for n in range(USERS)})
        kill_label_worker(stack)
        clicks: list[Engaged] = [Click(**common(n, "b", 1000)) for n in range(USERS)]  # type: ignore[arg-type]
        late: list[Engaged] = [
            Click(**common(n, "c", 2_000_000), ranking_id=f"r{n}")  # type: ignore[arg-type]
            for n in range(0, USERS, 2)
        ]
        down: list[Engaged] = [Thumb(**common(0, "b", 2000), value="down")]  # type: ignore[arg-type]
        producer.deliver([*clicks, *late, *down])
        expected = {f"r{n}": {"b", "c"} if n % 2 == 0 else {"b"} for n in range(USERS)} | {"r0": {"c"}}
        await_positives(stack, expected)
    from_topic, joined = read_served_log(stack), read_served_log(stack, join_again=True)
    assert (from_topic.labels_from, joined.labels_from) == (TOPIC, JOINED)
    assert len(from_topic.rankings) == USERS
    assert from_topic.rankings == joined.rankings
