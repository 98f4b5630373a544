import numpy as np
import pytest

from model.exposure import calibration_error, coverage, gini, overlap


def test_the_calibration_error_equals_an_example_worked_out_by_hand() -> None:
    probabilities = np.array([0.1, 0.2, 0.6, 0.9])
    labels = np.array([0.0, 1.0, 1.0, 1.0])
    # Two bins of two: |.3 - 1| and |1.5 - 2|, over four.
    assert calibration_error(probabilities, labels, np.ones(4), bins=2) == pytest.approx((0.7 + 0.5) / 4)


def test_a_weight_counts_as_many_equal_examples() -> None:
    rng = np.random.default_rng(0)
    probabilities, labels = np.repeat(rng.random(40), 3), np.repeat((rng.random(40) < 0.5).astype(float), 3)
    weighted = calibration_error(probabilities[::3], labels[::3], np.full(40, 3.0), bins=4)
    assert weighted == pytest.approx(calibration_error(probabilities, labels, np.ones(120), bins=4), abs=1e-9)


def test_true_probabilities_have_hardly_any_error_and_shifted_ones_have_the_shift() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.uniform(0.1, 0.6, 200_000)
    labels = (rng.random(200_000) < probabilities).astype(float)
    assert calibration_error(probabilities, labels, np.ones(200_000)) < 0.01
    assert calibration_error(probabilities + 0.2, labels, np.ones(200_000)) == pytest.approx(0.2, abs=0.01)


def test_coverage_and_gini_of_even_and_of_uneven_tops() -> None:
    even = [np.array([1, 2]), np.array([3, 4])]
    assert (coverage(even, 4), gini(even, 4)) == (1.0, 0.0)
    uneven = [np.array([1]), np.array([1])]
    assert coverage(uneven, 4) == 0.25
    assert gini(uneven, 4) == pytest.approx(0.75)
    assert coverage([], 4) == gini([], 4) == 0.0


def test_overlap_is_one_for_equal_tops_and_falls_with_the_depth_of_the_difference() -> None:
    assert overlap([1, 2, 3], [1, 2, 3]) == pytest.approx(1.0)
    assert overlap([1, 2], [3, 4]) == 0.0
    # Depths 1 and 2: 0 and 2/2, weighted 1 and .5.
    assert overlap([1, 2], [2, 1], persistence=0.5) == pytest.approx(0.5 / 1.5)
    assert overlap([1, 2, 3], [1, 2, 9]) > overlap([1, 2, 3], [9, 2, 3])
