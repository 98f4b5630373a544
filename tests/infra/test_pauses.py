"""A failure is repeated when the machine stood still during it, and only then: pytest itself, on a stopped test."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import os, subprocess, time
from tests.running_time import paused_s

tries = 0

def test_fails_once_while_stopped():
    global tries
    tries += 1
    before_s = paused_s()
    if tries == 1:
        subprocess.Popen(["sh", "-c", f"kill -STOP {os.getpid()}; sleep 1.5; kill -CONT {os.getpid()}"])
        while paused_s() - before_s < 1.2:
            time.sleep(0.01)
    assert tries == 2

def test_fails():
    raise AssertionError
"""


@pytest.mark.slow
def test_only_a_failure_during_a_pause_of_the_machine_is_repeated(tmp_path: Path) -> None:
    file = tmp_path / "test_paused.py"
    file.write_text(TESTS)
    options = ["-q", "-raR", "-p", "tests.conftest", "-p", "no:warnings", "-c", os.devnull]
    command = [sys.executable, "-m", "pytest", *options, str(file)]
    report = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert "RERUN test_paused.py::test_fails_once_while_stopped" in report
    assert "1 failed, 1 passed, 1 rerun" in report
