from itertools import pairwise

import numpy as np
import pytest

from model.calibration import fit_platt
from model.ranking_metrics import METRICS, hit, middle, ndcg, rank_of, ranks_of, reciprocal_rank, summarise
from tests.model.auc import auc


def test_metrics_equal_values_worked_out_by_hand() -> None:
    ranks = np.array([[0.0, 0.0], [1.0, 1.0], [9.0, 9.0], [10.0, 10.0]])
    assert ndcg(ranks).tolist() == pytest.approx([1.0, 1 / np.log2(3), 1 / np.log2(11), 0.0])
    assert hit(ranks).tolist() == [1.0, 1.0, 1.0, 0.0]
    assert reciprocal_rank(ranks).tolist() == pytest.approx([1.0, 0.5, 0.1, 1 / 11])
    assert summarise(ranks)["hr10"] == 0.75


def test_the_best_score_has_rank_zero_and_equal_ones_have_all_their_ranks() -> None:
    scores = np.array([3.0, 1.0, 2.0, 2.0, 2.0])
    assert rank_of(scores, 0) == (0, 0)
    assert rank_of(scores, 2) == (1, 3)
    assert middle(rank_of(np.zeros(11), 4)) == 5


@pytest.mark.parametrize("count", [2, 19, 20, 21, 1000])
def test_equal_scores_are_worth_what_chance_gives_by_every_metric(count: int) -> None:
    scores = np.concatenate([[9.0, 8.0, 7.0], np.zeros(count)])
    every_order = np.array([[place, place] for place in range(3, 3 + count)], np.float64)
    for metric in METRICS.values():
        [found] = metric(np.array([rank_of(scores, 3)]))
        assert found == pytest.approx(metric(every_order).mean())


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_stands_below_all_others_and_gives_the_last_rank(broken: float) -> None:
    scores = np.array([broken, 1.0, broken, 2.0])
    assert [rank_of(scores, place) for place in range(4)] == [(3, 3), (1, 1), (3, 3), (0, 0)]
    assert rank_of(np.full(1000, broken), 500) == (999, 999)


def test_auc_counts_ordered_pairs_and_halves_ties() -> None:
    assert auc(np.array([2.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0])) == 1.0
    assert auc(np.array([0.0, 1.0, 1.0]), np.array([0.0, 1.0, 0.0])) == 0.75
    assert auc(np.array([1.0, 2.0]), np.array([1.0, 1.0])) == 0.5


def test_the_ranks_of_rows_are_those_of_each_row() -> None:
    scores = np.random.default_rng(0).integers(0, 4, (6, 30)).astype(float)
    assert ranks_of(scores, 7).tolist() == [list(rank_of(row, 7)) for row in scores]


def test_auc_is_the_area_under_the_curve_worked_out_by_trapezes() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 10, 200).astype(float), (rng.random(200) < 0.3).astype(float)
    points = [(0.0, 0.0)]
    for threshold in sorted(set(scores), reverse=True):
        above = scores >= threshold
        points.append((float(above[labels == 0].mean()), float(above[labels == 1].mean())))
    area = sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points))
    assert auc(scores, labels) == pytest.approx(area)


def test_platt_recovers_the_slope_and_offset_that_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=50_000)
    labels = (rng.random(50_000) < 1 / (1 + np.exp(-(1.5 * logits - 2.0)))).astype(float)
    slope, offset = fit_platt(logits, labels, np.ones(50_000))
    assert slope == pytest.approx(1.5, abs=0.07)
    assert offset == pytest.approx(-2.0, abs=0.07)


def test_platt_leaves_logits_alone_when_there_is_one_class() -> None:
    assert fit_platt(np.array([1.0, 2.0]), np.zeros(2), np.ones(2)) == (1.0, 0.0)
