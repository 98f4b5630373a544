"""Progress of long work, for a person who waits.

Enters: how far each step is. Leaves: a bar on a terminal, a line per step elsewhere, or nothing. Called by training and evaluation.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Shows one step after the other."""

    def step(self, name: str, total: int) -> None:
        """Begin a step of `total` units; the one before is over."""

    def advance(self, count: int = 1) -> None:
        """`count` more units of the step are done."""

    def note(self, text: str) -> None:
        """Say something about the step, such as its loss."""


class Silent:
    """Shows nothing."""

    def step(self, name: str, total: int) -> None: ...

    def advance(self, count: int = 1) -> None: ...

    def note(self, text: str) -> None: ...


class Lines:
    """One line per step and note, for logs."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def step(self, name: str, total: int) -> None:
        self._say(f"{name} ({total:,})")

    def advance(self, count: int = 1) -> None: ...

    def note(self, text: str) -> None:
        self._say(f"  {text}")


class _Bars:
    def __init__(self, bars) -> None:  # type: ignore[no-untyped-def]
        self._bars, self._task = bars, None

    def step(self, name: str, total: int) -> None:
        self._finish()
        self._task = self._bars.add_task(name, total=max(1, total), note="")

    def advance(self, count: int = 1) -> None:
        self._bars.advance(self._task, count)

    def note(self, text: str) -> None:
        self._bars.update(self._task, note=text)

    def _finish(self) -> None:
        if self._task is not None:
            self._bars.update(self._task, completed=self._bars.tasks[self._task].total)


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """Bars when standard error is a terminal, lines otherwise."""
    if not sys.stderr.isatty():
        yield Lines(lambda text: print(text, file=sys.stderr, flush=True))
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress as RichProgress, TextColumn, TimeElapsedColumn

    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bars:
        shown = _Bars(bars)
        yield shown
        shown._finish()


def advancing(progress: Progress, values: Iterable[T]) -> Iterator[T]:
    """The values as they are, each one a unit of the current step."""
    for value in values:
        yield value
        progress.advance()
