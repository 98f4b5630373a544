"""The scorer's looks at its titles: one at a time, and never the last one."""

import asyncio
import os
import subprocess
import sys
import threading

import pytest

from infra.settings import Settings
from serving import process as scorer_process
from serving.process import ScorerProcess
from tests.serving.world import running_scorer, wait_until


def test_titles_are_looked_at_one_look_at_a_time(lonely_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    process = ScorerProcess(lonely_settings)
    two_at_once = threading.Barrier(2)
    met: list[bool] = []

    def refresh(now_ms: int) -> None:
        try:
            two_at_once.wait(timeout=0.1)
            met.append(True)
        except threading.BrokenBarrierError:
            two_at_once.reset()
            met.append(False)

    async def look_three_times() -> None:
        await asyncio.gather(*(process._freshen() for _ in range(3)))

    monkeypatch.setattr(process.library, "refresh", refresh)
    asyncio.run(look_three_times())
    assert met == [False, False, False]


def test_a_look_that_fails_is_logged_and_the_next_one_is_taken(
    lonely_settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looks: list[int] = []

    def refresh(library: object, now_ms: int) -> None:
        looks.append(now_ms)
        if len(looks) <= 2:
            raise ValueError("a lock that somebody holds")

    monkeypatch.setattr(scorer_process, "HOUSEKEEPING_S", 0.01)
    monkeypatch.setattr(scorer_process.Library, "refresh", refresh)
    with running_scorer(lonely_settings):
        wait_until(lambda: len(looks) > 3)
    assert [record.message for record in caplog.records].count(
        "a look at the titles failed; answers go by the last one"
    ) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_the_scorers_products_take_one_thread() -> None:
    code = (
        "import serving.commands, numpy, os\n"
        "one = numpy.ones((2_000, 2_000), numpy.float32)\n"
        "one @ one\n"
        "print(len(os.listdir('/proc/self/task')))\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    threads = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert threads.stdout.strip() == "1"
