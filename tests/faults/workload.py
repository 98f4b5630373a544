"""A seeded workload of every kind of event, and what any correct reader must count in it.

Enters: a seed and sizes. Leaves: events in the order in which they are sent, duplicates included. Called by the fault
tests; `plain_counts.py` counts what was sent.
"""

import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

from infra.clock import monotonic_s, now_ms
from infra.settings import Settings
from streams.events import Click, Engaged, Play, Ranking, ServedItem, Thumb
from streams.producer import Producer

Sent = Engaged | Ranking
COUNTRIES = ("DE", "PL", "US")
THUMBS: tuple[Literal["up", "double_up", "down", "none"], ...] = ("up", "double_up", "down", "none")
TASKS = ("search", "more_like_this", "pre_query")
# As typed, and as it must be after normalisation: written down by hand, so that no code of ours judges itself.
QUERIES = {
    "Night Train": "night train",
    "night  train": "night train",
    "ＮＩＧＨＴ train": "night train",
    "Żółw": "żółw",
    "space": "space",
}
DUPLICATE_SHARE = 0.04
DUPLICATE_DISTANCE = 8
DELIVERY_TIMEOUT_S = 120.0
TICK_S = 0.05


@dataclass
class Workload:
    """Events by `users` members about `items` titles; with `hot`, half are by one member and half are about one
    title; `spread_ms` scatters their times over the past.
    """

    seed: int
    users: int = 40
    items: int = 30
    hot: bool = False
    spread_ms: int = 0
    sent: list[Sent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._repeats: list[tuple[int, Sent]] = []
        self._made = 0
        self._events = self._make()

    def take(self, count: int) -> list[Sent]:
        """The next `count` records to send; they are remembered in `sent`."""
        taken = [next(self._events) for _ in range(count)]
        self.sent += taken
        return taken

    def _make(self) -> Iterator[Sent]:
        while True:
            event = self._next_event()
            self._made += 1
            yield event
            if self._random.random() < DUPLICATE_SHARE:
                self._repeats.append((self._made + self._random.randint(0, DUPLICATE_DISTANCE), event))
            due = [repeat for at, repeat in self._repeats if at <= self._made]
            self._repeats = [(at, repeat) for at, repeat in self._repeats if at > self._made]
            yield from due

    def _next_event(self) -> Sent:
        rng = self._random
        # A second ago, so that no event is ahead of the broker's clock and none is clamped.
        common: dict[str, Any] = {
            "user_id": "hot-user" if self.hot and rng.random() < 0.5 else f"u{rng.randrange(self.users)}",
            "event_ts_ms": now_ms() - 1_000 - (rng.randrange(self.spread_ms) if self.spread_ms else 0),
            "task": rng.choice(TASKS),
            "query": rng.choice([*QUERIES, None]),
            "source_item_id": rng.choice([f"s{rng.randrange(8)}", None]),
            "country": rng.choice([*COUNTRIES, None]),
        }
        draw, event_id = rng.random(), f"{rng.getrandbits(128):032x}"
        if draw < 0.15:
            shown = rng.sample(range(self.items), min(5, self.items))
            return Ranking(
                ranking_id=event_id,
                items=[ServedItem(item_id=f"i{number}", score=1.0) for number in shown],
                **common,
            )
        item_id = "hot-item" if self.hot and rng.random() < 0.5 else f"i{rng.randrange(self.items)}"
        if draw < 0.40:
            value = rng.choice(THUMBS)
            return Thumb(event_id=event_id, item_id=item_id, value=value, **common)
        if draw < 0.70:
            return Click(event_id=event_id, item_id=item_id, **common)
        duration_ms = 100_000
        watched_ms = rng.choice((0, 30_000, 89_999, 90_000, 100_000))
        return Play(event_id=event_id, item_id=item_id, watched_ms=watched_ms, duration_ms=duration_ms, **common)


class Load:
    """Sends a workload in the background at a bounded rate, from `with` to the block's end or `stop`."""

    def __init__(self, settings: Settings, workload: Workload, events_per_s: int, tick_s: float = TICK_S) -> None:
        self._workload = workload
        self._tick_s = tick_s
        self._per_tick = max(1, round(events_per_s * tick_s))
        self._producer = Producer(settings, delivery_timeout_s=DELIVERY_TIMEOUT_S)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._send, name="load", daemon=True)
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.stop()
        else:
            self._stopping.set()
            self._thread.join()

    def stop(self) -> None:
        """Send no more and wait until everything is acknowledged; raises what went wrong while sending."""
        self._stopping.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        self._producer.close()

    def _send(self) -> None:
        next_s = monotonic_s()
        try:
            while not self._stopping.wait(max(0.0, next_s - monotonic_s())):
                next_s = max(
                    next_s + self._tick_s, monotonic_s() - 1.0
                )  # after a blockage, catch up a second, not all of it
                self._producer.send_many(self._workload.take(self._per_tick))
        except BaseException as error:  # noqa: BLE001 - handed to whoever stops the load
            self._error = error


def send(settings: Settings, events: list[Sent]) -> None:
    """Send events and wait until they are acknowledged."""
    with Producer(settings, delivery_timeout_s=DELIVERY_TIMEOUT_S) as producer:
        producer.send_many(events)
