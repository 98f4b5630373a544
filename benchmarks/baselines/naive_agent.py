"""The straightforward Faust agent: a Faust table of item counters, and Feast's `push` for every event.

Enters: a broker, a store, topics, a folder, how many events make a turn. Leaves: rows of the `item` view, a line when
it holds its partitions and a line after every turn. Run by `benchmarks.contenders` as a process of its own.

It is given less to do than a worker, and every help: one view instead of six, one push an event, no dedupe, no
retraction of thumbs, a store in memory instead of RocksDB, and our own fold, which costs a hundredth of the push.
Feast's registry holds the one view that it pushes, as `nowrank features apply` defines it: `push` reads every view of
the registry anew for every call.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import faust
import msgspec
import pandas as pd  # type: ignore[import-untyped]

from benchmarks.baselines import say, say_when_assigned
from features.delta import Delta, Entity, Signal
from features.feast_repo.apply import open_feast
from features.item import VIEW, ItemState, fold_item
from infra.settings import load_settings

NAMES = [spec.name for spec in VIEW.features]
SIGNALS = {"click": Signal.CLICK, "play": Signal.PLAY}
THUMB_SIGNALS = {"up": Signal.THUMB_UP, "double_up": Signal.THUMB_UP, "down": Signal.THUMB_DOWN}


def to_delta(event: dict[str, Any], ingested_ts_ms: int) -> Delta:
    """What an event means for its item."""
    return Delta(
        entity=Entity.ITEM,
        key=event["item_id"],
        item_id=event["item_id"],
        signal=SIGNALS.get(event["type"]) or THUMB_SIGNALS[event["value"]],
        amount=1,
        event_ts_ms=event["event_ts_ms"],
        watched_ms=event.get("watched_ms", 0),
        completed=event.get("watched_ms", 0) >= 0.9 * event.get("duration_ms", 1),
        ingested_ts_ms=ingested_ts_ms,
    )


def to_frame(item_id: str, state: ItemState) -> pd.DataFrame:
    """The item's row as `push` takes it."""
    row = dict(zip(NAMES, VIEW.values(state), strict=True))
    at = pd.Timestamp(state.as_of_ms, unit="ms", tz="UTC")
    return pd.DataFrame([{VIEW.join_key: item_id, **row, "event_timestamp": at}])


def create_app(broker: str, topics: list[str], partitions: int, turn: int, folder: str) -> faust.App:
    """The app; it says `done` after every `turn` events."""
    feast = open_feast(replace(load_settings(running_stack=False), state_dir=Path(folder)))
    from features.feast_repo.definitions import ENTITIES, FEATURE_VIEWS, PUSH_SOURCES

    feast.apply([ENTITIES[VIEW.entity], PUSH_SOURCES[VIEW.name], FEATURE_VIEWS[VIEW.name]])
    app = faust.App(
        "benchmark-naive-agent",
        broker=f"kafka://{broker}",
        datadir=folder,
        store="memory://",
        topic_partitions=partitions,
        web_enabled=False,
    )
    counters = app.Table("items", partitions=partitions)
    channel = app.topic(*topics, value_serializer="json", key_serializer="raw")

    @app.agent(channel)  # type: ignore[untyped-decorator]
    async def count(stream: Any) -> None:
        number = 0
        async for record in stream.events():
            delta = to_delta(record.value, round(record.message.timestamp * 1000))
            known = counters.get(delta.key)
            state = ItemState() if known is None else msgspec.convert(known, ItemState)
            fold_item(state, delta)
            counters[delta.key] = msgspec.to_builtins(state)
            feast.push(f"{VIEW.name}_push", to_frame(delta.key, state))
            number += 1
            if number % turn == 0:
                say(f"done {number // turn}")

    say_when_assigned(app)
    return app


def main(arguments: list[str]) -> None:
    """Work until told to stop."""
    broker, partitions, turn, folder, *topics = arguments
    app = create_app(broker, topics, int(partitions), int(turn), folder)
    faust.Worker(app, loglevel="WARNING").execute_from_commandline()


if __name__ == "__main__":
    main(sys.argv[1:])
