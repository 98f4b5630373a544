from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from infra.errors import BadInput
from model.artifact import load_artifact
from model.baselines import BASELINES, Moment, RecentPlays, popularity, prefix_popularity, recent_popularity
from model.evaluate import MODEL, choose_labels, evaluate_artifact, rank_labels, result_table, task_result
from model.progress import Silent
from model.ranking_metrics import ndcg
from model.replay import Replay
from model.replay_dataset import split_by_time
from model.train import TrainReport
from streams.labels import Log
from tests.model.small_log import make_label, make_log

Trained = tuple[Path, TrainReport]


def test_the_result_holds_every_task_and_model_with_intervals(small_log: Log, trained: Trained) -> None:
    result = evaluate_artifact(small_log, trained[0], resamples=50)
    assert result["model_version"] == trained[1].card.version
    for task, of_task in result["tasks"].items():
        assert set(BASELINES[task]) | {MODEL} <= set(of_task)
        for model in (*BASELINES[task], MODEL):
            assert all(0 <= of_task[model][name] <= 1 for name in ("ndcg10", "hr10", "mrr"))
        best = of_task[of_task["best_baseline"]]["ndcg10"]
        assert of_task["paired_low"] <= of_task[MODEL]["ndcg10"] - best <= of_task["paired_high"]
        assert f"| {task} | **{MODEL}** |" in result_table(result)


def test_a_planted_future_event_changes_no_earlier_rank(small_log: Log, trained: Trained) -> None:
    artifact = load_artifact(trained[0])
    end_ms = split_by_time(small_log).middle_end_ms
    chosen = {id(label) for label in small_log.labels if end_ms <= label.ts_ms < small_log.labels[-1].ts_ms - 1}
    planted = make_label(small_log.labels[-2].user_id, "t5", small_log.labels[-1].ts_ms - 1)
    later = Log(small_log.items, sorted([*small_log.labels, planted], key=lambda label: label.ts_ms))
    plain, with_future = (rank_labels(log, artifact, chosen, Silent()) for log in (small_log, later))
    assert plain == with_future


def test_the_paired_interval_is_against_the_best_baseline() -> None:
    ranks = {MODEL: np.zeros(50), "good": np.full(50, 1.0), "bad": np.full(50, 20.0)}
    result = task_result(ranks, np.arange(50), 20, np.random.default_rng(0))
    assert result["best_baseline"] == "good"
    assert result["paired_low"] == pytest.approx(1.0 - ndcg(np.array([1.0]))[0])
    assert result["bad"]["unicorn_minus_low"] == pytest.approx(1.0)


def test_at_most_so_many_labels_of_each_task_are_drawn_the_same_ones_by_seed(small_log: Log) -> None:
    drawn = [choose_labels(small_log.labels, 7, np.random.default_rng(3)) for _ in range(2)]
    assert drawn[0] == drawn[1]
    tasks = [label.task for label in small_log.labels if id(label) in drawn[0]]
    assert {task: tasks.count(task) for task in set(tasks)} == {"pre_query": 7, "search": 7, "more_like_this": 7}


def test_another_log_than_the_one_trained_on_is_refused(trained: Trained) -> None:
    other = make_log(users=10)
    moved = Log(other.items, [replace(label, ts_ms=label.ts_ms - 10**10) for label in other.labels])
    with pytest.raises(BadInput, match="train on it first"):
        evaluate_artifact(moved, trained[0])


def _moment(log: Log, user_id: str = "newcomer", query: str | None = None) -> Moment:
    replay = Replay(log)
    end_ms = log.labels[-1].ts_ms + 1000
    replay.fold_until(end_ms)
    label = make_label(user_id, "t0", end_ms, task="search" if query else "pre_query", query=query)
    return Moment(replay, RecentPlays(log, replay), label, replay.context(label), np.arange(1, len(replay.table)))


def test_popularity_counts_plays_and_recent_popularity_forgets_old_ones() -> None:
    base = make_log(users=1, labels_per_user=1)
    ms = base.labels[0].ts_ms
    day = 86_400_000
    labels = [make_label(f"u{n}", "t1", ms + n) for n in range(5)] + [
        make_label(f"u{n}", "t2", ms + 10 * day + n) for n in range(3)
    ]
    moment = _moment(Log(base.items, labels))
    slots = [moment.replay.table.slot(item_id) - 1 for item_id in ("t1", "t2")]
    assert popularity(moment)[slots].tolist() == [5, 3]
    assert recent_popularity(moment)[slots].tolist() == pytest.approx([0, 3], abs=1e-6)


def test_prefix_popularity_puts_matching_titles_first_by_popularity() -> None:
    moment = _moment(make_log(), query="nig")
    order = np.argsort(-prefix_popularity(moment), kind="stable")
    matching = [
        any(word.startswith("nig") for word in moment.replay.table.titles[slot].split()) for slot in moment.slots[order]
    ]
    assert matching == sorted(matching, reverse=True)
    assert any(matching)
    counts = popularity(moment)[order][: sum(matching)]
    assert counts.tolist() == sorted(counts.tolist(), reverse=True)
