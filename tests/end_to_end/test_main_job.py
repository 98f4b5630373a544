"""The main job on the whole embedded stack: events in, fresh rows, rankings that change; workers killed on the way."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from features.catalogue import Item
from features.online_store import connect, read_states
from features.rows import ITEM, USER
from infra.clock import monotonic_s, now_ms
from infra.embedded.control import start_stack, stop_stack
from infra.embedded.stack_file import running_stack
from infra.settings import Settings
from serving.client import Scorer
from streams.dead_letters import find_dead_letter, read_dead_letters
from streams.events import Click, Engaged, Play, Thumb
from streams.producer import Producer, new_event_id
from tests.running_time import running_s

pytestmark = [pytest.mark.slow, pytest.mark.alone]
WAIT_S = 60.0
WORKERS = ("session-0", "target-0", "session-1", "target-1")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Broker, Redis, two workers of each stage and a scorer."""
    settings = Settings(state_dir=tmp_path_factory.mktemp("stack"), workers=2)
    started = start_stack(settings, tied=True, say=lambda line: None)
    yield replace(settings, **{name: started[name] for name in ("kafka", "redis", "scorer_url")})
    stop_stack(settings, say=lambda line: None)


def wait_until(condition: Callable[[], Any], what: str) -> None:
    deadline_s = monotonic_s() + WAIT_S
    while not condition():
        assert monotonic_s() < deadline_s, f"not within {WAIT_S:.0f} s: {what}"
        time.sleep(0.05)


def processes(settings: Settings) -> dict[str, dict[str, Any]]:
    running = running_stack(settings.state_dir)
    assert running is not None
    return {process["name"]: process for process in running["processes"]}


def clicks_of(settings: Settings, item_ids: list[str]) -> dict[str, int]:
    states = read_states(connect(settings.redis), settings.feast_project, [(ITEM, item_id) for item_id in item_ids])
    return {item_id: state.totals[1] for item_id, state in zip(item_ids, states, strict=True)}


def test_a_click_becomes_readable_and_moves_its_title_to_the_top(stack: Settings) -> None:
    items = [
        Item(item_id=f"top{number}", title=f"Title {number}", kind="movie", genres=("Drama",)) for number in range(5)
    ]
    with Producer(stack) as producer:
        producer.send_items(items)
        producer.deliver(
            [
                Click(event_id=new_event_id(), user_id=f"fan{number}", item_id="top3", event_ts_ms=now_ms())
                for number in range(5)
            ]
        )
    with Scorer(stack.scorer_url, timeout_s=10) as scorer:
        wait_until(
            lambda: [item.item_id for item in scorer.rank("guest", "pre_query", limit=5).items][:1] == ["top3"],
            "top3 leads the trending titles",
        )
        answer = scorer.rank("guest", "pre_query", limit=5)
    assert answer.status.store == "ok"
    assert answer.status.model == "missing"


def test_events_posted_to_the_scorer_reach_the_users_row(stack: Settings) -> None:
    common = {"user_id": "poster", "item_id": "posted", "event_ts_ms": now_ms()}
    events: list[Engaged] = [
        Play(event_id=new_event_id(), watched_ms=10, duration_ms=100, **common),  # type: ignore[arg-type]
        Thumb(event_id=new_event_id(), value="up", **common),  # type: ignore[arg-type]
    ]
    with Scorer(stack.scorer_url, timeout_s=10) as scorer:
        assert scorer.send_events(events).accepted == 2
    client = connect(stack.redis)
    wait_until(
        lambda: len(read_states(client, stack.feast_project, [(USER, "poster")])[0].recent) == 2,
        "both events in the user's row",
    )


def test_counts_stay_exact_when_workers_are_killed_and_ids_repeat(stack: Settings) -> None:
    item_ids = [f"killed{number}" for number in range(20)]
    events = [
        Click(event_id=new_event_id(), user_id=f"u{number % 50}", item_id=item_ids[number % 20], event_ts_ms=now_ms())
        for number in range(6_000)
    ]
    expected = Counter(event.item_id for event in events)
    with Producer(stack) as producer:
        for begin in range(0, len(events), 1_000):
            producer.send_many(events[begin : begin + 1_000])
            producer.send_many(events[begin : begin + 20])  # repeats, still within each user's window of seen ids
            producer.flush()
            if begin % 2_000 == 0:
                before = processes(stack)
                for name in WORKERS:
                    os.kill(before[name]["pid"], signal.SIGKILL)
                wait_until(lambda before=before: _restarted(stack, before), "all workers run again")  # type: ignore[misc]
    wait_until(lambda: sum(clicks_of(stack, item_ids).values()) >= len(events), "every click is counted")
    assert clicks_of(stack, item_ids) == expected


def _restarted(settings: Settings, before: dict[str, dict[str, Any]]) -> bool:
    now = processes(settings)
    return all(
        now[name]["pid"] not in (None, before[name]["pid"]) and now[name]["state"] == "ready" for name in WORKERS
    )


def test_a_refused_record_can_be_found_and_shown(stack: Settings) -> None:
    with Producer(stack) as producer:
        producer.send_record("clicks", b"not json", b"somebody")
        producer.flush()
    wait_until(lambda: any(letter.raw == b"not json" for letter in read_dead_letters(stack)), "the dead letter")
    letter = next(letter for letter in read_dead_letters(stack) if letter.raw == b"not json")
    assert letter.reason == "malformed_json"
    assert find_dead_letter(stack, letter.name) == letter


def test_every_part_ends_when_the_stack_is_stopped(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    started = start_stack(settings, tied=True, say=lambda line: None)
    pids = [process["pid"] for process in started["processes"]]
    began_s = running_s()
    assert stop_stack(settings, say=lambda line: None)
    assert running_s() - began_s < 20
    assert not [
        pid
        for pid in pids
        if Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]
    ]
