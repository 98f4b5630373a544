"""Several scorer processes on one port: what is lost when one dies, what their metrics add up to, how they end."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from infra.embedded.child import dies_with_parent
from infra.embedded.servers import free_port
from infra.errors import ScorerUnavailable
from infra.restarts import LONGEST_PAUSE_S, RESTART_LIMIT
from infra.settings import Settings, child_environment
from serving import processes
from serving.processes import Address, run_processes
from tests.serving.world import metric, wait_until

QUESTION = {"user_id": "ann", "task": "pre_query", "log": False}
RANKED = 'nowrank_scorer_requests_total{code="200",route="/rank"}'
CALLERS = 8


class Running:
    """`nowrank scorer` with two processes, its output and its address."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{settings.scorer_port}"
        self.output = folder / "output"
        self.metrics_root = folder / "tmp"
        self.metrics_root.mkdir()
        with self.output.open("wb") as output:
            self.parent = subprocess.Popen(
                [sys.executable, "-m", "nowrank.cli", "scorer"],
                env={**child_environment(settings), "TMPDIR": str(self.metrics_root)},
                stdout=output,
                stderr=output,
                preexec_fn=dies_with_parent(signal.SIGTERM),
            )

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.parent.pid).children()

    def starts(self) -> int:
        return len(re.findall("Application startup complete", self.output.read_text()))

    def new_client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, trust_env=False, timeout=30.0)


class Caller(threading.Thread):
    """Asks again and again over its own connection until told to stop; opens another one when that is lost."""

    def __init__(self, running: Running) -> None:
        super().__init__(daemon=True)
        self._running = running
        self.stop = threading.Event()
        self.answered = self.lost = 0

    def run(self) -> None:
        while not self.stop.is_set():
            with self._running.new_client() as client:
                try:
                    while not self.stop.is_set():
                        assert client.post("/rank", json=QUESTION).status_code == 200
                        self.answered += 1
                except httpx.TransportError:
                    self.lost += 1


def settings_of(tmp_path: Path, **changes: object) -> Settings:
    return Settings(state_dir=tmp_path / "state", scorer_port=free_port(), scorer_processes=2, **changes)  # type: ignore[arg-type]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """Two warm processes."""
    running = Running(settings_of(tmp_path), tmp_path)
    try:
        wait_until(lambda: running.starts() == 2, timeout_s=120)
        yield running
    finally:
        children = running.children() if running.parent.poll() is None else []
        for process in [running.parent, *children]:
            process.kill()
        running.parent.wait(timeout=20)


@pytest.mark.slow
def test_killing_one_process_loses_its_unanswered_requests_only_and_the_metrics_still_add_up(running: Running) -> None:
    assert "scorer: 2 processes on 127.0.0.1:" in running.output.read_text()
    callers = [Caller(running) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    wait_until(lambda: sum(caller.answered for caller in callers) > 200)
    victim = running.children()[0]
    victim.kill()
    wait_until(lambda: running.starts() == 3, timeout_s=120)
    before = sum(caller.answered for caller in callers)
    wait_until(lambda: sum(caller.answered for caller in callers) > before + 200)
    for caller in callers:
        caller.stop.set()
    for caller in callers:
        caller.join(timeout=30)
    answered, lost = (sum(getattr(caller, name) for caller in callers) for name in ("answered", "lost"))
    assert all(caller.lost <= 1 for caller in callers), "no more than what was on its way"
    with running.new_client() as client:
        wait_until(lambda: metric(client, "nowrank_scorer_connections") == 1)
        # An answer goes out before it is counted: of each caller at most one was not counted any more.
        for counter in (RANKED, 'nowrank_scorer_rank_seconds_count{task="pre_query"}'):
            assert answered - CALLERS <= metric(client, counter) <= answered + lost
        assert metric(client, "nowrank_scorer_unfinished_requests") == 0
        assert metric(client, "nowrank_scorer_starts_total") == 3
    assert len(running.children()) == 2


@pytest.mark.slow
def test_both_processes_answer_while_one_is_stopped_and_their_counters_are_one_sum(running: Running) -> None:
    first, second = running.children()
    for frozen, awake in ((first, second), (second, first)):
        frozen.suspend()
        with running.new_client() as client:  # a new connection is taken by the one that is awake
            assert [client.post("/rank", json=QUESTION).status_code for _ in range(30)] == [200] * 30
        frozen.resume()
        assert awake.is_running()
    with running.new_client() as client:
        assert metric(client, RANKED) == 60


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_the_parent_is_told_to_end_or_is_killed(running: Running, number: signal.Signals) -> None:
    children = running.children()
    running.parent.send_signal(number)
    code = running.parent.wait(timeout=30)
    wait_until(lambda: not any(child.is_running() for child in children), timeout_s=30)
    assert code == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    if number == signal.SIGTERM:
        assert list(running.metrics_root.glob("nowrank-metrics-*")) == []


@pytest.mark.slow
def test_processes_that_cannot_start_end_all_with_the_reason(tmp_path: Path) -> None:
    running = Running(settings_of(tmp_path, variants="a=7"), tmp_path)
    assert running.parent.wait(timeout=60) == 1
    assert "NOWRANK_VARIANTS has 'a=7'" in running.output.read_text()
    assert "nowrank: the scorer could not start; the lines before say why" in running.output.read_text()


def test_a_start_removes_the_metrics_of_parents_that_were_killed_and_of_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = subprocess.Popen(["true"])
    killed.wait()
    left = tmp_path / f"nowrank-metrics-{killed.pid}-a"
    others = [tmp_path / f"nowrank-metrics-{name}" for name in (f"{os.getppid()}-a", "9" * 30 + "-a", "no-number")]
    for folder in (left, *others):
        folder.mkdir()
        (folder / "counters.db").touch()
    with processes._metrics_folder() as own:
        assert set(tmp_path.iterdir()) == {own, *others}
    assert set(tmp_path.iterdir()) == set(others)


def test_a_process_that_ends_again_and_again_is_waited_for_longer_and_then_given_up() -> None:
    ends_s: deque[float] = deque()
    pauses = [processes._next_pause_s(ends_s, 1, -9) for _ in range(RESTART_LIMIT)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S
    with pytest.raises(ScorerUnavailable, match="process 1 was ended by SIGKILL, for the 9th time within 60 s"):
        processes._next_pause_s(ends_s, 1, -9)


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ScorerUnavailable, match=f"cannot listen on 127.0.0.1:{port}"):
            run_processes(Settings(state_dir=tmp_path, scorer_processes=2), Address("127.0.0.1", port))
