"""Every answer is logged with what it was made of, and nothing ever waits for the log."""

import asyncio
import itertools
import threading
import uuid
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

import httpx
import msgspec
import numpy as np

from features.vector import COLUMN_NAMES
from infra.errors import BrokerUnavailable, DeliveryFailed, NowrankError
from infra.metrics import Metrics
from infra.settings import Settings
from serving.contract import RankRequest
from serving.rankings_log import MAX_LOGGED_ITEMS, RankingsLog, fit_ranking
from streams.events import MAX_EVENT_BYTES, Ranking, ServedItem, encode_event
from streams.topics import RANKINGS
from tests.running_time import running_s
from tests.serving.test_api import records
from tests.serving.world import bare_ranker, metric, wait_until


def logged(settings: Settings, ranking_id: str) -> list[Ranking]:
    found = [msgspec.json.decode(value, type=Ranking) for value in records(settings, RANKINGS)]
    return [ranking for ranking in found if ranking.ranking_id == ranking_id]


def test_answer_is_logged_with_its_features_and_the_offsets_behind_them(
    client: httpx.Client, world_settings: Settings
) -> None:
    ranking_id = str(uuid.uuid4())
    request = {
        "id": ranking_id,
        "user_id": "ann",
        "task": "search",
        "query": "Far",
        "country": "DE",
        "session_id": "s1",
        "limit": 5,
        "explain": True,
    }
    answer = client.post("/rank", json=request).json()
    wait_until(lambda: logged(world_settings, ranking_id))
    (ranking,) = logged(world_settings, ranking_id)
    assert [item.item_id for item in ranking.items] == [item["item_id"] for item in answer["items"]]
    assert [item.score for item in ranking.items] == [item["score"] for item in answer["items"]]
    for served, item in zip(ranking.items, answer["items"], strict=True):
        values = np.frombuffer(served.features, np.float32)
        assert values.tolist() == [item["features"][name]["value"] for name in COLUMN_NAMES]
    assert (ranking.user_id, ranking.task, ranking.query, ranking.country, ranking.session_id) == (
        "ann",
        "search",
        "Far",
        "DE",
        "s1",
    )
    assert ranking.model == answer["model"]
    assert set(ranking.contained["user"]) == {"plays-0", "clicks-0"}
    assert set(ranking.contained["country"]) == {"deltas-0"}
    engaged = [item.item_id for item in ranking.items if int(item.item_id[1:]) < 20]
    assert {f"item:{item_id}" for item_id in engaged} <= set(ranking.contained)


def test_answer_that_nobody_will_see_is_not_logged(client: httpx.Client, world_settings: Settings) -> None:
    unseen, seen = str(uuid.uuid4()), str(uuid.uuid4())
    client.post("/rank", json={"id": unseen, "user_id": "ann", "task": "pre_query", "log": False})
    client.post("/rank", json={"id": seen, "user_id": "ann", "task": "pre_query"})
    wait_until(lambda: logged(world_settings, seen))
    assert not logged(world_settings, unseen)


def test_logged_rankings_are_counted(client: httpx.Client) -> None:
    before = metric(client, 'nowrank_scorer_rankings_total{result="logged"}')
    client.post("/rank", json={"user_id": "ann", "task": "pre_query"})
    wait_until(lambda: metric(client, 'nowrank_scorer_rankings_total{result="logged"}') > before)


def make_ranking(count: int, id_chars: int = 10, features: bytes = b"x" * 4 * len(COLUMN_NAMES)) -> Ranking:
    items = [
        ServedItem(item_id=str(number).rjust(id_chars, "ü"), score=1.0, features=features) for number in range(count)
    ]
    return Ranking(ranking_id="r", user_id="u", event_ts_ms=1, task="pre_query", items=items)


def test_full_buffer_drops_and_counts_without_waiting(settings: Settings) -> None:
    metrics = Metrics("scorer")
    log = RankingsLog(replace(settings, kafka="127.0.0.1:1"), metrics, capacity=10)
    log.start()
    begin_s = running_s()
    for _ in range(50):
        log.put(make_ranking(1))
    assert running_s() - begin_s < 0.5
    assert metrics.registry.get_sample_value("nowrank_scorer_rankings_total", {"result": "dropped"}) == 40
    log.stop()


def test_long_rankings_wait_within_a_bound_of_bytes(settings: Settings) -> None:
    metrics = Metrics("scorer")
    log = RankingsLog(replace(settings, kafka="127.0.0.1:1"), metrics, capacity_bytes=1_000_000)
    for _ in range(50):
        log.put(make_ranking(200, features=b"x" * 400))
    assert metrics.registry.get_sample_value("nowrank_scorer_rankings_total", {"result": "dropped"}) == 45
    log.put(make_ranking(0))
    assert metrics.registry.get_sample_value("nowrank_scorer_rankings_total", {"result": "dropped"}) == 45


class AnsweringProducer:
    """Delivers as it is told: raises the next of its `errors`, and takes everything when there is none left."""

    def __init__(self, errors: Iterable[NowrankError]) -> None:
        self.tries = 0
        self.taken: list[str] = []
        self.may_answer = threading.Event()
        self._errors = iter(errors)

    def deliver(self, rankings: list[Ranking]) -> int:
        self.tries += 1
        assert self.may_answer.wait(10)
        failed: set[int] = set()
        if (error := next(self._errors, None)) is not None:
            if not isinstance(error, DeliveryFailed):
                raise error
            failed = {position for position, _cause in error.failures}
        self.taken += [ranking.ranking_id for at, ranking in enumerate(rankings) if at not in failed]
        if error is not None:
            raise error
        return len(rankings)

    def close(self) -> None:
        """Nothing waits."""


class AnsweredLog(RankingsLog):
    """Sends by an `AnsweringProducer`."""

    def __init__(self, producer: AnsweringProducer, capacity: int = 10) -> None:
        self.metrics = Metrics("scorer")
        super().__init__(Settings(kafka="127.0.0.1:1"), self.metrics, capacity=capacity)
        self._producer = cast(Any, producer)

    def count(self, result: str) -> float | None:
        return self.metrics.registry.get_sample_value("nowrank_scorer_rankings_total", {"result": result})


def put_numbers(log: RankingsLog, *numbers: int) -> None:
    for number in numbers:
        log.put(msgspec.structs.replace(make_ranking(1), ranking_id=str(number)))


def test_rankings_wait_while_the_broker_is_away_and_only_what_does_not_fit_is_dropped() -> None:
    producer = AnsweringProducer([BrokerUnavailable("away"), DeliveryFailed([(0, "expired")])])
    log = AnsweredLog(producer, capacity=2)
    log.start()
    put_numbers(log, 0)
    wait_until(lambda: producer.tries == 1)
    put_numbers(log, 1, 2, 3)
    producer.may_answer.set()
    wait_until(lambda: log.count("logged") == 3)
    log.stop()
    assert producer.taken == ["0", "1", "2"]
    assert log.count("dropped") == 1


def test_ranking_that_the_broker_refuses_is_dropped_and_those_beside_it_are_sent_again() -> None:
    producer = AnsweringProducer([DeliveryFailed([(0, "too large"), (1, "expired")], {0})])
    producer.may_answer.set()
    log = AnsweredLog(producer)
    put_numbers(log, 0, 1, 2)
    log.start()
    wait_until(lambda: log.count("logged") == 2)
    log.stop()
    assert producer.taken == ["2", "1"]
    assert log.count("dropped") == 1


def test_what_a_broker_that_is_away_leaves_at_the_stop_is_counted_as_dropped() -> None:
    producer = AnsweringProducer(itertools.repeat(BrokerUnavailable("away")))
    log = AnsweredLog(producer)
    log.start()
    put_numbers(log, 0)
    wait_until(lambda: producer.tries == 1)
    put_numbers(log, 1, 2)
    producer.may_answer.set()
    log.stop(timeout_s=10.0)
    assert log.count("dropped") == 3
    assert producer.taken == []


class KeptRankings(RankingsLog):
    """Keeps what would wait for the broker."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, Metrics("scorer"))
        self.kept: list[Ranking] = []

    def put(self, ranking: Ranking) -> None:
        self.kept.append(ranking)


def kept_of_a_long_answer(settings: Settings) -> list[Ranking]:
    rankings = KeptRankings(settings)
    titles = [f"t{number}" for number in range(300)]
    request = RankRequest(user_id="ann", task="pre_query", items=titles, limit=300)
    answer = asyncio.run(bare_ranker(rankings).rank(request))
    assert len(answer.items) == 300
    return rankings.kept


def test_a_long_answer_waits_with_no_more_titles_than_are_logged() -> None:
    (kept,) = kept_of_a_long_answer(Settings(kafka="127.0.0.1:1"))
    assert len(kept.items) == MAX_LOGGED_ITEMS


def test_nothing_waits_where_no_broker_is_set() -> None:
    assert kept_of_a_long_answer(Settings(kafka="")) == []


def test_ranking_that_fits_is_not_changed() -> None:
    ranking = make_ranking(20)
    assert fit_ranking(ranking) == ranking


def test_long_ranking_loses_features_at_its_end_before_positions() -> None:
    for id_chars in (10, 128):
        fitted = fit_ranking(make_ranking(200, id_chars))
        assert len(encode_event(fitted)) <= MAX_EVENT_BYTES
        assert fitted.items[0].features
        assert len(fitted.items) == 200
