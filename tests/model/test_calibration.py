import numpy as np
import pytest

from model.calibration import expected_calibration_error, fit_platt


def _drawn(count: int = 30_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels that happen as often as the logits say."""
    rng = np.random.default_rng(0)
    logits = rng.normal(-2.0, 1.5, count)
    return logits, (rng.random(count) < 1 / (1 + np.exp(-logits))).astype(float)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def test_probabilities_that_come_true_have_hardly_an_error() -> None:
    logits, labels = _drawn()
    assert expected_calibration_error(_sigmoid(logits), labels, np.ones(len(labels))) < 0.01


def test_the_error_is_how_far_probabilities_are_off_on_average() -> None:
    probabilities, labels = np.array([0.2] * 10 + [0.9] * 10), np.array([1.0] * 5 + [0.0] * 5 + [1.0] * 10)
    assert expected_calibration_error(probabilities, labels, np.ones(20)) == pytest.approx((0.3 + 0.1) / 2)
    heavier = np.array([3.0] * 10 + [1.0] * 10)
    assert expected_calibration_error(probabilities, labels, heavier) == pytest.approx((3 * 0.3 + 0.1) / 4)
    assert expected_calibration_error(np.zeros(0), np.zeros(0), np.zeros(0)) == 0.0
    assert expected_calibration_error(probabilities, labels, np.zeros(20)) == 0.0


def test_the_calibration_error_equals_an_example_worked_out_by_hand() -> None:
    probabilities = np.array([0.1, 0.2, 0.6, 0.9])
    labels = np.array([0.0, 1.0, 1.0, 1.0])
    # Two bins of two: |.3 - 1| and |1.5 - 2|, over four.
    assert expected_calibration_error(probabilities, labels, np.ones(4), bins=2) == pytest.approx((0.7 + 0.5) / 4)


def test_a_weight_counts_as_many_equal_examples() -> None:
    rng = np.random.default_rng(0)
    probabilities, labels = np.repeat(rng.random(40), 3), np.repeat((rng.random(40) < 0.5).astype(float), 3)
    weighted = expected_calibration_error(probabilities[::3], labels[::3], np.full(40, 3.0), bins=4)
    assert weighted == pytest.approx(expected_calibration_error(probabilities, labels, np.ones(120), bins=4), abs=1e-9)


def test_shifted_probabilities_have_the_shift_as_their_error() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.uniform(0.1, 0.6, 200_000)
    labels = (rng.random(200_000) < probabilities).astype(float)
    error = expected_calibration_error(probabilities + 0.2, labels, np.ones(200_000))
    assert error == pytest.approx(0.2, abs=0.01)


def test_what_is_equally_probable_stays_in_one_bin_whatever_its_order() -> None:
    probabilities, labels = np.full(100, 0.5), np.array([1.0] * 50 + [0.0] * 50)
    assert expected_calibration_error(probabilities, labels, np.ones(100)) == pytest.approx(0.0)


def test_errors_in_both_directions_do_not_cancel_across_bins() -> None:
    probabilities, labels = np.array([0.1] * 100 + [0.9] * 100), np.full(200, 0.5)
    assert expected_calibration_error(probabilities, labels, np.ones(200)) == pytest.approx(0.4)


def test_platt_scaling_finds_the_slope_and_offset_and_heals_the_error() -> None:
    logits, labels = _drawn()
    wrong, weights = 2.0 * logits + 1.0, np.ones(len(labels))
    slope, offset = fit_platt(wrong, labels, weights)
    assert (slope, offset) == pytest.approx((0.5, -0.5), abs=0.05)
    before, after = (
        expected_calibration_error(_sigmoid(one), labels, weights) for one in (wrong, slope * wrong + offset)
    )
    assert after < 0.01 < before


def test_logits_that_point_the_wrong_way_keep_their_order_and_still_get_the_right_level() -> None:
    logits, labels = _drawn()
    wrong, weights = -logits - 7.0, np.full(len(labels), 2.0)
    slope, offset = fit_platt(wrong, labels, weights)
    assert slope == 1.0
    assert _sigmoid(wrong + offset).mean() == pytest.approx(labels.mean(), rel=1e-3)
