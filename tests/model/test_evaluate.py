from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from features.catalogue import Item
from infra.errors import BadInput
from model import evaluate
from model.artifact import load_artifact
from model.ease_baseline import FittedEase
from model.evaluate import Scope, artifact_parts, check_log, evaluate_artifact, log_parts, model_scores
from model.examples import split_by_time
from model.ials_baseline import FittedIals
from model.outcome import correct, next_overlap, task_result, user_auc
from model.progress import Silent
from model.ranked import MODEL, Entrants, Ranked, Ranking, rank_log
from model.ranking_metrics import ndcg
from model.report import preamble, result_table, slices_table, write_report
from model.roles import Parts, Roles, choose_labels, draw_roles
from model.train import TrainReport, train_on_log
from streams.labels import Log
from tests.model.conftest import SMALL
from tests.model.small_log import make_label, make_log, with_late_thumbs

pytestmark = pytest.mark.slow

Trained = tuple[Path, TrainReport]
BASELINES = {"popularity", "recent_popularity", "item_knn_last5", "item_knn", "session_knn", "ease", "ials", "blend"}
OWN = {"pre_query": set(), "more_like_this": {"source_knn"}, "search": {"prefix_popularity", "bm25"}}
EXTRAS = ("auc_user", "coverage", "gini")


@pytest.fixture(scope="module")
def result(small_log: Log, trained: Trained) -> dict[str, Any]:
    """The evaluation of the small artifact."""
    return evaluate_artifact(small_log, trained[0], Scope(max_labels=12, resamples=50))


def test_the_result_holds_every_task_and_model_with_intervals(result: dict[str, Any], trained: Trained) -> None:
    assert result["model_version"] == trained[1].card.version
    assert set(result["tasks"]) == set(OWN)
    for task, of_task in result["tasks"].items():
        models = {name for name, means in of_task.items() if isinstance(means, dict)}
        assert models == BASELINES | OWN[task] | {MODEL}
        for model in models:
            assert all(0 <= of_task[model][name] <= 1 for name in ("ndcg10", "hr10", "mrr", *EXTRAS))
        best = of_task[of_task["best_baseline"]]["ndcg10"]
        assert best == max(of_task[model]["ndcg10"] for model in models - {MODEL})
        assert of_task["paired_low"] <= of_task[MODEL]["ndcg10"] - best <= of_task["paired_high"]
        assert 0 <= of_task[MODEL]["ece"] <= 1
        for model in models - {MODEL}:
            assert of_task[model]["p"] <= of_task[model]["p_holm"] <= 1


def test_slices_are_parts_of_the_whole(result: dict[str, Any]) -> None:
    for task, of_task in result["tasks"].items():
        slices = of_task[MODEL]["slices"]
        bands = [slices[name] for name in ("head", "middle", "tail") if name in slices]
        assert sum(band["labels"] for band in bands) == of_task["labels"]
        mean = sum(band["labels"] * band["ndcg10"] for band in bands) / of_task["labels"]
        assert mean == pytest.approx(of_task[MODEL]["ndcg10"])
        names = {"pre_query": {"in_session"}, "search": {"typed_3_4"}, "more_like_this": set()}[task]
        assert names <= set(slices)


def test_each_metric_has_an_interval_around_its_difference_in_the_whole_and_in_every_slice(
    result: dict[str, Any],
) -> None:
    for of_task in result["tasks"].values():
        ours = of_task[MODEL]
        assert "minus" not in ours
        for means in (of_task[model] for model in of_task if model != MODEL and isinstance(of_task[model], dict)):
            parts = [(means, ours), *((means["slices"][name], ours["slices"][name]) for name in means["slices"])]
            for theirs, mine in parts:
                for metric, (low, high) in theirs["minus"].items():
                    assert low <= mine[metric] - theirs[metric] + 1e-9
                    assert mine[metric] - theirs[metric] <= high + 1e-9
            assert set(means["minus"]) == {"ndcg10", "hr10", "mrr"}
            assert means["minus"]["ndcg10"] == [means["unicorn_minus_low"], means["unicorn_minus_high"]]


def test_the_slices_table_compares_with_the_best_baseline_of_each_slice(result: dict[str, Any]) -> None:
    of_task = result["tasks"]["search"]
    baselines = [model for model in of_task if model != MODEL and isinstance(of_task[model], dict)]
    best = max(baselines, key=lambda model: of_task[model]["slices"]["typed_3_4"]["mrr"])
    [line] = [line for line in slices_table(result).split("\n") if line.startswith("| search | typed_3_4 |")]
    low, high = of_task[best]["slices"]["typed_3_4"]["minus"]["mrr"]
    assert line.endswith(f"| {best} {of_task[best]['slices']['typed_3_4']['mrr']:.3f} | {low:+.3f} .. {high:+.3f} |")


def test_the_report_says_where_a_difference_is_not_significant(result: dict[str, Any], tmp_path: Path) -> None:
    table = result_table(result)
    assert "Without sasrec: not asked for." in preamble(result)
    for task, of_task in result["tasks"].items():
        assert f"| {task} | **{MODEL}** |" in table
        count = sum(isinstance(means, dict) and means.get("significant") is False for means in of_task.values())
        assert sum(line.startswith(f"| {task} ") and "not significant" in line for line in table.split("\n")) == count
    assert "| search | typed_3_4 |" in slices_table(result)
    assert {"result.json", "result.md"} <= set(write_report(result, tmp_path / "out"))
    written = msgspec.json.decode((tmp_path / "out" / "result.json").read_bytes())
    assert written["tasks"]["search"]["paired_low"] == result["tasks"]["search"]["paired_low"]
    assert table in (tmp_path / "out" / "result.md").read_text()


def test_the_report_says_since_when_and_on_how_much_of_a_log_that_has_grown_was_tested(
    small_log: Log, trained: Trained
) -> None:
    grown, scope = make_log(users=120), Scope(max_labels=2, resamples=5, without=("sasrec", "ials"))
    begin_ms = log_parts(small_log).middle_end_ms
    share = sum(label.ts_ms >= begin_ms for label in grown.labels) / len(grown.labels)
    assert share > 0.6
    since = f"since 2023-11-16 {(begin_ms // 3_600_000) % 24:02}:{(begin_ms // 60_000) % 60:02} UTC, "
    assert f"{since}the last {share:.1%} of the log's labels" in preamble(evaluate_artifact(grown, trained[0], scope))


def test_without_an_artifact_the_baselines_are_compared_with_the_best_of_them(small_log: Log) -> None:
    result = evaluate_artifact(small_log, None, Scope(max_labels=5, resamples=20, quick=True))
    assert result["model_version"] is None
    for of_task in result["tasks"].values():
        assert MODEL not in of_task
        assert "best_minus_low" not in of_task[of_task["best_baseline"]]
        assert all("best_minus_low" in of_task[name] for name in BASELINES - {of_task["best_baseline"]})
    assert "best minus this" in result_table(result)


def _rank(log: Log, artifact_dir: Path, end_ms: int) -> Ranked:
    """Rank the labels of a log that test, tune or calibrate before `end_ms`."""
    artifact = load_artifact(artifact_dir)
    parts = artifact_parts(artifact, log)
    before = Log(log.items, [label for label in log.labels if label.ts_ms < end_ms])
    roles = draw_roles(before, parts, 5, np.random.default_rng(0))
    entrants = Entrants(lambda replay: model_scores(artifact, replay), (FittedEase(), FittedIals()))
    return rank_log(log, parts, roles, entrants, np.random.default_rng(0), Silent())


def test_a_planted_future_event_changes_no_earlier_rank(small_log: Log, trained: Trained) -> None:
    end_ms = small_log.labels[-1].ts_ms - 1
    planted = make_label(small_log.labels[-2].user_id, "t5", end_ms)
    later = Log(small_log.items, sorted([*small_log.labels, planted], key=lambda label: label.ts_ms))
    plain, with_future = (_rank(log, trained[0], end_ms) for log in (small_log, later))
    assert plain.tuned == with_future.tuned
    for task, rankings in plain.rankings.items():
        assert [one.ranks for one in rankings] == [one.ranks for one in with_future.rankings[task]]


def _learned(log: Log, labels: int, *tasks: str) -> Any:
    """An artifact of the log, of which only the card's training and the titles are asked."""
    training = {"labels": labels, "tasks": tasks, "shift_ms": 0, **asdict(split_by_time(log))}
    return SimpleNamespace(items=log.items, card=SimpleNamespace(training=training))


def test_an_artifact_is_not_refused_for_a_task_that_its_draw_could_miss() -> None:
    log = make_log()
    begin_ms = split_by_time(log).warm_up_end_ms
    only_first = [label if label.ts_ms < begin_ms else replace(label, task="pre_query") for label in log.labels]
    check_log(_learned(log, 10_000, "pre_query"), Log(log.items, only_first))
    check_log(_learned(log, 8, "pre_query"), log)
    with pytest.raises(BadInput, match="learned pre_query; this log has more_like_this, pre_query, search"):
        check_log(_learned(log, 10_000, "pre_query"), log)


def test_planted_thumbs_on_titles_of_before_change_neither_what_is_tuned_nor_what_is_tested(small_log: Log) -> None:
    scope = Scope(max_labels=5, resamples=20, quick=True)
    logs = with_late_thumbs(small_log, split_by_time(small_log).middle_end_ms)
    plain, planted = (evaluate_artifact(log, None, scope) for log in logs)
    assert (plain["tuned"], plain["tasks"]) == (planted["tuned"], planted["tasks"])


def test_a_planted_past_event_does_change_ranks(small_log: Log, trained: Trained) -> None:
    begin_ms = small_log.labels[0].ts_ms
    labels = [make_label(f"crowd{place}", "t5", begin_ms + place) for place in range(1, 30)]
    earlier = Log(small_log.items, sorted([*small_log.labels, *labels], key=lambda label: label.ts_ms))
    parts = log_parts(small_log)
    plain, with_past = (
        rank_log(log, parts, draw_roles(log, parts, 5, np.random.default_rng(0)), Entrants(), rng, Silent())
        for log, rng in ((log, np.random.default_rng(0)) for log in (small_log, earlier))
    )
    popular = [[one.ranks["popularity"] for one in ranked.rankings["pre_query"]] for ranked in (plain, with_past)]
    assert popular[0] != popular[1]


def test_shuffled_labels_stand_nowhere_in_particular(tmp_path: Path) -> None:
    log = make_log(users=60)
    rng = np.random.default_rng(0)
    titles = [item.item_id for item in log.items]
    shuffled = [replace(label, item_id=titles[rng.integers(len(titles))]) for label in log.labels]
    train_on_log(Log(log.items, shuffled), tmp_path / "artifact", config=SMALL)
    result = evaluate_artifact(Log(log.items, shuffled), tmp_path / "artifact", Scope(resamples=10))
    for name in BASELINES | {MODEL}:
        found = [of_task[name]["auc_user"] for of_task in result["tasks"].values()]
        assert np.mean(found) == pytest.approx(0.5, abs=0.12)


def _ranking(user: str, **ranks: float) -> Ranking:
    tops = {model: np.arange(10) + int(rank) for model, rank in ranks.items()}
    places = {model: (rank, rank) for model, rank in {"popularity": 30.0, **ranks}.items()}
    return Ranking(user, places, {"popularity": np.arange(10), **tops}, 41, ("all",))


def test_the_paired_interval_is_against_the_best_baseline() -> None:
    rankings = [_ranking(f"u{place}", **{MODEL: 0.0, "good": 1.0, "bad": 20.0}) for place in range(50)]
    result = task_result(rankings, 41, 20, np.random.default_rng(0))
    assert result["best_baseline"] == "good"
    assert result["paired_low"] == pytest.approx(1.0 - ndcg(np.array([[1.0, 1.0]]))[0])
    assert result["bad"]["unicorn_minus_low"] == pytest.approx(1.0)
    assert (result["labels"], result["users"]) == (50, 50)


def test_the_correction_is_over_all_comparisons_of_all_tasks() -> None:
    tasks: dict[str, dict[str, Any]] = {
        "search": {MODEL: {}, "one": {"p": 0.02}, "labels": 3}, "pre_query": {"one": {"p": 0.03}, "two": {"p": 0.001}},
    }  # fmt: skip
    correct(tasks)
    found = [tasks["search"]["one"], tasks["pre_query"]["one"], tasks["pre_query"]["two"]]
    assert [means["p_holm"] for means in found] == pytest.approx([0.04, 0.04, 0.003])
    assert [means["significant"] for means in found] == [True, True, True]
    assert tasks["search"][MODEL] == {}


def test_a_users_own_auc_counts_each_user_once() -> None:
    # 40 other candidates: ranks 0 and 20 are worth 1 and .5; user b has one label at rank 40, worth 0.
    rankings = [_ranking("a", m=0.0), _ranking("a", m=20.0), _ranking("b", m=40.0)]
    assert user_auc(rankings, "m") == pytest.approx((0.75 + 0.0) / 2)


def test_stability_is_between_one_users_requests() -> None:
    assert next_overlap([_ranking("a", m=0.0), _ranking("b", m=0.0)], "m") is None
    assert next_overlap([_ranking("a", m=0.0), _ranking("b", m=20.0), _ranking("a", m=0.0)], "m") == pytest.approx(1.0)


def test_at_most_so_many_labels_of_each_task_are_drawn_the_same_ones_by_seed(small_log: Log) -> None:
    drawn = [choose_labels(small_log.labels, 7, np.random.default_rng(3)) for _ in range(2)]
    assert drawn[0] == drawn[1]
    tasks = [label.task for label in small_log.labels if id(label) in drawn[0]]
    assert {task: tasks.count(task) for task in set(tasks)} == {"pre_query": 7, "search": 7, "more_like_this": 7}


def _times(log: Log, roles: Roles, role: str) -> list[int]:
    return [label.ts_ms for label in log.labels if roles.by_label.get(id(label)) == role]


def test_labels_tune_on_the_middle_part_and_test_after_it(small_log: Log) -> None:
    parts = log_parts(small_log)
    roles = draw_roles(small_log, parts, None, np.random.default_rng(0))
    tune, blend, test = (_times(small_log, roles, role) for role in ("tune", "blend", "test"))
    assert min(map(len, (tune, blend, test))) > 0
    assert parts.train_end_ms <= min(tune) <= max(tune + blend) < parts.middle_end_ms <= min(test)
    positive = {id(label) for label in small_log.labels if label.positive}
    assert {label for label, role in roles.by_label.items() if role != "calibrate"} <= positive
    assert not {label for label, role in roles.by_label.items() if role == "calibrate"} & positive


def test_what_checks_the_calibration_of_a_task_is_as_often_positive_as_its_labels() -> None:
    draw = np.random.default_rng(1)
    labels = [
        make_label(f"u{place}", "t1", place, positive=draw.random() < 0.4, task="search" if place % 20 else "pre_query")
        for place in range(1, 4001)
    ]
    roles = draw_roles(Log([], labels), Parts(0, 0), 150, np.random.default_rng(0))
    for task in ("search", "pre_query"):
        of_task = [label for label in labels if label.task == task]
        drawn = [label for label in of_task if id(label) in roles.by_label]
        share, expected = (sum(label.positive for label in some) / len(some) for some in (drawn, of_task))
        assert share == pytest.approx(expected, abs=0.06), task


def test_a_search_for_a_removed_title_looks_for_the_next_one_that_was_liked() -> None:
    items = make_log().items
    ms = 1_700_000_000_000
    labels = [
        make_label("u", "t1", ms, task="search", query="p"), make_label("u", "t2", ms + 10, positive=False),
        make_label("u", "t3", ms + 20), make_label("v", "t4", ms + 30, task="search", query="c"),
    ]  # fmt: skip
    roles = draw_roles(Log(items, labels), Parts(0, 0), None, np.random.default_rng(0))
    assert roles.next_item == {id(labels[0]): "t3"}


def test_another_log_than_the_one_trained_on_is_refused(trained: Trained) -> None:
    other = make_log(users=10)
    moved = Log(other.items, [replace(label, ts_ms=label.ts_ms - 10**10) for label in other.labels])
    with pytest.raises(BadInput, match="train on it first"):
        evaluate_artifact(moved, trained[0], Scope())


def test_the_log_that_was_trained_on_is_refused_without_its_titles_and_without_its_searches(
    small_log: Log, trained: Trained
) -> None:
    untitled = [Item(item_id=item.item_id, title=item.item_id) for item in small_log.items]
    with pytest.raises(BadInput, match=r"of the 120 titles that the artifact knows, 0 are .* with the same --items"):
        evaluate_artifact(Log(untitled, small_log.labels), trained[0], Scope())
    browsed = [replace(label, task="pre_query", query=None) for label in small_log.labels]
    with pytest.raises(BadInput, match="the artifact learned more_like_this, pre_query, search; this log has pre_quer"):
        evaluate_artifact(Log(small_log.items, browsed), trained[0], Scope())


def test_a_log_without_labels_is_refused() -> None:
    with pytest.raises(BadInput, match="has no label"):
        evaluate_artifact(Log([], []), None, Scope())


def test_a_log_in_which_nobody_takes_a_new_title_is_refused_not_reported_as_empty() -> None:
    items = make_log().items[:2]
    labels = [make_label("u", f"t{place % 2}", 1_700_000_000_000 + place * 60_000) for place in range(40)]
    with pytest.raises(BadInput, match="none of the 4 tested labels has a rank") as caught:
        evaluate_artifact(Log(items, labels), None, Scope(resamples=10, without=("sasrec", "ials")))
    assert caught.value.reason == "nothing_to_rank"


def test_a_quick_evaluation_of_a_long_log_tunes_with_the_events_before_the_middle_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = make_log(users=60)
    parts, scope = log_parts(log), Scope(max_labels=5, resamples=10, quick=True, without=("sasrec", "ials"))
    before = [label for label in log.labels if label.ts_ms < parts.train_end_ms]
    # As many events as the middle and the test part have: they must not use the allowance up.
    allowed = sum(len(label.events) for label in log.labels[len(before) :])
    monkeypatch.setattr(evaluate, "QUICK_EVENTS", allowed)
    seen: list[int] = []
    monkeypatch.setattr(FittedEase, "fit", lambda _self, replay, _grid: seen.append(len(replay.counted_slots)))
    result = evaluate_artifact(log, None, scope)
    assert result["labels_left_out"] == len(before) - allowed // 3
    assert seen[0] == allowed // 3
