"""Bodies that hold many things: taken apart a little at a time, and refused before that when they hold too many."""

import asyncio
from typing import Any

import msgspec
import pytest

from features.catalogue import Catalogue, Item
from infra.clock import thread_cpu_s
from infra.errors import InvalidRequest
from infra.metrics import Metrics
from serving.bodies import MAX_EVENTS, MAX_EVENTS_BYTES, Parsed, parse_many
from serving.library import Library
from serving.slices import SLICE


def parse(body: bytes) -> Parsed:
    return asyncio.run(parse_many(body, lambda value: value))


@pytest.mark.parametrize(
    ("begin", "middle", "end"),
    [(b"", b"{}\n", b""), (b"[", b"[],", b"[]]"), (b"[", b"{},", b"{}]"), (b"[", b"1,", b"1]")],
    ids=["lines", "empty arrays", "empty objects", "numbers"],
)
def test_a_body_of_far_too_many_is_refused_in_a_moment(begin: bytes, middle: bytes, end: bytes) -> None:
    body = begin + middle * (MAX_EVENTS_BYTES // len(middle) - 2) + end
    begin_s = thread_cpu_s()
    with pytest.raises(InvalidRequest) as refused:
        parse(body)
    assert refused.value.reason == "oversized"
    assert thread_cpu_s() - begin_s < 0.5


def test_white_space_between_lines_counts_for_nothing() -> None:
    body = b'\n \n{"a": 1}\r\n' + b"\n \t\n" * MAX_EVENTS + b' {"a": 2} \r\n\n'
    assert parse(body).values == [{"a": 1}, {"a": 2}]
    assert parse(body).places == [0, 1]


def test_as_many_as_may_come_are_taken_in_either_form() -> None:
    events: list[Any] = [{"number": number} for number in range(MAX_EVENTS)]
    assert parse(msgspec.json.encode(events)).values == events
    assert parse(msgspec.json.Encoder().encode_lines(events)).values == events


async def turns_of_the_loop(work: "asyncio.Task[Any]") -> int:
    """How often the loop could do something else until the work was done."""
    turns = 0
    while not work.done():
        await asyncio.sleep(0)
        turns += 1
    work.result()
    return turns


def test_the_loop_goes_on_while_a_large_body_is_taken_apart() -> None:
    async def parse_beside() -> int:
        body = b'{"a": 1}\n' * MAX_EVENTS
        return await turns_of_the_loop(asyncio.create_task(parse_many(body, lambda value: value)))

    assert asyncio.run(parse_beside()) >= MAX_EVENTS // SLICE


def test_the_loop_goes_on_while_a_catalogue_is_taken_over() -> None:
    library, count = Library(Metrics("scorer")), 1_000
    catalogue = Catalogue(Item(item_id=f"n{number}", title=f"Title {number}") for number in range(count))

    async def put_beside() -> int:
        return await turns_of_the_loop(asyncio.create_task(library.put_catalogue(catalogue)))

    assert asyncio.run(put_beside()) >= count // SLICE
    assert library.titles_count == count
