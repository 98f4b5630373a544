"""The fold of a user's row: repeats, thumbs, and logs that are read in any interleaving."""

import copy
import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import session, user_history
from features.decay import DAY_MS
from features.delta import Delta, Entity, Signal
from features.engagement import Coordinate, Engagement, Kind, Thumb
from features.user import (
    CLICK_WEIGHT,
    RECENT_CAPACITY,
    RETENTION_MS,
    SEEN_CAPACITY,
    THUMB_CAPACITY,
    TITLE_CAPACITY,
    UserState,
    fold_user,
)

NOW_MS = 1_750_000_000_000
LOGS = {Kind.CLICK: "clicks-1", Kind.PLAY: "plays-0", Kind.THUMB: "thumbs-2", Kind.IMPRESSION: "rankings-3"}
TIMES = st.integers(NOW_MS - 30 * DAY_MS, NOW_MS)


def engagement(kind: Kind = Kind.CLICK, event_id: str = "event-0", **fields: Any) -> Engagement:
    common = {"user_id": "u", "event_ts_ms": NOW_MS, "ingested_ts_ms": NOW_MS, "item_id": "50"}
    return Engagement(**{"kind": kind, "event_id": event_id, **common, **fields})


def fold(engagements: Iterable[Engagement], state: UserState | None = None) -> tuple[UserState, list[Delta]]:
    state = UserState() if state is None else state
    deltas: list[Delta] = []
    for offset, event in enumerate(engagements):
        deltas += fold_user(state, Coordinate(LOGS[event.kind], offset), event).deltas
    return state, deltas


@st.composite
def engagements(draw: st.DrawFn, max_size: int = 40) -> list[Engagement]:
    """Engagements of one user with event ids of their own, in the order of their logs; times in any order."""
    drawn = draw(
        st.lists(
            st.tuples(
                st.sampled_from(list(Kind)),
                TIMES,
                st.sampled_from(["a", "b", "c", "ü"]),
                st.sampled_from([None, "star wars"]),
                st.sampled_from(list(Thumb)),
                st.integers(0, 1200),
            ),
            max_size=max_size,
        )
    )
    return [
        engagement(
            kind,
            f"event-{index:04}",
            event_ts_ms=at_ms,
            item_id="" if kind is Kind.IMPRESSION else item_id,
            query=query,
            country="NZ",
            thumb=thumb if kind is Kind.THUMB else Thumb.NONE,
            watched_ms=watched_ms if kind is Kind.PLAY else 0,
            duration_ms=1000 if kind is Kind.PLAY else 0,
            impressions=("a", "b") if kind is Kind.IMPRESSION else (),
        )
        for index, (kind, at_ms, item_id, query, thumb, watched_ms) in enumerate(drawn)
    ]


@st.composite
def interleaved(draw: st.DrawFn, events: list[Engagement]) -> list[Engagement]:
    """The same events with every log in its own order, the logs mixed in another way."""
    by_log: dict[str, list[Engagement]] = defaultdict(list)
    for event in events:
        by_log[LOGS[event.kind]].append(event)
    order = draw(st.permutations([LOGS[event.kind] for event in events]))
    return [by_log[log].pop(0) for log in order]


def values(state: UserState) -> tuple[Any, ...]:
    """What both views show, the packed states decoded."""
    *shown_session, packed_session = session.VIEW.values(state)
    *shown_history, packed_history = user_history.VIEW.values(state)
    return shown_session, msgspec.msgpack.decode(packed_session), shown_history, msgspec.msgpack.decode(packed_history)


def thumbs(*statements: tuple[int, Thumb]) -> list[Engagement]:
    """Thumbs on one title, as (event time, value)."""
    return [
        engagement(Kind.THUMB, f"thumb-{index:04}", event_ts_ms=at_ms, thumb=thumb)
        for index, (at_ms, thumb) in enumerate(statements)
    ]


@given(st.data(), engagements())
def test_any_interleaving_of_the_logs_gives_the_same_row(data: st.DataObject, events: list[Engagement]) -> None:
    state, deltas = fold(events)
    other_state, other_deltas = fold(data.draw(interleaved(events)))
    assert values(other_state) == values(state)
    assert other_state.seen == state.seen
    assert Counter(map(repr, other_deltas)) == Counter(map(repr, deltas))


@given(st.data(), engagements())
def test_repeats_within_a_window_change_nothing(data: st.DataObject, events: list[Engagement]) -> None:
    state, deltas = fold(events)
    repeated = list(events)
    for index in sorted(data.draw(st.sets(st.integers(0, max(0, len(events) - 1)))) if events else [], reverse=True):
        repeated.insert(data.draw(st.integers(index + 1, len(repeated))), events[index])
    other_state, other_deltas = fold(repeated)
    assert (values(other_state), other_state.seen, other_deltas) == (values(state), state.seen, deltas)


@given(st.data(), st.lists(st.tuples(TIMES, st.sampled_from(list(Thumb))), max_size=12))
def test_thumbs_in_any_order_give_the_same_thumbs_and_the_retractions_net_out(
    data: st.DataObject, statements: list[tuple[int, Thumb]]
) -> None:
    events = thumbs(*statements)
    state, _ = fold(events)
    other_state, deltas = fold(data.draw(st.permutations(events)))
    assert other_state.active_thumbs() == state.active_thumbs()
    net: Counter[tuple[Signal, int]] = Counter()
    for delta in deltas:
        net[delta.signal, delta.event_ts_ms] += delta.amount
    final = max(events, key=lambda event: (event.event_ts_ms, event.event_id), default=None)
    expected = {}
    if final is not None and final.thumb is not Thumb.NONE:
        signal = Signal.THUMB_DOWN if final.thumb is Thumb.DOWN else Signal.THUMB_UP
        expected = {(signal, final.event_ts_ms): 1}
    assert {key: amount for key, amount in net.items() if amount} == expected
    weights, other_weights = state.title_weights(NOW_MS), other_state.title_weights(NOW_MS)
    assert other_weights.keys() == weights.keys()
    for item_id, weight in weights.items():
        assert math.isclose(weight, other_weights[item_id], abs_tol=1e-9 * 4 * len(events))


def test_a_newer_thumb_retracts_the_older_one_at_its_own_time() -> None:
    _, deltas = fold(thumbs((NOW_MS - DAY_MS, Thumb.UP), (NOW_MS, Thumb.DOWN)))
    assert deltas == [
        Delta(Entity.ITEM, "50", "50", Signal.THUMB_UP, 1, NOW_MS - DAY_MS, NOW_MS),
        Delta(Entity.ITEM, "50", "50", Signal.THUMB_UP, -1, NOW_MS - DAY_MS, NOW_MS, retracted_ts_ms=NOW_MS),
        Delta(Entity.ITEM, "50", "50", Signal.THUMB_DOWN, 1, NOW_MS, NOW_MS),
    ]


def test_an_older_thumb_that_arrives_late_brings_no_delta() -> None:
    state, deltas = fold(thumbs((NOW_MS, Thumb.DOWN), (NOW_MS - 1, Thumb.UP)))
    assert state.active_thumbs() == {"50": Thumb.DOWN}
    assert [delta.signal for delta in deltas] == [Signal.THUMB_DOWN]


def test_a_thumb_taken_back_stays_as_a_tombstone_against_late_ones() -> None:
    state, deltas = fold(thumbs((NOW_MS - 10, Thumb.UP), (NOW_MS, Thumb.NONE), (NOW_MS - 5, Thumb.DOUBLE_UP)))
    assert state.active_thumbs() == {}
    assert sum(delta.amount for delta in deltas) == 0
    assert state.title_weights(NOW_MS)["50"] == pytest.approx(0.0, abs=1e-9)


def test_a_click_is_told_to_its_item_query_source_and_country() -> None:
    _, deltas = fold([engagement(query="star wars", source_item_id="7", country="NZ")])
    assert [(delta.entity, delta.key, delta.item_id, delta.signal) for delta in deltas] == [
        (Entity.ITEM, "50", "50", Signal.CLICK),
        (Entity.QUERY, "star wars", "50", Signal.CLICK),
        (Entity.SOURCE_ITEM, "7", "50", Signal.CLICK),
        (Entity.COUNTRY, "NZ", "50", Signal.CLICK),
    ]


def test_a_play_tells_how_long_it_was_and_whether_it_reached_the_end() -> None:
    _, [most, part] = fold(
        [
            engagement(Kind.PLAY, "play-1", watched_ms=900, duration_ms=1000),
            engagement(Kind.PLAY, "play-2", watched_ms=899, duration_ms=1000),
        ]
    )
    assert (most.watched_ms, most.completed) == (900, True)
    assert (part.watched_ms, part.completed) == (899, False)


def test_impressions_reach_the_items_but_not_the_users_history() -> None:
    state, deltas = fold([engagement(Kind.IMPRESSION, item_id="", impressions=("a", "b"))])
    assert [(delta.key, delta.signal) for delta in deltas] == [("a", Signal.IMPRESSION), ("b", Signal.IMPRESSION)]
    assert (state.recent, state.logs) == ([], {})


def test_a_repeat_is_told_from_the_same_id_in_another_log() -> None:
    state = UserState()
    assert not fold_user(state, Coordinate("clicks-1", 0), engagement()).duplicate
    assert fold_user(state, Coordinate("clicks-1", 1), engagement()).duplicate
    assert not fold_user(state, Coordinate("plays-0", 0), engagement(Kind.PLAY)).duplicate


def test_a_repeat_after_the_window_counts_again() -> None:
    others = [engagement(event_id=f"other-{index}") for index in range(SEEN_CAPACITY)]
    state, deltas = fold([engagement(), *others, engagement()])
    assert len(deltas) == SEEN_CAPACITY + 2
    assert len(state.seen["clicks-1"]) == SEEN_CAPACITY


def test_an_id_that_comes_back_with_other_fields_after_the_window_is_folded_like_any_other() -> None:
    others = [engagement(event_id=f"other-{index}") for index in range(SEEN_CAPACITY)]
    state, _ = fold([engagement(query=None), *others, engagement(query="star wars")])
    assert [moment.query for moment in state.recent if moment.query] == ["star wars"]


def test_the_newest_engagements_are_kept_whatever_order_they_arrive_in() -> None:
    events = [
        engagement(event_id=f"event-{index:04}", event_ts_ms=NOW_MS - index, item_id=str(index))
        for index in range(RECENT_CAPACITY + 50)
    ]
    forward, backward = fold(events)[0], fold(reversed(events))[0]
    assert forward.recent == backward.recent
    assert [moment.item_id for moment in forward.recent] == [str(index) for index in reversed(range(RECENT_CAPACITY))]


def test_memories_are_bounded_and_forget_the_oldest_title_first() -> None:
    clicks = [engagement(event_id=f"c-{i}", event_ts_ms=NOW_MS + i, item_id=str(i)) for i in range(TITLE_CAPACITY + 1)]
    ups = [
        engagement(Kind.THUMB, f"t-{i}", event_ts_ms=NOW_MS + i, item_id=str(i), thumb=Thumb.UP)
        for i in range(THUMB_CAPACITY + 1)
    ]
    state, _ = fold([*clicks, *ups])
    assert len(state.logs["clicks-1"].titles) == TITLE_CAPACITY
    assert "0" not in state.logs["clicks-1"].titles
    assert len(state.active_thumbs()) == THUMB_CAPACITY
    assert "0" not in state.active_thumbs()


def test_a_titles_weight_halves_in_fourteen_days() -> None:
    state, _ = fold([engagement(event_ts_ms=NOW_MS - 14 * DAY_MS), engagement(event_id="event-1")])
    assert state.title_weights(NOW_MS) == {"50": pytest.approx(CLICK_WEIGHT * 1.5)}


def test_history_shows_the_heaviest_titles_and_the_thumbs_in_force() -> None:
    state, _ = fold(
        [
            engagement(event_id="click-1", item_id="clicked"),
            engagement(Kind.PLAY, "play-1", item_id="played", watched_ms=1000, duration_ms=1000),
            engagement(Kind.THUMB, "thumb-1", item_id="loved", thumb=Thumb.DOUBLE_UP),
            engagement(Kind.THUMB, "thumb-2", item_id="disliked", thumb=Thumb.DOWN),
        ]
    )
    items, weights, thumb_items, thumb_values, engaged, *_ = user_history.shown_history(state, NOW_MS)
    assert items == ["loved", "played", "clicked", "disliked"]
    assert weights == [1.5, 1.0, CLICK_WEIGHT, -2.0]
    assert (thumb_items, thumb_values) == (["disliked", "loved"], [-1, 2])
    assert sorted(engaged) == sorted(items)


def test_a_refused_repeat_leaves_the_state_as_it_was() -> None:
    state, _ = fold([engagement()])
    before = copy.deepcopy(state)
    fold_user(state, Coordinate("clicks-1", 9), engagement())
    assert state == before


def test_a_log_that_was_idle_for_longer_than_the_retention_begins_anew() -> None:
    late_ms = NOW_MS + RETENTION_MS + 1
    plays = [engagement(Kind.PLAY, "play-0", watched_ms=1, duration_ms=1)]
    clicks = [engagement(Kind.CLICK, "click-0"), engagement(Kind.CLICK, "click-1", ingested_ts_ms=late_ms)]
    state, deltas = fold([*plays, *clicks])
    assert len(state.recents["clicks-1"]) == 1
    assert len(state.recents["plays-0"]) == 1
    assert len(state.recent) == 2
    assert len(deltas) == 3
    assert fold([clicks[1]])[0].logs["clicks-1"] == state.logs["clicks-1"]


def test_a_log_that_comes_back_just_in_time_keeps_its_memory() -> None:
    in_time = engagement(Kind.CLICK, "click-1", ingested_ts_ms=NOW_MS + RETENTION_MS)
    state, _ = fold([engagement(Kind.CLICK, "click-0"), in_time])
    assert len(state.recents["clicks-1"]) == 2
