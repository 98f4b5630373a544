"""Plots, where matplotlib is installed.

Enters: what is drawn on the panels. Leaves: a PNG. Called by whoever reports.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PANEL_INCHES = (5, 4)


def has_plots() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


@contextmanager
def draw(path: Path, panels: int, inches: tuple[float, float] = PANEL_INCHES) -> Iterator[list[Any]]:
    """So many panels side by side, each of so many inches, to be drawn on, and written to `path` when the block ends;
    none without matplotlib.
    """
    if not has_plots():
        yield []
        return
    import_module("matplotlib").use("Agg")
    pyplot: Any = import_module("matplotlib.pyplot")
    wide, high = inches
    figure, axes = pyplot.subplots(1, panels, figsize=(wide * panels, high), squeeze=False)
    try:
        yield list(axes[0])
        figure.tight_layout()
        figure.savefig(path)
    finally:
        pyplot.close(figure)
