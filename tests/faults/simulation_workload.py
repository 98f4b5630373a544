"""The simulation's producers: events of a few users and titles, with everything that goes wrong on the way to a log.

Enters: a random source. Leaves: records in the event logs: fresh, late, ahead of the broker, repeated (at once, or so
late that the window of ids has forgotten them), id reuse with another content, invalid. Called by `simulation.py`.
"""

import random
from dataclasses import dataclass, field
from typing import Any

from streams.events import FUTURE_LIMIT_MS, Click, Engaged, Play, Ranking, ServedItem, Thumb, encode_event
from tests.faults.simulation_logs import Logs
from tests.faults.simulation_poison import POISON_COUNTRY

USERS, ITEMS = ("u0", "u1", "u2"), ("i0", "i1", "i2", "i3", "i4")
THUMBS = ("up", "double_up", "down", "none")
AGES_MS = (0, 0, 0, 1_000, 60_000, 3 * 3_600_000, 40 * 24 * 3_600_000, -60_000)
JITTER_MS = (0, 0, 0, 0, 5_000)
INVALID: tuple[tuple[bytes | None, str], ...] = (
    (None, "empty"),
    (b"{", "malformed_json"),
    (b'{"type":"wink"}', "unknown_type"),
    (b'{"type":"TYPE","user_id":"u0"}', "missing_field"),
    (b" " * 70_000, "oversized"),
)


@dataclass(slots=True)
class Published:
    """What was published once, to publish it again."""

    topic: str
    user_id: str
    value: bytes


@dataclass(slots=True)
class Workload:
    """Publishes one record at a time."""

    rng: random.Random
    logs: Logs
    published: list[Published] = field(default_factory=list)
    ids: int = 0

    def publish(self) -> None:
        """One record of a kind chosen at random."""
        chance = self.rng.random()
        if chance < 0.04:
            self.invalid(self.rng.randrange(len(INVALID)))
        elif chance < 0.06:
            self.ahead()
        elif chance < 0.08:
            self.poison(self._user(), self._item())
        elif chance < 0.20 and self.published:
            self.repeat(-self.rng.choice((1, 1, 2, 3, 5, 8)))
        elif chance < 0.32:
            self.ranking()
        elif chance < 0.55:
            self.thumb(self._user(), self._item(), self.rng.choice(THUMBS), self._age_ms())
        elif chance < 0.75:
            self.play(self._user(), self._item(), self.rng.choice((0, 30, 95, 100)), self._age_ms())
        else:
            self.click(self._user(), self._item(), self._age_ms())

    def click(self, user_id: str, item_id: str, age_ms: int = 0) -> None:
        self._publish(Click(item_id=item_id, event_ts_ms=self._ts_ms(age_ms), **self._common(user_id)))

    def play(self, user_id: str, item_id: str, watched_ms: int, age_ms: int = 0) -> None:
        times: dict[str, Any] = {"watched_ms": watched_ms, "duration_ms": 100, "event_ts_ms": self._ts_ms(age_ms)}
        self._publish(Play(item_id=item_id, **times, **self._common(user_id)))

    def thumb(self, user_id: str, item_id: str, value: str, age_ms: int = 0) -> None:
        more: dict[str, Any] = {"value": value, "event_ts_ms": self._ts_ms(age_ms)}
        self._publish(Thumb(item_id=item_id, **more, **self._common(user_id)))

    def ranking(self) -> None:
        common = self._common(self._user())
        common["ranking_id"] = common.pop("event_id")
        items = [ServedItem(item_id=item_id, score=0.5) for item_id in self.rng.sample(ITEMS, self.rng.randint(1, 4))]
        self._publish(Ranking(items=items, event_ts_ms=self._ts_ms(self._age_ms()), task="search", **common))

    def repeat(self, place: int) -> None:
        """Publish again what stands at `place` of all published (negative: from the newest)."""
        if self.published:
            again = self.published[max(place, -len(self.published))]
            self.logs.append_event(again.topic, again.user_id, again.value, self._broker_ts_ms())

    def invalid(self, which: int) -> None:
        """Publish a record that stage 1 has to refuse."""
        value, refusal = INVALID[which]
        topic = self.rng.choice(("clicks", "plays", "thumbs", "rankings"))
        if value is not None:
            value = value.replace(b"TYPE", topic.removesuffix("s").encode())
        self.logs.append_event(topic, self._user(), value, self._broker_ts_ms(), refusal)

    def ahead(self) -> None:
        """Publish an event too far ahead of the broker."""
        event = Click(item_id="i0", event_ts_ms=self._ts_ms(-2 * FUTURE_LIMIT_MS), **self._common("u0"))
        self.logs.append_event("clicks", "u0", encode_event(event), self.logs.now_ms, "future_timestamp")

    def poison(self, user_id: str, item_id: str) -> None:
        """Publish a good record on which the fold of stage 1 breaks."""
        common = {**self._common(user_id), "country": POISON_COUNTRY}
        event = Play(item_id=item_id, watched_ms=1, duration_ms=2, event_ts_ms=self.logs.now_ms, **common)
        self.logs.append_event(event.topic, user_id, encode_event(event), self.logs.now_ms, "poison")

    def _publish(self, event: Engaged | Ranking) -> None:
        published = Published(event.topic, event.user_id, encode_event(event))
        self.published.append(published)
        self.logs.append_event(published.topic, published.user_id, published.value, self._broker_ts_ms())

    def _common(self, user_id: str) -> dict[str, Any]:
        """Who and in which context; one id in twelve was used before, by anybody and for anything."""
        if self.ids == 0 or self.rng.random() > 1 / 12:
            self.ids += 1
            number = self.ids
        else:
            number = self.rng.randint(1, self.ids)
        return {
            "event_id": f"event-{number:010}",
            "user_id": user_id,
            "query": self.rng.choice((None, None, "star", "Moon ")),
            "source_item_id": self.rng.choice((None, None, "i0")),
            "country": self.rng.choice((None, "DE", "FR")),
        }

    def _user(self) -> str:
        return USERS[min(self.rng.randrange(5), 2)]

    def _item(self) -> str:
        return ITEMS[min(self.rng.randrange(5), self.rng.randrange(5))]

    def _age_ms(self) -> int:
        return self.rng.choice(AGES_MS)

    def _ts_ms(self, age_ms: int) -> int:
        return self.logs.now_ms - age_ms

    def _broker_ts_ms(self) -> int:
        """The broker's time; now and then a producer's clock that lags a little."""
        return self.logs.now_ms - self.rng.choice(JITTER_MS)
