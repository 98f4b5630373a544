"""The rankings log: every answer goes to the topic `rankings` with the features that were used; nobody waits for it.

Enters: `Ranking`s. Leaves: acknowledged records, or a count of what was dropped. Put in by `rank.py`; sends in a
thread of its own.
"""

import contextlib
import logging
import queue
import threading

import msgspec

from infra.errors import BrokerUnavailable, DeliveryFailed, NowrankError
from infra.metrics import Metrics
from infra.settings import Settings
from streams.events import MAX_EVENT_BYTES, Ranking, encode_event
from streams.producer import Producer

CAPACITY = 10_000
CAPACITY_BYTES = 100_000_000
# What a position takes in memory beside its features: its place in the list, its id, score and offsets.
POSITION_BYTES = 600
BATCH = 200
MAX_LOGGED_ITEMS = 200
RETRY_S = 1.0
IDLE_S = 0.2
# A send costs the interpreter more than the rankings in it do.
COLLECT_S = 0.1
DELIVERY_TIMEOUT_S = 10.0

log = logging.getLogger(__name__)


class RankingsLog:
    """A bounded buffer and the thread that empties it.

    While the broker is away it fills, and then what is new is dropped and counted. What was not acknowledged is sent
    again and may arrive twice: readers know it by its `ranking_id`.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        capacity: int = CAPACITY,
        capacity_bytes: int = CAPACITY_BYTES,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._waiting: queue.Queue[Ranking] = queue.Queue(capacity)
        self._capacity_bytes = capacity_bytes
        self._waiting_bytes = 0
        self._counting = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rankings-log", daemon=True)
        self._producer: Producer | None = None

    def start(self) -> None:
        """Begin to send; returns at once."""
        self._thread.start()

    @property
    def has_broker(self) -> bool:
        """Whether there is anywhere to send rankings to."""
        return bool(self._settings.kafka)

    def put(self, ranking: Ranking) -> None:
        """Take an answer. Never waits: a full buffer drops it and counts."""
        memory_bytes = _memory_bytes(ranking)
        with self._counting:
            has_room = self._waiting_bytes + memory_bytes <= self._capacity_bytes and not self._waiting.full()
            if has_room:
                self._waiting_bytes += memory_bytes
                self._waiting.put_nowait(ranking)
        if not has_room:
            self._count_dropped(1)

    def stop(self, timeout_s: float = 2.0) -> None:
        """Send what is left, as far as that is possible in the time, and end the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        unsent: list[Ranking] = []
        while True:
            has_broker = self._producer is not None or self._connect()
            if has_broker:
                batch = unsent or self._take()
                if not batch and self._stop.is_set():
                    break
                unsent = self._send(batch) if batch else []
            if (unsent or not has_broker) and self._stop.wait(RETRY_S):
                break
        self._count_dropped(len(unsent) + self._waiting.qsize())
        self._close()

    def _connect(self) -> bool:
        try:
            self._producer = Producer(self._settings, connect_timeout_s=1.0, delivery_timeout_s=DELIVERY_TIMEOUT_S)
        except BrokerUnavailable as error:
            log.debug("rankings wait for the broker: %s", error)
            return False
        return True

    def _take(self) -> list[Ranking]:
        """What comes within COLLECT_S of the first, up to a batch; empty when nothing comes for a while."""
        batch: list[Ranking] = []
        with contextlib.suppress(queue.Empty):
            batch.append(self._waiting.get(timeout=IDLE_S))
            self._stop.wait(COLLECT_S)
            while len(batch) < BATCH:
                batch.append(self._waiting.get_nowait())
        with self._counting:
            self._waiting_bytes -= sum(map(_memory_bytes, batch))
        return batch

    def _send(self, batch: list[Ranking]) -> list[Ranking]:
        """Send a batch; what of it the broker did not acknowledge, to be sent again."""
        assert self._producer is not None
        unsent: list[Ranking] = []
        dropped = 0
        try:
            self._producer.deliver([fit_ranking(ranking) for ranking in batch])
        except DeliveryFailed as error:
            unsent = [batch[position] for position, _cause in error.failures if position not in error.refused]
            dropped = len(error.refused)
            log.warning("%d rankings are sent again, %d were refused: %s", len(unsent), dropped, error)
        except BrokerUnavailable as error:
            unsent = batch
            log.warning("%d rankings are sent again: %s", len(batch), error)
        except NowrankError as error:
            dropped = len(batch)
            log.warning("%d rankings were lost: %s", dropped, error)
        self._metrics.count("nowrank_scorer_rankings_total", len(batch) - len(unsent) - dropped, result="logged")
        self._count_dropped(dropped)
        return unsent

    def _count_dropped(self, count: int) -> None:
        self._metrics.count("nowrank_scorer_rankings_total", count, result="dropped")

    def _close(self) -> None:
        if self._producer is not None:
            try:
                self._producer.close()
            except NowrankError as error:
                log.warning("rankings were lost: %s", error)


def _memory_bytes(ranking: Ranking) -> int:
    """About how much memory a ranking takes while it waits."""
    return len(ranking.inputs) + sum(POSITION_BYTES + len(item.features) for item in ranking.items)


def fit_ranking(ranking: Ranking) -> Ranking:
    """The ranking as a record can hold it: features for the first positions that fit, then fewer positions."""
    items = ranking.items
    with_features = len(items)
    while len(encode_event(msgspec.structs.replace(ranking, items=items))) > MAX_EVENT_BYTES and (
        with_features or items
    ):
        if with_features:
            with_features //= 2
            items = items[:with_features] + [
                msgspec.structs.replace(item, features=b"") for item in items[with_features:]
            ]
        else:
            items = items[: len(items) // 2]
    return msgspec.structs.replace(ranking, items=items)
