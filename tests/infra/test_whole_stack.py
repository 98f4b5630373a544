"""The whole embedded stack: real workers and a real scorer on the embedded servers."""

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.embedded import running_stack, start_stack, stop_stack
from infra.settings import Settings

pytestmark = pytest.mark.slow


def until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not come true in time"
        time.sleep(0.05)


def process_of(state_dir: Path, name: str) -> dict[str, Any]:
    stack = running_stack(state_dir)
    assert stack is not None
    return next(process for process in stack["processes"] if process["name"] == name)


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


def ended(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_whole_stack_starts_survives_crashes_and_stops(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, workers=2)
    try:
        stack = start_stack(settings)
        names = [process["name"] for process in stack["processes"]]
        assert names == ["broker", "redis", "session-0", "target-0", "session-1", "target-1", "scorer", "canary"]
        for url in stack["worker_metrics_urls"]:
            assert "nowrank_worker_" in get(url)
        assert "nowrank_scorer_" in get(f"{stack['scorer_url']}/metrics")
        targets = json.loads((tmp_path / "prometheus-targets.json").read_text())
        assert {group["labels"]["job"]: len(group["targets"]) for group in targets} == {
            "worker": 4,
            "scorer": 1,
            "canary": 1,
        }

        os.kill(process_of(tmp_path, "target-1")["pid"], signal.SIGKILL)
        until(lambda: process_of(tmp_path, "target-1")["restarts"] == 1)
        until(lambda: process_of(tmp_path, "target-1")["state"] == "ready")
        assert process_of(tmp_path, "target-0")["restarts"] == 0, "another worker's crash is no crash of its own"

        os.kill(process_of(tmp_path, "broker")["pid"], signal.SIGKILL)
        for name, restarts in (
            ("broker", 1),
            ("session-0", 1),
            ("target-0", 1),
            ("target-1", 2),
            ("scorer", 1),
            ("canary", 1),
        ):
            until(lambda name=name, restarts=restarts: process_of(tmp_path, name)["restarts"] >= restarts)  # type: ignore[misc]
            until(lambda name=name: process_of(tmp_path, name)["state"] == "ready")  # type: ignore[misc]

        pids = [process["pid"] for process in (running_stack(tmp_path) or {})["processes"]]
        assert stop_stack(settings)
        assert all(ended(pid) for pid in [stack["pid"], *pids])
    finally:
        stop_stack(settings)
