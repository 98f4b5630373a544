"""The bounded top lists of queries, source titles and countries."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.decay import DAY_MS
from features.delta import Delta, Entity, Signal
from features.query import HALF_LIFE_MS, VIEW, fold_query
from features.read_time import read_time_values
from features.rows import QUERY
from features.top_targets import CAPACITY, RETENTION_MS, TopTargetsState, engagement_at, ranked_targets

NOW_MS = 1_750_000_000_000
DELTAS = st.lists(
    st.builds(
        lambda item, signal, at_ms: query_delta(f"item-{item}", signal, at_ms),
        st.integers(0, 20),
        st.sampled_from([Signal.IMPRESSION, Signal.CLICK, Signal.PLAY]),
        st.integers(NOW_MS - 60 * DAY_MS, NOW_MS),
    ),
    max_size=40,
)


def query_delta(item_id: str, signal: Signal, at_ms: int) -> Delta:
    return Delta(Entity.QUERY, "star wars", item_id, signal, 1, at_ms, at_ms)


def fold(deltas: list[Delta]) -> TopTargetsState:
    state = TopTargetsState()
    for delta in deltas:
        fold_query(state, delta)
    return state


@given(st.data(), DELTAS)
def test_any_order_of_deltas_gives_the_same_targets(data: st.DataObject, deltas: list[Delta]) -> None:
    state, other = fold(deltas), fold(data.draw(st.permutations(deltas)))
    assert state.as_of_ms == other.as_of_ms
    assert state.targets.keys() == other.targets.keys()
    for item_id, target in state.targets.items():
        assert other.targets[item_id].totals == target.totals
        assert other.targets[item_id].as_of_ms == target.as_of_ms
        assert other.targets[item_id].sums == pytest.approx(target.sums, rel=1e-9)


@given(DELTAS)
def test_sums_equal_their_definition(deltas: list[Delta]) -> None:
    state = fold(deltas)
    for item_id, target in state.targets.items():
        for slot, signal in enumerate((Signal.IMPRESSION, Signal.CLICK, Signal.PLAY)):
            times = [delta.event_ts_ms for delta in deltas if (delta.item_id, delta.signal) == (item_id, signal)]
            expected = sum(2.0 ** (-(target.as_of_ms - at_ms) / HALF_LIFE_MS) for at_ms in times)
            assert target.sums[slot] == pytest.approx(expected, rel=1e-9)


def test_the_most_engaged_target_comes_first_and_ties_go_by_id() -> None:
    state = fold(
        [
            query_delta("b", Signal.CLICK, NOW_MS),
            query_delta("a", Signal.PLAY, NOW_MS),
            query_delta("c", Signal.CLICK, NOW_MS),
            query_delta("c", Signal.PLAY, NOW_MS),
        ]
    )
    assert [item_id for item_id, _ in ranked_targets(state, HALF_LIFE_MS)] == ["c", "a", "b"]


def test_impressions_do_not_rank_a_target_higher() -> None:
    seen = [query_delta("seen", Signal.IMPRESSION, NOW_MS)] * 50
    state = fold([*seen, query_delta("clicked", Signal.CLICK, NOW_MS - DAY_MS)])
    assert [item_id for item_id, _ in ranked_targets(state, HALF_LIFE_MS)] == ["clicked", "seen"]


def test_values_are_decayed_to_the_time_of_reading() -> None:
    state = fold([query_delta("old", Signal.CLICK, NOW_MS - HALF_LIFE_MS), query_delta("new", Signal.PLAY, NOW_MS)])
    values = read_time_values(QUERY, state, NOW_MS)
    assert values["query_items"] == ["new", "old"]
    assert values["query_clicks_14d"] == [0.0, 0.5]
    assert values["query_plays_14d"] == [1.0, 0.0]
    assert read_time_values(QUERY, state, NOW_MS + HALF_LIFE_MS)["query_plays_14d"] == [0.5, 0.0]
    assert VIEW.values(state)[0] == NOW_MS


def test_an_empty_row_has_empty_lists() -> None:
    assert list(read_time_values(QUERY, TopTargetsState(), NOW_MS).values()) == [[], [], [], []]


def test_a_row_that_overflows_keeps_its_most_engaged_targets() -> None:
    deltas = [query_delta(f"item-{index:03}", Signal.CLICK, NOW_MS - index) for index in range(2 * CAPACITY)]
    state = fold(deltas)
    assert len(state.targets) == 2 * CAPACITY
    fold_query(state, query_delta("one-more", Signal.PLAY, NOW_MS))
    assert len(state.targets) == CAPACITY
    assert set(state.targets) == {"one-more", *(f"item-{index:03}" for index in range(CAPACITY - 1))}


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 30 * DAY_MS)), min_size=300, max_size=600))
def test_a_row_never_holds_more_than_twice_its_capacity(events: list[tuple[int, int]]) -> None:
    state = TopTargetsState()
    for item, age_ms in events:
        fold_query(state, query_delta(f"item-{item}", Signal.CLICK, NOW_MS - age_ms))
        assert len(state.targets) <= 2 * CAPACITY


def test_what_an_eviction_costs_is_bounded_by_the_least_that_was_kept() -> None:
    state = fold([query_delta("popular", Signal.PLAY, NOW_MS)] * 5)
    for index in range(2 * CAPACITY):
        fold_query(state, query_delta(f"item-{index:03}", Signal.CLICK, NOW_MS - DAY_MS - index))
    evicted = f"item-{2 * CAPACITY - 1:03}"
    assert evicted not in state.targets
    least = min(engagement_at(target, NOW_MS, HALF_LIFE_MS) for target in state.targets.values())
    fold_query(state, query_delta(evicted, Signal.CLICK, NOW_MS))
    unbounded = 1.0 + 2.0 ** (-(DAY_MS + 2 * CAPACITY - 1) / HALF_LIFE_MS)
    assert 0 < unbounded - engagement_at(state.targets[evicted], NOW_MS, HALF_LIFE_MS) <= least


def test_a_row_that_was_idle_for_longer_than_its_retention_begins_anew() -> None:
    again = query_delta("new", Signal.CLICK, NOW_MS + RETENTION_MS + 1)
    assert fold([query_delta("old", Signal.CLICK, NOW_MS), again]) == fold([again])
