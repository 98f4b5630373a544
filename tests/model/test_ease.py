from collections.abc import Iterable

import numpy as np
import pytest

from model.ease import KEPT, ease_weights, fit_ease
from model.neighbours import NeighbourTable, Sources

HISTORIES = [{1, 2}, {1, 2, 3}, {2, 3}, {1, 2, 4}, {3, 4}, {1}]
RIDGE = 2.0


def _dense(table: NeighbourTable) -> np.ndarray:
    size = len(table.begins) - 1
    weights_VV = np.zeros((size, size))
    for slot in range(size):
        run = slice(table.begins[slot], table.begins[slot + 1])
        weights_VV[slot, table.columns[run]] = table.weights[run]
    return weights_VV


def _matrix(histories: Iterable[Iterable[int]], size: int) -> np.ndarray:
    x_UV = np.zeros((len(list(histories)), size))
    for row, history in enumerate(histories):
        x_UV[row, list(history)] = 1.0
    return x_UV


def test_the_weights_are_those_that_minimise_the_ridge_loss_with_an_empty_diagonal() -> None:
    x_UV = _matrix(HISTORIES, 5)[:, 1:]
    weights = ease_weights((x_UV.T @ x_UV).astype(np.float32), RIDGE)
    for column in range(4):  # each column alone is a ridge regression on the other ones
        others = np.delete(np.arange(4), column)
        a = x_UV[:, others]
        expected = np.linalg.solve(a.T @ a + RIDGE * np.eye(3), a.T @ x_UV[:, column])
        assert weights[others, column] == pytest.approx(expected, abs=1e-5)
        assert weights[column, column] == 0.0


def test_the_table_of_few_titles_holds_all_weights_by_slot_and_null_has_none() -> None:
    # Who engaged one title says nothing of what goes together.
    x_UV = _matrix([history for history in HISTORIES if len(history) > 1], 5)[:, 1:]
    dense = _dense(fit_ease(HISTORIES, 6, RIDGE))
    assert dense[1:5, 1:5] == pytest.approx(ease_weights((x_UV.T @ x_UV).astype(np.float32), RIDGE), abs=1e-6)
    assert not dense[0].any()
    assert not dense[:, 0].any()
    assert not dense[5].any()


def test_only_the_most_engaged_titles_have_weights() -> None:
    dense = _dense(fit_ease(HISTORIES, 6, RIDGE, most=2))
    assert set(np.flatnonzero(dense.any(axis=1)).tolist()) == {1, 2}
    assert dense[1, 2] > 0


def test_of_many_neighbours_the_heaviest_are_kept() -> None:
    rng = np.random.default_rng(0)
    histories = [set(rng.integers(1, 3 * KEPT, 30).tolist()) for _ in range(200)]
    x_UV = _matrix(histories, 3 * KEPT)[:, 1:]
    whole, dense = ease_weights((x_UV.T @ x_UV).astype(np.float32), RIDGE), _dense(fit_ease(histories, 3 * KEPT, RIDGE))
    for row in (0, 17, 200):
        assert np.count_nonzero(dense[1 + row]) == KEPT
        assert np.abs(dense[1 + row][dense[1 + row] != 0]).min() >= np.sort(np.abs(whole[row]))[-KEPT] - 1e-6


def test_nobody_who_engaged_two_titles_means_no_weights() -> None:
    for histories in ([], [{1}], [set()]):
        table = fit_ease(histories, 4)
        assert not table.scores(Sources(np.array([1, 2]), np.ones(2, np.float32)), np.arange(4)).any()
