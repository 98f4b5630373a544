"""Rows of text in columns, as the commands print them.

Enters: rows of the same number of cells. Leaves: lines. Called by commands that list something.
"""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row, its cells under those of the rows above; there is at least one row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
