"""A store that fails is left alone, looked at by one request at a time, and used again when it answers."""

import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from infra.embedded import EmbeddedServers
from infra.errors import StoreTimeout, StoreUnavailable
from infra.settings import Settings
from serving.breaker import Breaker, BreakerRule
from tests.running_time import running_s
from tests.serving.world import World, fill, metric, running_scorer, wait_until

RULE = BreakerRule(failures=3, window_s=10.0, pause_s=1.0)


class Store:
    """A breaker, its clock, and a store that does as it is told."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.reports: list[bool] = []
        self.breaker = Breaker(RULE, self.reports.append, lambda: self.now_s)

    def try_once(self, error: StoreUnavailable | None = None, *, is_hurried: bool = False) -> str:
        """How one read ends: `called` and what the store did, or `skipped` and what is said instead."""
        was_called = False
        try:
            with self.breaker.call(is_hurried=is_hurried):
                was_called = True
                if error is not None:
                    raise error
        except StoreUnavailable as raised:
            return f"{'called' if was_called else 'skipped'} {type(raised).__name__}"
        return "called"

    def break_down(self, error: StoreUnavailable | None = None) -> None:
        for _ in range(RULE.failures):
            self.try_once(StoreTimeout("late") if error is None else error)


def test_failures_in_a_row_open_it_and_then_the_store_is_skipped() -> None:
    store = Store()
    store.break_down()
    assert store.reports == [True]
    assert [store.try_once() for _ in range(3)] == ["skipped StoreTimeout"] * 3


def test_skipped_request_says_what_the_last_one_met() -> None:
    store = Store()
    store.break_down(StoreUnavailable("gone"))
    assert store.try_once() == "skipped StoreUnavailable"


def test_one_success_between_failures_keeps_it_closed() -> None:
    store = Store()
    for _ in range(10):
        store.try_once(StoreTimeout("late"))
        store.try_once(StoreTimeout("late"))
        assert store.try_once() == "called"
    assert store.reports == []


def test_failures_that_are_far_apart_keep_it_closed() -> None:
    store = Store()
    for _ in range(10):
        assert store.try_once(StoreTimeout("late")) == "called StoreTimeout"
        store.now_s += 6.0
    assert not store.breaker.is_open


def test_callers_in_a_hurry_do_not_open_it_for_the_others() -> None:
    store = Store()
    for _ in range(10):
        assert store.try_once(StoreTimeout("late"), is_hurried=True) == "called StoreTimeout"
    assert store.reports == []
    for _ in range(RULE.failures):
        store.try_once(StoreUnavailable("gone"), is_hurried=True)
    assert store.reports == [True]


def test_look_in_a_hurry_closes_it_and_begins_no_other_pause() -> None:
    store = Store()
    store.break_down()
    store.now_s += RULE.pause_s
    assert store.try_once(StoreTimeout("late"), is_hurried=True) == "called StoreTimeout"
    assert store.try_once(is_hurried=True) == "called"
    assert store.reports == [True, False]


def test_after_the_pause_one_request_looks_again_and_success_closes_it() -> None:
    store = Store()
    store.break_down()
    store.now_s += RULE.pause_s
    with store.breaker.call():
        assert store.try_once() == "skipped StoreTimeout", "one at a time"
    assert store.reports == [True, False]
    assert store.try_once() == "called"


def test_failed_look_begins_another_pause() -> None:
    store = Store()
    store.break_down()
    store.now_s += RULE.pause_s
    assert store.try_once(StoreTimeout("late")) == "called StoreTimeout"
    assert store.try_once() == "skipped StoreTimeout"
    store.now_s += RULE.pause_s
    assert store.try_once() == "called"


def test_look_that_was_given_up_lets_another_one_look() -> None:
    store = Store()
    store.break_down()
    store.now_s += RULE.pause_s
    with pytest.raises(KeyboardInterrupt), store.breaker.call():
        raise KeyboardInterrupt
    assert store.try_once() == "called"


def test_stopped_store_costs_a_few_deadlines_and_is_used_again_when_it_goes_on(
    tmp_path: Path, artifact_dir: Path
) -> None:
    deadline_s = 0.2
    question = {"user_id": "ann", "task": "pre_query", "log": False}
    with EmbeddedServers(tmp_path / "servers") as servers:
        settings = Settings(
            state_dir=tmp_path, redis=servers.redis, artifact_dir=str(artifact_dir), rank_deadline_ms=2_000
        )
        world = World(settings)
        fill(world)
        world.close()
        with running_scorer(replace(settings, rank_deadline_ms=int(1000 * deadline_s))) as (_, client):

            def ask() -> tuple[str, float]:
                begin_s = running_s()
                answer = client.post("/rank", json=question)
                assert answer.status_code == 200
                return answer.json()["status"]["store"], running_s() - begin_s

            wait_until(lambda: ask()[0] == "ok")
            os.kill(servers.pid("redis"), signal.SIGSTOP)
            try:
                asked = [ask() for _ in range(40)]
                assert metric(client, "nowrank_scorer_store_breaker_open") == 1
            finally:
                os.kill(servers.pid("redis"), signal.SIGCONT)
            assert set(Counter(store for store, _ in asked)) <= {"timeout", "missing"}
            assert max(seconds for _, seconds in asked) < deadline_s + 1.0
            waited = sum(seconds > 0.9 * deadline_s for _, seconds in asked)
            assert waited <= 20, "without the breaker all 40 wait"
            wait_until(lambda: ask()[0] == "ok", timeout_s=5.0)
            assert metric(client, "nowrank_scorer_store_breaker_open") == 0
