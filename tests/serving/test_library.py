"""What the library offers: the catalogue's titles as they are now."""

import asyncio

import pytest

from features.catalogue import Catalogue, Item
from features.engagement import Task
from features.item import SUMS, ItemState
from features.rows import encode_contained
from infra.clock import now_ms
from infra.metrics import Metrics
from serving.candidates import BUDGETS
from serving.library import MAX_NEW, TURN_MS, Library
from serving.near_cache import ItemRow

DAY_MS = 86_400_000


def titles(name: str, count: int, **fields: object) -> list[Item]:
    return [Item(item_id=f"{name}{number}", title=f"Title {number}", **fields) for number in range(count)]  # type: ignore[arg-type]


def idle_row(item_id: str) -> ItemRow:
    state = ItemState(as_of_ms=now_ms(), sums=[0.0] * len(SUMS))
    return ItemRow(item_id, state, encode_contained({"deltas-0": 1}), None)


def played_row(item_id: str, as_of_ms: int, total: float = 5.0) -> ItemRow:
    return ItemRow(item_id, ItemState(as_of_ms=as_of_ms, sums=[total] * len(SUMS)), encode_contained({}), None)


def fill(library: Library, *items: Item) -> None:
    asyncio.run(library.put_catalogue(Catalogue(items)))
    library.refresh(now_ms())


def new_ids(library: Library) -> list[str]:
    return [library.table.ids[slot] for slot in library.new_slots]


@pytest.fixture
def library() -> Library:
    return Library(Metrics("scorer"))


def test_new_titles_are_offered_however_many_cannot_be(library: Library) -> None:
    asyncio.run(library.put_artifact_items(titles("removed", MAX_NEW)))
    library.put_rows([idle_row("only-a-row")])
    later, new = titles("later", MAX_NEW, available_from_ms=now_ms() + DAY_MS), titles("new", 3, countries=("DE",))
    fill(library, *titles("deleted", MAX_NEW, deleted=True), *later, *new)
    assert set(new_ids(library)) == {"new0", "new1", "new2"}


def test_a_title_that_has_just_come_is_offered_before_the_many_that_wait_and_these_have_their_turn(
    library: Library,
) -> None:
    waiting = titles("waiting", 300)
    fill(library, *waiting, *titles("just-come", 1))
    assert new_ids(library)[0] == "just-come0"
    offered: set[str] = set()
    for turn in range(300):
        library.refresh(now_ms() + turn * TURN_MS)
        offered.update(new_ids(library)[: BUDGETS[Task.PRE_QUERY]["new"]])
    assert offered == {item.item_id for item in waiting} | {"just-come0"}


def test_what_is_new_stays_the_same_for_a_turn(library: Library) -> None:
    at_ms = 1_000 * TURN_MS
    asyncio.run(library.put_catalogue(Catalogue(titles("t", 300))))
    offered = []
    for shift_ms in (0, TURN_MS - 1, TURN_MS):
        library.refresh(at_ms + shift_ms)
        offered.append(new_ids(library))
    assert offered[0] == offered[1] != offered[2]


@pytest.mark.parametrize(("ahead_ms", "total"), [(2**63, 5.0), (10**15, 5.0), (0, 3e38), (0, 1e300)])
def test_one_bad_row_takes_no_others_away_and_its_end_leaves_the_totals_as_they_were(
    library: Library, ahead_ms: int, total: float
) -> None:
    at_ms = now_ms()
    library.put_rows([played_row("t1", at_ms)])
    alone = library.table.totals.priors(at_ms)
    library.put_rows([played_row("bad", at_ms + ahead_ms, total), played_row("t2", at_ms)])
    both = library.table.totals.priors(at_ms)
    assert library.rows_count == 3
    library.put_rows([ItemRow("bad", ItemState(), b"", None)])
    assert library.table.totals.priors(at_ms) == both
    library.put_rows([ItemRow("t2", ItemState(), b"", None)])
    assert library.table.totals.priors(at_ms) == pytest.approx(alone)


def test_titles_without_a_catalogue_may_be_new(library: Library) -> None:
    library.put_rows([idle_row("t1")])
    library.refresh(now_ms())
    assert new_ids(library) == list(library.table.slot_by_id)


def test_the_last_title_that_is_removed_is_no_longer_recommended(library: Library) -> None:
    catalogue = Catalogue(titles("t", 1))
    asyncio.run(library.put_catalogue(catalogue))
    slot = library.table.slot_by_id["t0"]
    assert library.may_recommend(slot, None, now_ms())
    catalogue.remove("t0")
    asyncio.run(library.put_catalogue(catalogue))
    assert not library.may_recommend(slot, None, now_ms())


def test_titles_of_an_artifact_stay_until_a_catalogue_was_read(library: Library) -> None:
    asyncio.run(library.put_artifact_items(titles("t", 2)))
    asyncio.run(library.put_catalogue(Catalogue()))
    assert library.titles_count == 2


def test_titles_stay_while_the_topic_was_made_anew_and_holds_none_yet(library: Library) -> None:
    catalogue = Catalogue(titles("old", 2))
    asyncio.run(library.put_catalogue(catalogue))
    catalogue.replace(Catalogue())
    asyncio.run(library.put_catalogue(catalogue))
    assert library.titles_count == 2
    catalogue.put(titles("new", 1)[0])
    asyncio.run(library.put_catalogue(catalogue))
    assert [item.item_id for item in library.table.items if item is not None] == ["new0"]
