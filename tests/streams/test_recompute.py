"""The recomputation: order, repeats, poison, what a row contains, and what counts as different."""

from typing import Any

import msgspec
import pytest

import streams.audit.recompute as recompute
from features.delta import Delta, Entity, Signal
from features.item import RETENTION_MS
from features.online_store import LOG_RETENTION_MS
from features.rows import ITEM, USER, RowFamily, encode_row
from features.user import fold_user
from streams.audit.delta_chains import DeltaChains
from streams.audit.recompute import ExpectedRow, LeftOut, recompute_target_rows, recompute_user_rows
from streams.audit.row_differences import compare_row, differing_leaves, is_close
from streams.audit.store_snapshot import LAST_ORDINAL, StoredRow
from streams.audit.verify import may_have_expired
from streams.deltas import SourcedDelta, encode_deltas
from streams.events import Click, Engaged, Thumb, encode_event
from streams.log_records import Record

AT_MS = 1_700_000_000_000


def record(event: Engaged, offset: int) -> Record:
    return Record(event.topic, 0, offset, AT_MS + offset, encode_event(event))


def click(offset: int, item_id: str = "i1", user_id: str = "u1", event_id: str = "") -> Record:
    return record(
        Click(event_id=event_id or f"event-{offset:012}", user_id=user_id, item_id=item_id, event_ts_ms=AT_MS + offset),
        offset,
    )


def message(offset: int, *deltas: SourcedDelta) -> Record:
    return Record("deltas", 0, offset, AT_MS, encode_deltas(list(deltas)))


def sourced(offset: int, ordinal: int = 0, item_id: str = "i1", signal: Signal = Signal.CLICK) -> SourcedDelta:
    delta = Delta(Entity.ITEM, item_id, item_id, signal, 1, AT_MS + offset, AT_MS + offset)
    return SourcedDelta("clicks-0", offset, ordinal, delta)


def only_up_to(last: int) -> Any:
    def contains(_family: RowFamily, _value: str, _log: str, offset: int) -> bool:
        return offset <= last

    return contains


def test_a_row_is_folded_up_to_what_it_contains() -> None:
    fold = recompute_user_rows(lambda: [click(0), click(1), click(2)], only_up_to(1))
    row = fold.rows["user", "u1"]
    assert (len(row.state.recent), row.contained, row.touched_ms) == (2, {"clicks-0": 1}, AT_MS + 1)
    assert fold.left_out == {}


def test_a_required_record_that_its_row_does_not_contain_is_left_out_and_remembered() -> None:
    records = [click(0), click(1), click(2), click(3, user_id="u2")]
    fold = recompute_user_rows(lambda: records, only_up_to(0), {"clicks-0": 4})
    assert fold.left_out == {
        ("user", "u1", "clicks-0"): LeftOut(1, AT_MS + 2),
        ("user", "u2", "clicks-0"): LeftOut(3, AT_MS + 3),
    }
    assert len(fold.rows["user", "u1"].state.recent) == 1
    assert ("user", "u2") not in fold.rows


def test_what_is_no_event_is_in_no_row() -> None:
    future = Click(event_id="0123456789abcdef", user_id="u1", item_id="i", event_ts_ms=AT_MS + 10_000_000)
    broken = [Record("clicks", 0, 0, AT_MS, None), Record("clicks", 0, 1, AT_MS, b"{"), record(future, 2)]
    fold = recompute_user_rows(lambda: broken, required={"clicks-0": 3})
    assert (fold.rows, fold.left_out) == ({}, {})
    assert dict(fold.skipped) == {"empty": 1, "malformed_json": 1, "future_timestamp": 1}


def test_what_a_poison_record_has_half_done_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks_half_way(state: Any, coordinate: Any, engagement: Any) -> Any:
        folded = fold_user(state, coordinate, engagement)
        if engagement.item_id == "poison":
            raise ZeroDivisionError
        return folded

    monkeypatch.setattr(recompute, "fold_user", breaks_half_way)
    records = [click(0, "i1"), click(1, "poison"), click(2, "i2"), click(3, "poison"), click(4, "poison", "u2")]
    given: dict[int, int] = {}
    fold = recompute_user_rows(
        lambda: records,
        required={"clicks-0": 5},
        see=lambda one, deltas: given.update({one.offset: len(deltas)}),
    )
    assert [moment.item_id for moment in fold.rows["user", "u1"].state.recent] == ["i1", "i2"]
    assert fold.rows["user", "u1"].contained == {"clicks-0": 2}
    assert given == {0: 1, 1: 0, 2: 1, 3: 0, 4: 0}
    assert fold.skipped["poison"] == 3
    assert [row.contained for row in fold.rows.values()] == [{"clicks-0": 2}]


def test_a_poison_record_that_no_row_contains_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(_state: Any, _coordinate: Any, _engagement: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(recompute, "fold_user", breaks)
    fold = recompute_user_rows(lambda: [click(0)], only_up_to(-1), {"clicks-0": 1})
    assert fold.left_out == {}


def test_repeats_in_the_delta_log_are_dropped_by_their_place() -> None:
    messages = [
        message(0, sourced(0), sourced(1)),
        message(1, sourced(0), sourced(1), sourced(1, 1)),  # sent again after a crash, with more behind it
        Record("deltas", 0, 2, AT_MS, b"no deltas"),
        message(3, sourced(2, item_id="i2")),
    ]
    fold = recompute_target_rows(lambda: messages)
    assert fold.rows["item", "i1"].state.totals[1] == 3
    assert fold.rows["item", "i1"].contained == {"deltas-0": 1}
    assert fold.highest == {"deltas-0": {"clicks-0": (2, 0)}}
    assert dict(fold.skipped) == {"repeat": 2, "poison": 1}


def test_deltas_of_events_before_the_beginning_pass_for_repeats() -> None:
    begin = {"deltas-0": {"clicks-0": (1, LAST_ORDINAL)}}
    fold = recompute_target_rows(lambda: [message(0, sourced(0), sourced(1, 7), sourced(2))], highest=begin)
    assert fold.rows["item", "i1"].state.totals[1] == 1
    assert begin == {"deltas-0": {"clicks-0": (1, LAST_ORDINAL)}}


def test_a_delta_that_breaks_its_fold_leaves_the_rest_of_its_message() -> None:
    delta = Delta(Entity.QUERY, "q", "i1", Signal.THUMB_UP, 1, AT_MS, AT_MS)  # a top list counts no thumbs
    poison = SourcedDelta("clicks-0", 1, 0, delta)
    fold = recompute_target_rows(lambda: [message(0, sourced(0), poison, sourced(2))], required={"deltas-0": 1})
    assert fold.rows["item", "i1"].state.totals[1] == 2
    assert ("query", "q") not in fold.rows
    assert fold.left_out == {}


def test_a_missing_row_has_expired_only_after_its_retention_and_that_of_the_log() -> None:
    missed = LeftOut(0, AT_MS)
    last_ms = AT_MS + RETENTION_MS + LOG_RETENTION_MS
    assert not may_have_expired(ITEM, missed, last_ms)
    assert may_have_expired(ITEM, missed, last_ms + 1)
    assert not may_have_expired(USER, missed, last_ms + 1)


def test_chains_differ_when_a_delta_is_lost_altered_or_moved() -> None:
    record_0 = click(0)
    right, other = sourced(0).delta, sourced(0, item_id="i2").delta

    def differing(*held: SourcedDelta) -> list[Any]:
        chains = DeltaChains({"clicks-0": 1}, partitions=1)
        chains.give(record_0, [right, other])
        chains.give(click(1), [right])  # behind the checkpoint: not yet acknowledged
        chains.hold(0, held)
        return [(given.count, found.count) for _, given, found in chains.compare([0], ["clicks-0"])]

    first, second = SourcedDelta("clicks-0", 0, 0, right), SourcedDelta("clicks-0", 0, 1, other)
    assert differing(first, second) == []
    assert differing(first, second, sourced(1)) == []
    assert differing(first) == [(2, 1)]
    assert differing(second, first) == [(2, 2)]
    assert differing(first, msgspec.structs.replace(second, delta=right)) == [(2, 2)]


def test_the_order_of_logs_in_a_state_is_no_difference() -> None:
    thumb = Thumb(event_id="0123456789abcdef", user_id="u1", item_id="i1", event_ts_ms=AT_MS, value="up")
    one = recompute_user_rows(lambda: [click(0), record(thumb, 0)]).rows["user", "u1"]
    two = recompute_user_rows(lambda: [record(thumb, 0), click(0)]).rows["user", "u1"]
    flat = encode_row(USER, two.state, two.contained)
    stored = StoredRow(USER, "u1", dict(zip(flat[::2], flat[1::2], strict=True)), two.contained)
    assert list(one.state.logs) != list(two.state.logs)
    assert compare_row(stored, one) == []


def test_a_row_that_cannot_be_decoded_is_one_difference() -> None:
    expected = ExpectedRow(ITEM, "i1", ITEM.new_state())
    flat = encode_row(ITEM, ITEM.new_state(), {})
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    missing = {name: value for name, value in fields.items() if name != ITEM.packed_fields[0]}
    for broken in (
        {**fields, ITEM.packed_fields[0]: b"\x0a\x05junk!"},
        {**fields, ITEM.packed_fields[0]: b""},
        missing,
    ):
        [difference] = compare_row(StoredRow(ITEM, "i1", broken, {}), expected)
        assert difference.feature == "(row)"


def test_floats_differ_by_more_than_a_billionth_of_what_was_added() -> None:
    assert is_close(1.0, 1.0 + 1e-10, 0.0)
    assert not is_close(1.0, 1.0 + 1e-8, 0.0)
    assert is_close(1e-12, 3e-12, gross=4.0)
    assert not is_close(0.0, 1e-15, gross=0.0)
    leaves = list(differing_leaves({"a": [1, 2.0], "b": 1}, {"a": [1, 2.5], "c": 1}, 0.0))
    assert leaves == [("['a'][1]", 2.0, 2.5), ("['b']", 1, None), ("['c']", None, 1)]
