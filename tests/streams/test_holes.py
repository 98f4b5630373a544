"""Holes in what a fetch brought."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition

from streams.holes import HOLE_TRIES, Holes, find_hole

LOG = TopicPartition("clicks", 0)


def records(*offsets: int) -> Sequence[Any]:
    return [SimpleNamespace(offset=offset) for offset in offsets]


@pytest.mark.parametrize(
    ("begin", "offsets", "hole"),
    [
        (5, (5, 6, 7), None),
        (5, (6, 7), 5),
        (5, (5, 7), 6),
        (5, (3, 4, 5, 6), None),
        (5, (3, 4, 6), 5),
        (5, (3, 4), None),
        (0, (0,), None),
    ],
)
def test_a_hole_is_the_first_offset_that_is_missing(begin: int, offsets: tuple[int, ...], hole: int | None) -> None:
    assert find_hole(begin, records(*offsets)) == hole


def test_a_hole_that_stays_is_passed_and_its_partition_waits_for_none_any_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    holes = Holes()
    assert [holes.may_fill(LOG, 5, records(6)) for _ in range(HOLE_TRIES + 1)] == [True] * HOLE_TRIES + [False]
    assert "clicks-0 has no record at offset 5" in caplog.text
    assert not holes.may_fill(LOG, 7, records(9))
    assert holes.may_fill(LOG._replace(partition=1), 7, records(9))


def test_a_hole_that_is_filled_does_not_count_for_the_next_one() -> None:
    holes = Holes()
    for hole in range(HOLE_TRIES + 5):
        assert holes.may_fill(LOG, hole, records(hole + 1))
        assert not holes.may_fill(LOG, hole, records(hole, hole + 1))
