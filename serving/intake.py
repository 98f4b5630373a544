"""The intake: events and titles that come over HTTP go to Kafka, acknowledged, without holding up the event loop.

Enters: bodies of `POST /events` and `POST /items`. Leaves: `Taken`, or `BrokerUnavailable`. Called by the API.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from features.catalogue import Item
from infra.clock import monotonic_s, now_ms
from infra.errors import BrokerUnavailable, DeliveryFailed
from infra.metrics import Metrics
from infra.settings import Settings
from serving.bodies import Parsed, parse_many
from serving.contract import Rejected, Taken
from streams.catalogue import convert_item
from streams.events import Engaged, convert_engaged, to_engagement
from streams.producer import Producer

THREADS = 4
MAX_IN_FLIGHT = 32
CONNECT_TIMEOUT_S = 1.0
DELIVERY_TIMEOUT_S = 5.0
RETRY_S = 1.0


class Intake:
    """Sends in a few threads through one producer, made when first needed.

    What cannot be delivered is said to the caller.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="intake")
        self._lock = threading.Lock()
        self._parsing = asyncio.Lock()  # one body at a time, so that requests wait for a slice of one
        self._producer: Producer | None = None
        self._refused: BrokerUnavailable | None = None
        self._next_try_s = 0.0
        self._in_flight = 0

    async def take_events(self, body: bytes, *, is_lines: bool = False) -> Taken:
        """Deliver every event of a body that follows the rules; `is_lines` where its caller calls it NDJSON.

        Raises `InvalidRequest`, `BrokerUnavailable`.
        """
        return await self._take(partial(parse_many, body, self._to_event, is_lines=is_lines), self._send_events)

    async def take_items(self, body: bytes, *, is_lines: bool = False) -> Taken:
        """Deliver every title of a body that follows the rules, as `take_events` does."""
        return await self._take(partial(parse_many, body, convert_item, is_lines=is_lines), self._send_items)

    def close(self) -> None:
        """Let go of the broker."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._producer is not None:
            self._producer.close()

    def _to_event(self, value: Any) -> Engaged:
        """The event; one too far in the future would become a dead letter, so it is rejected here."""
        event = convert_engaged(value)
        to_engagement(event, now_ms(), self._settings.future_limit_ms)
        return event

    async def _take(self, parse: Callable[[], Awaitable[Parsed]], send: Callable[[list[Any]], None]) -> Taken:
        if self._in_flight >= MAX_IN_FLIGHT:
            raise BrokerUnavailable(f"{MAX_IN_FLIGHT} requests are waiting for the broker already; try again later")
        self._in_flight += 1
        try:
            async with self._parsing:
                parsed = await parse()
            lost = await self._deliver(parsed, send) if parsed.values else []
        finally:
            self._in_flight -= 1
        accepted = len(parsed.values) - len(lost)
        self._metrics.count("nowrank_scorer_events_total", accepted, result="accepted")
        self._metrics.count("nowrank_scorer_events_total", len(parsed.rejected), result="rejected")
        self._metrics.count("nowrank_scorer_events_total", len(lost), result="lost")
        return Taken(accepted=accepted, rejected=sorted([*parsed.rejected, *lost], key=lambda rejected: rejected.index))

    async def _deliver(self, parsed: Parsed, send: Callable[[list[Any]], None]) -> list[Rejected]:
        """What the broker did not acknowledge."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, send, parsed.values)
        except DeliveryFailed as error:
            return [
                Rejected(index=parsed.places[at], reason="not_acknowledged", message=cause)
                for at, cause in error.failures
            ]
        return []

    def _send_events(self, events: list[Engaged]) -> None:
        self._connected().deliver(events)

    def _send_items(self, items: list[Item]) -> None:
        self._connected().deliver_items(items)

    def _connected(self) -> Producer:
        """The producer; a broker that was not there a moment ago is not tried again at once."""
        with self._lock:
            if self._producer is None:
                if self._refused is not None and monotonic_s() < self._next_try_s:
                    raise self._refused
                try:
                    self._producer = Producer(
                        self._settings, connect_timeout_s=CONNECT_TIMEOUT_S, delivery_timeout_s=DELIVERY_TIMEOUT_S
                    )
                except BrokerUnavailable as error:
                    self._refused, self._next_try_s = error, monotonic_s() + RETRY_S
                    raise
            return self._producer
