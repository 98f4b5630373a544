from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from model.baselines import (
    BUDGET,
    EVERYWHERE,
    PREFIX,
    SOURCE_KNN,
    Family,
    item_knn,
    item_knn_last5,
    popularity,
    prefix_popularity,
    recent_popularity,
    session_knn,
    source_knn,
)
from model.bm25 import TitleSearch
from model.ease import ease_weights
from model.ease_baseline import Ease, FittedEase
from model.moments import WEEK_MS, WINDOWS_MS, Moment, RecentCounts
from model.neighbours import CoPlays, Sources
from model.ranking_metrics import ndcg
from model.replay import Replay
from model.sparse_co_plays import SparseCoPlays
from model.tuning import BLEND, TaskTuner, standardised
from streams.events import Click, Thumb
from streams.labels import Log
from streams.sources.event_log import log_of_events
from tests.model.small_log import make_label, make_log

WEEK = WINDOWS_MS.index(WEEK_MS)
DAY_MS = 86_400_000


def _moment(log: Log, user_id: str = "newcomer", *, query: str | None = None, source: str | None = None) -> Moment:
    replay = Replay(log)
    end_ms = log.labels[-1].ts_ms + 1000
    replay.fold_until(end_ms)
    task = "search" if query else "more_like_this" if source else "pre_query"
    label = make_label(user_id, "t0", end_ms, task=task, query=query, source=source)
    slots = np.arange(1, len(replay.table))
    return Moment(replay, RecentCounts(replay), label, replay.context(label), slots)


def _at(moment: Moment, scores: Any, *item_ids: str) -> list[float]:
    return [float(scores[moment.replay.table.slot(item_id) - 1]) for item_id in item_ids]


def test_popularity_counts_users_and_recent_popularity_forgets_old_ones() -> None:
    base = make_log(users=1, labels_per_user=1)
    ms = base.labels[0].ts_ms
    labels = [make_label(f"u{n}", "t1", ms + n) for n in range(5)]
    labels += [make_label(f"u{n}", "t2", ms + 10 * DAY_MS + n) for n in range(3)]
    labels += [make_label("u0", "t2", ms + 10 * DAY_MS + 100)]
    moment = _moment(Log(base.items, labels))
    assert _at(moment, popularity(moment), "t1", "t2") == [5, 3]
    assert _at(moment, recent_popularity(moment, WEEK), "t1", "t2") == pytest.approx([0, 3], abs=1e-6)
    assert _at(moment, recent_popularity(moment, len(WINDOWS_MS) - 1), "t1") == pytest.approx([5], abs=1e-6)


def _events(*asked: tuple[str, str, str]) -> Log:
    """Events of (kind, user, title), a second apart."""
    kinds: dict[str, Any] = {"click": (Click, {}), "up": (Thumb, {"value": "up"}), "down": (Thumb, {"value": "down"})}
    events = []
    for place, (kind, user_id, item_id) in enumerate(asked):
        of_kind, values = kinds[kind]
        common = {"event_id": f"e{place}", "user_id": user_id, "item_id": item_id, "event_ts_ms": 1000 * (place + 1)}
        events.append(of_kind(**common, **values))
    return log_of_events(events)


def test_a_log_of_thumbs_has_popular_titles_and_neighbours() -> None:
    log = _events(*[("up", f"u{user}", item_id) for user in range(3) for item_id in ("a", "b")], ("down", "u9", "a"))
    moment = _moment(log, source="a")
    assert _at(moment, popularity(moment), "a", "b") == [3, 3]
    assert moment.replay.co_plays.pairs(3).counts_P.tolist() == [3, 3]


def test_a_title_counts_once_whether_its_thumb_or_its_click_came_first() -> None:
    for first in ("up", "down"):
        log = _events((first, "u", "a"), ("click", "u", "b"), ("click", "u", "a"), ("click", "u", "a"))
        replay = Replay(log)
        replay.fold_until(log.events[-1].event_ts_ms + 1)
        slots = replay.table.slots(["a", "b"])
        assert replay.co_plays.plays_V[slots].tolist() == [1, 1], first
        assert sorted(replay.counted_slots) == sorted(slots.tolist()), first


def test_a_title_is_no_neighbour_of_itself_after_a_thumb_down() -> None:
    replay = Replay(_events(("down", "u", "a"), ("click", "u", "a")))
    replay.fold_until(10_000)
    assert replay.co_plays.plays_V.sum() == 1
    assert replay.co_plays.pairs(len(replay.table)).counts_P.tolist() == []


def test_recent_counts_are_the_same_whether_asked_for_often_or_once() -> None:
    log = make_log()
    often, once = Replay(log), Replay(log)
    asked = RecentCounts(often)
    for label in often.labels_until(log.labels[-1].ts_ms + 1):
        asked.counts(label.ts_ms)
    once.fold_until(log.labels[-1].ts_ms)
    now_ms = log.labels[-1].ts_ms
    counts_WV = RecentCounts(once).counts(now_ms)
    assert np.array_equal(asked.counts(now_ms), counts_WV)
    for window_ms, counts_V in zip(WINDOWS_MS, counts_WV, strict=True):
        inside = sum(ms >= now_ms - window_ms for ms in once.counted_ms)
        assert counts_V.sum() == inside


def test_prefix_popularity_puts_matching_titles_first_by_popularity() -> None:
    moment = _moment(make_log(), query="nig")
    order = np.argsort(-prefix_popularity(moment, None), kind="stable")
    titles = [moment.replay.table.titles[slot] for slot in moment.slots_N[order]]
    matching = [any(word.startswith("nig") for word in title.split()) for title in titles]
    assert matching == sorted(matching, reverse=True)
    assert any(matching)
    counts = popularity(moment)[order][: sum(matching)]
    assert counts.tolist() == sorted(counts.tolist(), reverse=True)


def test_neighbours_of_the_last_titles_are_the_shrunk_cosine_of_the_counts() -> None:
    moment = _moment(make_log(), "u0")
    titles = moment.replay.recent_titles("u0", 5)
    expected = moment.replay.co_plays.scores(Sources(np.array(titles), np.ones(5, np.float32)), moment.slots_N)
    assert item_knn_last5(moment, 20.0) == pytest.approx(expected, abs=1e-6)
    assert item_knn(moment, 5, 1.0) == pytest.approx(expected, abs=1e-6)
    assert item_knn(_moment(make_log(), "newcomer"), 5, 1.0).argmax() == popularity(moment).argmax()


def test_session_knn_adds_what_is_taken_together_and_what_is_taken_lately() -> None:
    moment = _moment(make_log(), "u0")
    last = moment.titles_S[0]
    together = moment.replay.co_plays.counts_VV[last, moment.slots_N] / (moment.plays(np.array([last])) + 1.0)
    lately = moment.recent_WN[WEEK] / moment.recent_WN[WEEK].sum()
    assert session_knn(moment, 1, WEEK, 0.5) == pytest.approx(together + 0.5 * lately, abs=1e-6)


def test_source_knn_begins_with_the_source() -> None:
    moment = _moment(make_log(), source="t7")
    expected = moment.replay.co_plays.scores(Sources(np.array([moment.source]), np.ones(1)), moment.slots_N)
    assert source_knn(moment, 0.0, 3) == pytest.approx(expected, abs=1e-6)


def test_no_family_has_more_settings_than_the_budget_and_each_setting_scores_every_candidate() -> None:
    moment = _moment(make_log(), "u0", query="nig", source="t7")
    ease = FittedEase()
    ease.fit(moment.replay, ease.family.grid)
    for family in (*EVERYWHERE, SOURCE_KNN, PREFIX, TitleSearch(moment.replay.table).family, ease.family):
        assert 1 <= len(family.grid) == len(set(family.grid)) <= BUDGET
        for place, setting in enumerate(family.grid):
            assert np.isfinite(family.scores(moment, *setting)).all()
            assert list(family.described(place)) == list(family.names)


def test_the_closed_form_of_ease_is_the_least_squares_answer_with_a_zero_diagonal() -> None:
    x_UM = (np.random.default_rng(0).random((30, 6)) < 0.4).astype(float)
    penalty = 3.0
    weights_MM = ease_weights(x_UM.T @ x_UM, penalty)
    for item in range(6):
        others = [place for place in range(6) if place != item]
        a = x_UM[:, others]
        column = np.linalg.solve(a.T @ a + penalty * np.eye(5), a.T @ x_UM[:, item])
        assert weights_MM[others, item] == pytest.approx(column)
        assert weights_MM[item, item] == 0.0


def test_ease_scores_with_the_titles_that_the_user_engaged() -> None:
    moment = _moment(make_log(), "u0")
    engaged = moment.replay.engaged
    size = len(moment.replay.table)
    x_UV = np.zeros((len(engaged), size))
    for row, slots in enumerate(engaged.values()):
        x_UV[row, list(slots)] = 1
    held = np.flatnonzero(x_UV.sum(axis=0))
    weights = ease_weights(x_UV[:, held].T @ x_UV[:, held], 10.0)
    expected_V = np.zeros(size)
    expected_V[held] = x_UV[list(engaged).index("u0"), held] @ weights
    scores_N = Ease(engaged.values(), size, [10.0]).scores(moment, 10.0, None)
    assert scores_N == pytest.approx(expected_V[moment.slots_N], abs=1e-5)


def test_bm25_finds_titles_by_beginnings_and_with_trigrams_despite_a_typo() -> None:
    moment = _moment(make_log(), query="mirr")
    search = TitleSearch(moment.replay.table)
    title = moment.replay.table.titles[int(moment.slots_N[search.scores(moment, 0.75, 0.0, 0.0).argmax()])]
    assert "mirror" in title.split()
    slip = _moment(make_log(), query="nirror")
    assert search.scores(slip, 0.75, 0.0, 0.0).max() == 0.0
    found = slip.slots_N[search.scores(slip, 0.75, 1.0, 0.0).argmax()]
    assert "mirror" in slip.replay.table.titles[int(found)].split()


def test_sparse_counts_equal_dense_ones() -> None:
    rng = np.random.default_rng(0)
    dense, sparse = CoPlays(64), SparseCoPlays(8)
    for _ in range(400):
        played, *recent = rng.permutation(np.arange(1, 41))[: rng.integers(1, 6)].tolist()
        dense.add(played, recent)
        sparse.add(played, recent)
    sources = Sources(np.array([3, 5, 40]), np.array([1.0, 0.5, 0.25], np.float32))
    for candidates in (np.arange(1, 41), np.arange(1, 41).repeat(30)):
        assert np.array_equal(sparse.block(sources.slots_S, candidates), dense.block(sources.slots_S, candidates))
        assert sparse.scores(sources, candidates) == pytest.approx(dense.scores(sources, candidates))
    for one, other in zip(sparse.table(41), dense.table(41), strict=True):
        assert np.array_equal(one, other)


def _constant(moment: Moment, place: int) -> Any:
    """Ranks candidate `place` first."""
    return np.eye(len(moment.slots_N))[place]


def test_tuning_takes_the_setting_that_ranks_best_and_blends_the_two_best_families() -> None:
    moment = _moment(make_log())
    good = Family("good", ("place",), ((3,), (7,)), _constant)
    fair = Family("fair", (), ((),), lambda one: _constant(one, 7) * 0.5 + _constant(one, 9))
    poor = Family("poor", (), ((),), lambda one: _constant(one, 11))
    tuner = TaskTuner((poor, fair, good))
    tuner.add(moment, 7)
    tuner.add_blend(moment, 7)
    tuner.settle()
    assert tuner.chosen["good"].place == 1
    assert tuner.best == ("good", "fair")
    scores = tuner.scores(moment)
    assert set(scores) == {"poor", "fair", "good", BLEND}
    assert scores[BLEND].argmax() == 7
    assert tuner.described()["good"] == {"place": 7}
    assert ndcg(np.zeros((1, 2)))[0] == 1.0


def test_without_a_label_to_tune_on_the_first_settings_stay() -> None:
    tuner = TaskTuner(EVERYWHERE)
    tuner.settle()
    assert {chosen.place for chosen in tuner.chosen.values()} == {0}
    assert BLEND not in tuner.scores(_moment(make_log()))


def test_standardised_scores_have_mean_zero_and_deviation_one() -> None:
    scores = standardised(np.array([1.0, 2.0, 6.0]))
    assert scores.mean() == pytest.approx(0)
    assert scores.std() == pytest.approx(1)
    assert standardised(np.full(3, 2.0)).tolist() == [0, 0, 0]


def test_a_planted_future_event_changes_no_baseline() -> None:
    log = make_log()
    moment = _moment(log, "u0")
    later = replace(make_label("u0", "t5", log.labels[-1].ts_ms + 1000))
    with_future = _moment(Log(log.items, [*log.labels]), "u0")
    replay = Replay(Log(log.items, [*log.labels, later]))
    replay.fold_until(moment.label.ts_ms)
    planted = Moment(replay, RecentCounts(replay), with_future.label, with_future.context, with_future.slots_N)
    for family in EVERYWHERE:
        for setting in family.grid:
            assert np.array_equal(family.scores(moment, *setting), family.scores(planted, *setting))
