"""The offsets of rows come back as they were, however they were stored."""

from hypothesis import given
from hypothesis import strategies as st

from features.rows import encode_contained
from serving.row_offsets import RowOffsets

LOGS = st.sampled_from(["deltas-0", "deltas-7", "deltas-12", "deltas-07", "deltas-x", "deltas-12345678901", "plays-1"])
OFFSETS = st.dictionaries(LOGS, st.integers(0, 2**62), max_size=3)


@given(st.lists(st.tuples(st.integers(0, 9), OFFSETS)))
def test_the_last_row_of_each_slot_is_kept_and_counted(puts: list[tuple[int, dict[str, int]]]) -> None:
    held, expected = RowOffsets(), {}
    for slot, offsets in puts:
        held.put(slot, encode_contained(offsets) if offsets else b"")
        expected[slot] = offsets
    assert {slot: held.get(slot) for slot in expected} == expected
    assert held.count == sum(bool(offsets) for offsets in expected.values())
    assert held.get(100) == {}
