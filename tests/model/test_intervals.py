from itertools import product

import numpy as np
import pytest

from model.intervals import bootstrap_means, holm, paired_interval


def test_an_interval_of_equal_differences_is_that_difference() -> None:
    interval = paired_interval(np.full(40, 0.25), np.arange(40) % 7, 200, np.random.default_rng(0))
    assert interval.low == pytest.approx(0.25)
    assert interval.high == pytest.approx(0.25)
    assert interval.p == pytest.approx(2 / 201)


def test_an_interval_is_wider_when_one_user_holds_many_equal_labels() -> None:
    rng = np.random.default_rng(1)
    by_user = rng.normal(size=20)
    difference = np.repeat(by_user, 20)
    clustered = paired_interval(difference, np.repeat(np.arange(20), 20), 500, np.random.default_rng(0))
    independent = paired_interval(difference, np.arange(400), 500, np.random.default_rng(0))
    assert clustered.high - clustered.low > 3 * (independent.high - independent.low)


def test_the_clustered_bootstrap_has_the_distribution_that_counting_all_draws_gives() -> None:
    # Users with labels (1, 1, 1), (0) and (-2, 0): all 27 draws of three users, by hand.
    difference, users = np.array([1.0, 1.0, 1.0, 0.0, -2.0, 0.0]), np.array([0, 0, 0, 1, 2, 2])
    sums, counts = (3.0, 0.0, -2.0), (3, 1, 2)
    exact = [
        sum(sums[user] for user in draw) / sum(counts[user] for user in draw) for draw in product(range(3), repeat=3)
    ]
    means = bootstrap_means(difference, users, 40_000, np.random.default_rng(0))
    for value in set(exact):
        share = np.isclose(means, value).mean()
        assert share == pytest.approx(np.isclose(exact, value).mean(), abs=0.01)
    assert all(np.isclose(exact, mean).any() for mean in means[:500])


def test_a_difference_of_nothing_is_never_significant() -> None:
    assert paired_interval(np.zeros(30), np.arange(30), 100, np.random.default_rng(0)).p == 1.0


def test_holm_equals_an_example_worked_out_by_hand() -> None:
    # Ordered: .005 x 4 = .02, .01 x 3 = .03, .03 x 2 = .06, .04 x 1 = .04 but not below .06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
