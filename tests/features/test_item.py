"""The fold of the `item` view against the sums' definition, in any order of its deltas."""

import math

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from features.decay import DAY_MS, HALF_LIVES_MS
from features.delta import Delta, Entity, Signal
from features.item import RETENTION_MS, SIGNALS, SUMS, VIEW, ItemState, fold_item

NOW_MS = 1_750_000_000_000
TIMES = st.integers(NOW_MS - 60 * DAY_MS, NOW_MS)
ADDED = st.one_of(
    st.builds(lambda at_ms, signal: item_delta(signal, 1, at_ms), TIMES, st.sampled_from(list(Signal))),
    st.builds(
        lambda at_ms, watched_ms, completed: item_delta(Signal.PLAY, 1, at_ms, watched_ms, completed),
        TIMES,
        st.integers(0, 10_000_000),
        st.booleans(),
    ),
)
THUMBS = (Signal.THUMB_UP, Signal.THUMB_DOWN)


def item_delta(signal: Signal, amount: int, at_ms: int, watched_ms: int = 0, completed: bool = False) -> Delta:
    return Delta(Entity.ITEM, "50", "50", signal, amount, at_ms, at_ms, watched_ms, completed, retracted_ts_ms=at_ms)


def fold(deltas: list[Delta]) -> ItemState:
    state = ItemState()
    for delta in deltas:
        fold_item(state, delta)
    return state


def contributions(delta: Delta) -> dict[str, int]:
    """What a delta adds, by signal."""
    name = {
        Signal.IMPRESSION: "impressions",
        Signal.CLICK: "clicks",
        Signal.PLAY: "plays",
        Signal.THUMB_UP: "thumbs_up",
        Signal.THUMB_DOWN: "thumbs_down",
    }[delta.signal]
    added = {name: delta.amount}
    if delta.watched_ms:
        added["watched_ms"] = delta.amount * delta.watched_ms
    if delta.completed:
        added["completed_plays"] = delta.amount
    return added


def defined(deltas: list[Delta], at_ms: int, absolute: bool) -> list[float]:
    """Every sum by its definition; with `absolute` the gross mass that was added."""
    sums = dict.fromkeys(SUMS, 0.0)
    for delta in deltas:
        for signal, amount in contributions(delta).items():
            for name, half_life_ms in HALF_LIVES_MS.items():
                weight = 2.0 ** (-(at_ms - delta.event_ts_ms) / half_life_ms)
                sums[f"{signal}_{name}"] += (abs(amount) if absolute else amount) * weight
    return list(sums.values())


@st.composite
def logs(draw: st.DrawFn) -> list[Delta]:
    """Deltas in any order; some thumbs are retracted, at their own time and after they were added, as in the log."""
    added = draw(st.lists(ADDED, max_size=30))
    thumbs = [delta for delta in added if delta.signal in THUMBS]
    retracted = draw(st.sets(st.sampled_from(range(len(thumbs))))) if thumbs else set()
    log = list(draw(st.permutations(added)))
    for index in retracted:
        thumb = thumbs[index]
        earliest = next(place for place, delta in enumerate(log) if delta is thumb) + 1
        log.insert(draw(st.integers(earliest, len(log))), item_delta(thumb.signal, -1, thumb.event_ts_ms))
    return log


@given(logs())
def test_every_sum_equals_its_definition_within_a_billionth_of_the_gross_mass(log: list[Delta]) -> None:
    state = fold(log)
    exact, gross = defined(log, state.as_of_ms, False), defined(log, state.as_of_ms, True)
    for name, total, expected, mass in zip(SUMS, state.sums, exact, gross, strict=True):
        assert math.isclose(total, expected, rel_tol=0.0, abs_tol=1e-9 * mass + 1e-300), name


@given(logs())
def test_totals_are_counted_exactly(log: list[Delta]) -> None:
    expected = dict.fromkeys(SIGNALS, 0)
    for delta in log:
        for signal, amount in contributions(delta).items():
            expected[signal] += amount
    assert dict(zip(SIGNALS, fold(log).totals, strict=True)) == expected


@given(logs())
def test_a_signal_whose_count_is_zero_has_sums_of_exactly_zero(log: list[Delta]) -> None:
    state = fold(log)
    for slot, total in enumerate(state.totals):
        if total == 0:
            assert state.sums[3 * slot : 3 * slot + 3] == [0.0, 0.0, 0.0]


@given(logs())
def test_times_are_the_newest_and_the_oldest_event(log: list[Delta]) -> None:
    state = fold(log)
    times = [delta.event_ts_ms for delta in log]
    lasting = [delta.event_ts_ms for delta in log if delta.signal not in THUMBS]  # a thumb may be taken back
    assert (state.as_of_ms, state.first_seen_ms) == (max(times, default=0), min(lasting, default=0))


def test_every_signal_is_counted_by_a_total_of_its_own() -> None:
    totals = [fold([item_delta(signal, 1, NOW_MS)]).totals for signal in Signal]
    assert all(sum(counts) == 1 for counts in totals)
    assert len({counts.index(1) for counts in totals}) == len(Signal)


def test_a_click_one_day_old_is_worth_half_in_the_one_day_sum() -> None:
    state = fold([item_delta(Signal.CLICK, 1, NOW_MS - DAY_MS), item_delta(Signal.PLAY, 1, NOW_MS, 60_000, True)])
    values = dict(zip((spec.name for spec in VIEW.features), VIEW.values(state), strict=True))
    assert values["item_clicks_1d"] == 0.5
    assert values["item_clicks_30m"] == 2.0**-48
    assert values["item_plays_30m"] == values["item_completed_plays_14d"] == 1.0
    assert values["item_watched_ms_1d"] == 60_000.0
    assert values["item_impressions_1d"] == 0.0
    assert (values["item_as_of_ms"], values["item_first_seen_ms"]) == (NOW_MS, NOW_MS - DAY_MS)


def test_a_thumb_that_is_taken_back_leaves_the_others_at_their_own_weight() -> None:
    first, second = item_delta(Signal.THUMB_UP, 1, NOW_MS - DAY_MS), item_delta(Signal.THUMB_UP, 1, NOW_MS)
    state = fold([first, second, item_delta(Signal.THUMB_UP, -1, NOW_MS - DAY_MS)])
    assert state.sums[SUMS.index("thumbs_up_1d")] == 1.0
    assert state.totals[SIGNALS.index("thumbs_up")] == 1


def test_a_row_that_was_idle_for_longer_than_its_retention_begins_anew() -> None:
    again = item_delta(Signal.PLAY, 1, NOW_MS + RETENTION_MS + 1)
    assert fold([item_delta(Signal.CLICK, 1, NOW_MS), again]) == fold([again])


def test_taking_back_a_thumb_that_the_row_has_forgotten_changes_nothing() -> None:
    up = item_delta(Signal.THUMB_UP, 1, NOW_MS)
    click = item_delta(Signal.CLICK, 1, NOW_MS + RETENTION_MS + 1)
    retraction = msgspec.structs.replace(up, amount=-1, ingested_ts_ms=click.ingested_ts_ms, retracted_ts_ms=NOW_MS)
    assert fold([up, click, retraction]) == fold([click])
    assert fold([up, retraction]).totals == [0] * len(SIGNALS)
