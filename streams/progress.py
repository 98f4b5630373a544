"""A progress bar on a terminal, and nothing anywhere else.

Enters: how much there is, how much was done. Leaves: a moving line on standard error. Called by commands; needs `rich`
to show.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[int], None]
# Called with a label and a total, such as `progress_bar`.
ShowProgress = Callable[[str, int], AbstractContextManager[Advance]]


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Advance]:
    """A function to call with each count of things done; a bar moves with it when standard error is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _count: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ModuleNotFoundError:
        yield lambda _count: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=total)
        yield lambda count: progress.advance(task, count)
