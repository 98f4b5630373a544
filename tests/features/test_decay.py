"""The forward-decayed sum against its definition."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.decay import DAY_MS, HALF_LIVES_MS, add_decayed, decay_factor, read_decayed

NOW_MS = 1_750_000_000_000
HALF_LIVES = st.sampled_from(sorted(HALF_LIVES_MS.values()))
AMOUNTS = st.lists(st.tuples(st.integers(0, 100), st.integers(NOW_MS - 100 * DAY_MS, NOW_MS)), max_size=40)


def fold(amounts: list[tuple[int, int]], half_life_ms: int) -> tuple[float, int]:
    total, reference_ms = 0.0, 0
    for amount, at_ms in amounts:
        total, reference_ms = add_decayed(total, reference_ms, amount, at_ms, half_life_ms)
    return total, reference_ms


def test_an_amount_is_worth_half_after_one_half_life_and_a_quarter_after_two() -> None:
    assert [decay_factor(age_ms, 1000) for age_ms in (0, 1000, 2000)] == [1.0, 0.5, 0.25]


def test_an_amount_from_the_future_counts_as_of_now() -> None:
    assert decay_factor(-5000, 1000) == 1.0
    assert read_decayed(3.0, NOW_MS, NOW_MS - 5000, 1000) == 3.0


def test_two_amounts_one_half_life_apart_sum_to_one_and_a_half() -> None:
    assert fold([(1, 5000), (1, 6000)], 1000) == (1.5, 6000)


def test_a_late_amount_gets_the_weight_it_has_by_now() -> None:
    assert fold([(1, 6000), (1, 5000)], 1000) == (1.5, 6000)


def test_a_read_never_shows_a_negative_residue() -> None:
    assert read_decayed(-1e-17, 5000, 6000, 1000) == 0.0


@given(AMOUNTS, HALF_LIVES)
def test_the_sum_equals_its_definition(amounts: list[tuple[int, int]], half_life_ms: int) -> None:
    total, reference_ms = fold(amounts, half_life_ms)
    expected = sum(amount * 2.0 ** (-(reference_ms - at_ms) / half_life_ms) for amount, at_ms in amounts)
    assert total == pytest.approx(expected, rel=1e-9, abs=1e-300)


@given(st.data(), AMOUNTS, HALF_LIVES)
def test_any_order_of_arrival_gives_the_same_sum(
    data: st.DataObject, amounts: list[tuple[int, int]], half_life_ms: int
) -> None:
    total, reference_ms = fold(amounts, half_life_ms)
    other_total, other_reference_ms = fold(data.draw(st.permutations(amounts)), half_life_ms)
    assert other_reference_ms == reference_ms
    assert other_total == pytest.approx(total, rel=1e-9, abs=1e-300)


@given(AMOUNTS, HALF_LIVES)
def test_the_reference_time_is_the_newest_amount(amounts: list[tuple[int, int]], half_life_ms: int) -> None:
    assert fold(amounts, half_life_ms)[1] == max((at_ms for _, at_ms in amounts), default=0)
