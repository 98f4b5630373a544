"""What Nowrank is compared with: the same work done in the most straightforward way, or not done at all."""

import sys
from typing import Any


def say(line: str) -> None:
    """Tell the benchmark, on the process's own standard output: Faust redirects the other."""
    print(line, file=sys.__stdout__, flush=True)


def say_when_assigned(app: Any) -> None:
    """Say `assigned` once the app holds its partitions."""

    @app.on_partitions_assigned.connect  # type: ignore[untyped-decorator]
    async def assigned(_: Any, assigned: Any, **__: Any) -> None:
        if assigned:
            say("assigned")
