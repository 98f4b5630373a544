import numpy as np
import pytest

from model.exposure import coverage, gini, overlap


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
