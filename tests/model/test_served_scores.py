"""A sample ranked again through a real `/rank`: broker, worker, Redis and scorer say what the evaluation says."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest

from infra.clock import now_ms
from model.artifact import load_artifact
from model.evaluate import model_scores
from model.moments import Moment, RecentCounts
from model.ranked import ModelScores
from model.replay import Replay
from model.train import TrainReport
from streams.labels import Label, Log
from streams.producer import Producer
from tests.faults.world import World
from tests.model.small_log import make_label
from tests.serving.world import running_scorer

pytestmark = pytest.mark.slow
CLOSE = 1e-4
CANDIDATES = 60
SAMPLE = 12


@dataclass(frozen=True)
class Twins:
    """One log in two places: in the replay of the evaluation, and in a running stack whose clock stands at `at_ms`."""

    log: Log
    replay: Replay
    artifact_dir: Path
    client: httpx.Client
    at_ms: int

    def evaluated(self, label: Label, item_ids: list[str]) -> ModelScores:
        """What the evaluation says of these titles."""
        slots_N = np.array([self.replay.table.slot_by_id[item_id] for item_id in item_ids], np.int64)
        moment = Moment(self.replay, RecentCounts(self.replay), label, self.replay.context(label), slots_N)
        return model_scores(load_artifact(self.artifact_dir), self.replay)(moment)

    def served(self, label: Label, item_ids: list[str]) -> dict[str, tuple[float, float]]:
        """Score and probability of these titles by `/rank`."""
        request = {
            "user_id": label.user_id, "task": label.task, "query": label.query, "country": label.country,
            "source_item_id": label.source_item_id, "items": item_ids, "limit": len(item_ids), "log": False,
        }  # fmt: skip
        answer = self.client.post("/rank", json={name: value for name, value in request.items() if value is not None})
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"]["level"] == "full"
        return {item["item_id"]: (item["score"], item["probability"]) for item in answer.json()["items"]}


def moved(log: Log, end_ms: int) -> Log:
    """The log, so that its last label is at a time."""
    by_ms = end_ms - log.labels[-1].ts_ms
    return Log(log.items, [
        replace(label, ts_ms=label.ts_ms + by_ms, events=tuple(
            msgspec.structs.replace(event, event_ts_ms=event.event_ts_ms + by_ms) for event in label.events))
        for label in log.labels
    ])  # fmt: skip


@pytest.fixture(scope="module")
def twins(
    small_log: Log, trained: tuple[Path, TrainReport], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Twins]:
    at_ms = now_ms()
    log = moved(small_log, at_ms - 60_000)
    replay = Replay(log)
    replay.fold_until(at_ms)
    world = World(tmp_path_factory.mktemp("twins"))
    settings = replace(world.settings, artifact_dir=str(trained[0]), rank_deadline_ms=2_000)
    try:
        with Producer(settings) as producer:
            producer.send_items(log.items)
            producer.deliver(log.events)
        world.worker().keep()
        world.settle()
        with pytest.MonkeyPatch.context() as patched, running_scorer(settings) as (_, client):
            patched.setattr("serving.rank.now_ms", lambda: at_ms)
            yield Twins(log, replay, trained[0], client, at_ms)
    finally:
        world.close()


def sampled(twins: Twins) -> list[tuple[Label, list[str]]]:
    """The last labels of members asked again at `at_ms`, of every task, and a newcomer; each with titles."""
    newest = list({label.user_id: label for label in twins.log.labels}.values())[-SAMPLE:]
    newcomer = make_label("newcomer", "t1", twins.at_ms, task="search", query="nig")
    asked = [replace(label, ts_ms=twins.at_ms) for label in newest] + [newcomer]
    draw = np.random.default_rng(0)
    item_ids = np.array([item.item_id for item in twins.log.items])
    return [(label, draw.permutation(item_ids)[:CANDIDATES].tolist()) for label in asked]


def test_what_is_served_is_what_is_evaluated(twins: Twins) -> None:
    tasks = set()
    for label, item_ids in sampled(twins):
        ours, theirs = twins.evaluated(label, item_ids), twins.served(label, item_ids)
        assert set(theirs) == set(item_ids)
        served_N2 = np.array([theirs[item_id] for item_id in item_ids])
        assert np.abs(served_N2[:, 0] - ours.logits_N).max() <= CLOSE, label
        assert np.abs(served_N2[:, 1] - ours.probabilities_N).max() <= CLOSE, label
        assert np.ptp(ours.logits_N) > 100 * CLOSE
        tasks.add(label.task)
    assert tasks == {"pre_query", "search", "more_like_this"}


def test_another_history_would_have_been_noticed(twins: Twins) -> None:
    (one, item_ids), (other, _), *_ = sampled(twins)
    ours = twins.evaluated(replace(one, user_id=other.user_id), item_ids)
    theirs = twins.served(one, item_ids)
    assert max(abs(theirs[item_id][0] - score) for item_id, score in zip(item_ids, ours.logits_N, strict=True)) > CLOSE
