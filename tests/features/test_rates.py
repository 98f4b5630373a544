"""The catalogue's totals follow its rows, whatever their order and however often they change."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.decay import DAY_MS, HALF_LIVES_MS, MINUTE_MS, decay_factor
from features.item import SUMS, ItemState
from features.item_table import ItemTable
from features.rates import FIRST_PRIORS, PRIOR_PLAYS, SHARED, log_share, smoothed

NOW_MS = 1_750_000_000_000
ROWS = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.integers(NOW_MS - 60 * DAY_MS, NOW_MS),
        st.lists(st.floats(0, 1e6), min_size=3, max_size=3),
    ),
    max_size=30,
)


def sums(plays: float, completed: float, thumbs_up: float) -> list[float]:
    wanted = {"plays_14d": plays, "completed_plays_14d": completed, "thumbs_up_14d": thumbs_up}
    return [wanted.get(name, 0.0) for name in SUMS]


def late_sums(clicks: int, plays: int) -> list[float]:
    wanted = {f"{signal}_{name}": count for signal, count in (("clicks", clicks), ("plays", plays)) for name in SHARED}
    return [float(wanted.get(name, 0.0)) for name in SUMS]


def test_an_empty_catalogue_has_the_first_priors() -> None:
    assert ItemTable().totals.priors(NOW_MS) == (*FIRST_PRIORS, 0.0, 0.0)


def test_a_rate_without_plays_is_its_prior_and_with_many_plays_its_own() -> None:
    assert smoothed(0.0, 0.0, 0.3) == pytest.approx(0.3)
    assert smoothed(0.9e6, 1e6, 0.3) == pytest.approx(0.9, abs=1e-4)


@given(ROWS)
def test_the_priors_equal_a_count_over_all_rows(rows: list[tuple[int, int, list[float]]]) -> None:
    table = ItemTable()
    for item, as_of_ms, counts in rows:
        table.set_state(table.slot(str(item)), ItemState(as_of_ms=as_of_ms, sums=sums(*counts)))
    totals = [0.0, 0.0, 0.0]
    for as_of_ms, counts in {item: (as_of_ms, counts) for item, as_of_ms, counts in rows}.values():
        factor = decay_factor(NOW_MS - as_of_ms, HALF_LIVES_MS["14d"])
        totals = [total + factor * count for total, count in zip(totals, counts, strict=True)]
    expected = [
        (total + PRIOR_PLAYS * first) / (totals[0] + PRIOR_PLAYS)
        for total, first in zip(totals[1:], FIRST_PRIORS, strict=True)
    ]
    assert table.totals.priors(NOW_MS)[: len(expected)] == pytest.approx(expected, rel=1e-6)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4 * 60), st.integers(0, 1000), st.integers(0, 1000))))
def test_the_totals_of_late_equal_a_sum_over_all_rows(rows: list[tuple[int, int, int, int]]) -> None:
    table = ItemTable()
    for item, minutes_ago, clicks, plays in rows:
        state = ItemState(as_of_ms=NOW_MS - minutes_ago * MINUTE_MS, sums=late_sums(clicks, plays))
        table.set_state(table.slot(str(item)), state)
    last = {item: (minutes_ago, clicks + plays) for item, minutes_ago, clicks, plays in rows}.values()
    expected = [
        sum(count * decay_factor(minutes_ago * MINUTE_MS, HALF_LIVES_MS[name]) for minutes_ago, count in last)
        for name in SHARED
    ]
    assert table.totals.priors(NOW_MS)[-2:] == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_a_share_is_none_without_engagement_and_twice_as_many_is_log_two_more() -> None:
    few, many = log_share(np.array([100.0, 200.0]), 999.0).tolist()
    assert many - few == pytest.approx(np.log(2), abs=1e-3)
    assert log_share(np.array([0.0]), 0.0).tolist() == [0.0]
