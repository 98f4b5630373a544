"""The session: derived from the newest engagements, never folded."""

from features.engagement import Kind
from features.read_time import read_time_values
from features.rows import USER
from features.session import GAP_MS, SHOWN, VIEW, current_session, newest_titles
from features.user import Moment, UserState

NOW_MS = 1_750_000_000_000


def moments(*ages_ms: int) -> list[Moment]:
    return [
        Moment(NOW_MS - age_ms, index, int(Kind.CLICK), f"item-{index}", 0, None)
        for index, age_ms in enumerate(ages_ms)
    ]


def test_nobody_without_engagements_is_in_a_session() -> None:
    assert current_session([], NOW_MS) == []


def test_a_session_is_closed_once_the_newest_engagement_is_a_gap_old() -> None:
    assert len(current_session(moments(GAP_MS - 1), NOW_MS)) == 1
    assert current_session(moments(GAP_MS), NOW_MS) == []


def test_a_session_begins_after_the_last_gap() -> None:
    recent = moments(3 * GAP_MS, GAP_MS + 60_000, 60_000, 30_000)
    assert current_session(recent, NOW_MS) == recent[2:]


def test_a_session_may_be_longer_than_a_gap_when_no_pause_in_it_is() -> None:
    recent = moments(*(age * (GAP_MS - 1) for age in range(5, -1, -1)))
    assert current_session(recent, NOW_MS) == recent


def test_an_engagement_that_is_clamped_ahead_of_the_reader_is_in_the_session() -> None:
    assert len(current_session(moments(-60_000), NOW_MS)) == 1


def test_the_newest_titles_are_different_ones_by_their_newest_engagement() -> None:
    session = [Moment(NOW_MS, place, int(Kind.CLICK), item_id) for place, item_id in enumerate("abcbcc")]
    assert newest_titles(session, 2) == ["c", "b"]
    assert newest_titles(session, 9) == ["c", "b", "a"]
    assert newest_titles([], 3) == []


def test_the_view_shows_the_newest_engagements_oldest_first() -> None:
    state = UserState(recents={"clicks-0": moments(*range(SHOWN + 10, 0, -1))})
    items, kinds, times, queries, *_, as_of_ms, _ = VIEW.values(state)
    assert items == [f"item-{index}" for index in range(10, SHOWN + 10)]
    assert kinds == [int(Kind.CLICK)] * SHOWN
    assert times == sorted(times)
    assert queries == [""] * SHOWN
    assert as_of_ms == NOW_MS - 1


def test_the_view_of_an_empty_row_is_empty() -> None:
    assert VIEW.values(UserState())[:-1] == ([], [], [], [], 0, 0, 0, 0, [], 0)


def test_the_view_counts_the_session_of_the_newest_engagement() -> None:
    minute_ms = 60_000
    last_session = [
        Moment(NOW_MS - 9 * minute_ms, 1, int(Kind.CLICK), "a", 0, "noir"),
        Moment(NOW_MS - 5 * minute_ms, 2, int(Kind.PLAY), "a", 80, "noir"),
        Moment(NOW_MS - 2 * minute_ms, 3, int(Kind.THUMB), "a", 1),
    ]
    earlier = Moment(NOW_MS - 40 * minute_ms, 4, int(Kind.CLICK), "b", 0, "western")
    state = UserState(recents={"clicks-0": [earlier, last_session[0]], "plays-0": last_session[1:]})
    row = dict(zip((spec.name for spec in VIEW.features), VIEW.values(state), strict=True))
    assert (row["session_clicks"], row["session_plays"], row["session_thumbs"]) == (1, 1, 1)
    assert row["session_length_ms"] == 7 * minute_ms
    assert row["session_last_queries"] == ["noir", "western"]
    assert read_time_values(USER, state, NOW_MS)["session_idle_ms"] == 2 * minute_ms
