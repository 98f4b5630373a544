"""One case of the fault table: what is expected, what was observed.

Enters: sentences of a fault test. Leaves: a row of the table that `make faults` prints, which travels with the test's
report. Called by the fault tests through the fixture `case`, and by `conftest.py`.
"""

from collections.abc import Iterable
from typing import Any

EXPECTED, OBSERVED = "fault expected", "fault observed"
TITLES = ("case", "expected", "observed", "seconds", "ok")
LONGEST_CELL = 90


class Case:
    """Collects what a test expects and sees; `properties` is pytest's list for the test's report."""

    def __init__(self, properties: list[tuple[str, object]]) -> None:
        self._properties = properties

    def expects(self, sentence: str) -> None:
        """Say what must happen."""
        self._properties.append((EXPECTED, sentence))

    def observes(self, sentence: str) -> None:
        """Say what happened."""
        self._properties.append((OBSERVED, sentence))


def table_rows(reports: Iterable[Any]) -> list[tuple[str, ...]]:
    """A row for each report, in order; tests that say nothing of themselves get one row for each function."""
    groups: dict[str, list[Any]] = {}
    for report in reports:
        has_said = any(name == EXPECTED for name, _ in report.user_properties)
        groups.setdefault(report.nodeid if has_said else report.nodeid.partition("[")[0], []).append(report)
    return [_row_of_one(own[0]) if len(own) == 1 else _row_of_many(name, own) for name, own in groups.items()]


def _row_of_one(report: Any) -> tuple[str, ...]:
    said: dict[str, list[str]] = {EXPECTED: [], OBSERVED: []}
    for name, value in report.user_properties:
        if name in said:
            said[name].append(str(value))
    observed = ("; ".join(said[OBSERVED]) or report.outcome) if report.passed else _last_line(report)
    expected = "; ".join(said[EXPECTED]) or "passed"
    return (_title(report.nodeid), expected, observed, f"{report.duration:.1f}", _verdict([report]))


def _row_of_many(name: str, reports: list[Any]) -> tuple[str, ...]:
    passed = sum(report.passed for report in reports)
    seconds = f"{sum(report.duration for report in reports):.1f}"
    return (_title(name), f"{len(reports)} passed", f"{passed} passed", seconds, _verdict(reports))


def _title(node_id: str) -> str:
    return node_id.rpartition("::")[2].removeprefix("test_").replace("_", " ").replace("[", ": ").removesuffix("]")


def format_table(rows: list[tuple[str, ...]]) -> list[str]:
    """The lines of the table."""
    cells = [
        tuple(cell if len(cell) <= LONGEST_CELL else f"{cell[: LONGEST_CELL - 1]}…" for cell in row) for row in rows
    ]
    widths = [max(len(row[column]) for row in [TITLES, *cells]) for column in range(len(TITLES))]

    def line(row: tuple[str, ...]) -> str:
        return " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

    return [line(TITLES), "-|-".join("-" * width for width in widths), *map(line, cells)]


def _verdict(reports: list[Any]) -> str:
    if any(report.failed for report in reports):
        return "NO"
    return "yes" if all(report.passed for report in reports) else "skipped"


def _last_line(report: Any) -> str:
    lines = [line for line in str(report.longrepr).splitlines() if line.startswith("E ")]
    return (lines or [str(report.outcome)])[0].removeprefix("E").strip()
