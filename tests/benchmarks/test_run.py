"""The benchmark as people run it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(900)
def test_a_quick_run_gives_every_figure(tmp_path: Path) -> None:
    answer = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.streams", "--quick", "--synthetic", "--json", str(answer)]
    environment = {**os.environ, "NOWRANK_STATE_DIR": str(tmp_path / "state")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(answer.read_text())
    assert figures["events"] == "synthetic"
    for name in ("cpu_per_event_ratio", "vs_naive", "scaling"):
        assert figures[name] > 0
    for name in ("freshness_ratio", "freshness_ms"):
        assert figures[name].keys() == {"session", "target"}
    assert figures["without_load"]["session_ms"]["p50"] > 0
    assert figures["memory"]["redis_bytes_per_user"]["light"] > 0
    assert "CPU per event, worker : bare agent" in done.stdout
