"""The bare Faust agent: it counts messages and does nothing else; what Faust itself costs.

Enters: a broker, a folder, topics. Leaves: a line when it holds its partitions, and its count after every STEP
messages. Run by `benchmarks.contenders` as a process of its own. Faust's settings are its defaults; set are only the
broker, the folder, a store in memory, raw values, and no web server (which wants a fixed port).
"""

import sys
from typing import Any

import faust

from benchmarks.baselines import say, say_when_assigned

STEP = 100


def create_app(broker: str, topics: list[str], folder: str) -> faust.App:
    """The app, with one agent over all topics."""
    app = faust.App(
        "benchmark-bare-agent",
        broker=f"kafka://{broker}",
        datadir=folder,
        store="memory://",
        web_enabled=False,
    )
    channel = app.topic(*topics, value_type=bytes, value_serializer="raw", key_serializer="raw")

    @app.agent(channel)  # type: ignore[untyped-decorator]
    async def count(stream: Any) -> None:
        number = 0
        async for _ in stream:
            number += 1
            if number % STEP == 0:
                say(f"counted {number}")

    say_when_assigned(app)
    return app


def main(arguments: list[str]) -> None:
    """Count until told to stop."""
    broker, folder, *topics = arguments
    faust.Worker(create_app(broker, topics, folder), loglevel="WARNING").execute_from_commandline()


if __name__ == "__main__":
    main(sys.argv[1:])
