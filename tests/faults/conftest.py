"""Fixtures of the fault tests, and the table that they end with.

Enters: nothing. Leaves: a world and a case for each test; the table on the terminal. Called by pytest.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.cases import Case, format_table, table_rows
from tests.faults.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A broker and a Redis of the test's own, and every worker that it starts."""
    own = World(tmp_path)
    yield own
    own.close()


@pytest.fixture
def proxied_world(tmp_path: Path) -> Iterator[World]:
    """A world whose broker is reached through a proxy that can be cut."""
    own = World(tmp_path, proxied=True)
    yield own
    own.close()


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    """The test's row of the table."""
    return Case(request.node.user_properties)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table of all fault tests that ran; a test whose world could not be made stands there as failed."""
    reports = [
        report
        for outcome in ("passed", "failed", "skipped", "error")
        for report in terminalreporter.stats.get(outcome, [])
        if report.nodeid.startswith("tests/faults/") and (report.when == "call" or not report.passed)
    ]
    if reports:
        terminalreporter.section("faults")
        in_order = sorted(reports, key=lambda report: report.start)
        for line in format_table(table_rows(in_order)):
            terminalreporter.write_line(line)
