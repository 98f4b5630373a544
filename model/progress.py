"""Progress of long work, for a person who waits.

Enters: how far each step is. Leaves: a bar on a terminal, a line per step elsewhere, or nothing. Called by training and
evaluation.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import rich.progress

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


class Bars:
    """A bar per step, drawn by `rich`."""

    def __init__(self, drawn: "rich.progress.Progress") -> None:
        self._drawn = drawn
        self._task: rich.progress.TaskID | None = None

    def step(self, name: str, total: int) -> None:
        self.finish()
        self._task = self._drawn.add_task(name, total=max(1, total), note="")

    def advance(self, count: int = 1) -> None:
        if self._task is not None:
            self._drawn.advance(self._task, count)

    def note(self, text: str) -> None:
        if self._task is not None:
            self._drawn.update(self._task, note=text)

    def finish(self) -> None:
        """Fill the bar of the step that is over."""
        if self._task is not None:
            self._drawn.update(self._task, completed=self._drawn.tasks[self._task].total)


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """Bars when standard error is a terminal and `rich` is installed, lines otherwise."""
    if not sys.stderr.isatty() or find_spec("rich") is None:
        yield Lines(lambda text: print(text, file=sys.stderr, flush=True))
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Drawn

    names, notes = TextColumn("{task.description}"), TextColumn("{task.fields[note]}")
    with Drawn(
        names, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), notes, console=Console(stderr=True)
    ) as drawn:
        bars = Bars(drawn)
        yield bars
        bars.finish()


def advancing(progress: Progress, values: Iterable[T]) -> Iterator[T]:
    """The values as they are, each one a unit of the current step."""
    for value in values:
        yield value
        progress.advance()
