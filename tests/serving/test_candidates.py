"""Where candidates come from when there is nothing, little or much to go by."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.catalogue import Item
from features.engagement import Kind, Task
from features.item import SUMS, ItemState
from features.session import GAP_MS
from features.top_targets import Target, TopTargetsState
from features.user import Moment, UserState
from features.vector import Context
from infra.clock import now_ms
from infra.metrics import Metrics
from model.artifact import load_artifact
from serving.candidates import BUDGETS, MAX_FOUND, Found, find_candidates
from serving.library import Library
from serving.near_cache import ItemRow
from serving.scorer import LoadedModel, Scorer
from tests.serving.world import make_items

CAST = [
    Item(item_id="green", title="The Green Mile", people=("Tom Hanks", "David Morse")),
    Item(item_id="cast", title="Cast Away", people=("Tom Hanks", "Helen Hunt")),
    Item(item_id="hanky", title="Hanky Panky", people=("Gene Wilder",)),
    Item(item_id="none", title="Nobody in It"),
]


@pytest.fixture(scope="module")
def filled(artifact_dir: Path) -> tuple[Scorer, LoadedModel]:
    """A scorer with the world's titles and with CAST, and a model of the world's titles."""
    library = Library(Metrics("scorer"))
    asyncio.run(library.put_artifact_items([*make_items(), *CAST]))
    library.refresh(now_ms())
    artifact = load_artifact(artifact_dir)
    return Scorer(library), LoadedModel(artifact, artifact.encode_items(library.table), library.content_version)


def search(filled: tuple[Scorer, LoadedModel | None], query: str, targets: TopTargetsState | None = None) -> Found:
    scorer, model = filled
    return find_candidates(
        scorer, model, Context(task=Task.SEARCH, now_ms=now_ms(), query=query, query_targets=targets), True
    )


def brought(found: Found, source: str) -> list[str]:
    """The titles of one source: they stand together, in the order of the sources."""
    begin = 0
    for name, count in found.by_source.items():
        if name == source:
            return found.item_ids[begin : begin + count]
        begin += count
    return []


def near(filled: tuple[Scorer, LoadedModel], item_id: str) -> list[str]:
    """All titles by the cosine of their vectors with one title's."""
    scorer, model = filled
    vectors = model.encoded.vectors_VD
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    cosines = units @ units[scorer.library.table.slot_by_id[item_id]]
    ids = [scorer.library.table.ids[slot] for slot in np.argsort(-cosines, kind="stable") if cosines[slot] > 0]
    return [other for other in ids if other != item_id]


@pytest.mark.parametrize("query", ["tom hanks", "hanks", "hanks tom", "tom han", "tom hnaks", "tim hanks"])
def test_a_persons_titles_are_found_by_the_name_also_with_a_typing_error(
    filled: tuple[Scorer, LoadedModel], query: str
) -> None:
    assert set(brought(search(filled, query), "people")) == {"green", "cast"}


def test_titles_that_match_come_before_those_of_a_person(filled: tuple[Scorer, LoadedModel]) -> None:
    found = search(filled, "hank")
    assert found.item_ids[0] == "hanky"
    assert set(brought(found, "people")) == {"green", "cast"}


def test_a_title_forgets_its_people_when_they_are_taken_out() -> None:
    library = Library(Metrics("scorer"))
    asyncio.run(library.put_artifact_items(CAST))
    library.refresh(now_ms())
    assert brought(search((Scorer(library), None), "gene wilder"), "people") == ["hanky"]
    asyncio.run(
        library.put_artifact_items([Item(item_id="hanky", title="Hanky Panky"), Item(item_id="new", title="New Gene")])
    )
    library.refresh(now_ms())
    found = search((Scorer(library), None), "gene")
    assert brought(found, "people") == []
    assert brought(found, "title") == ["new"]


def test_what_members_went_for_after_the_query_brings_what_is_near_to_it(filled: tuple[Scorer, LoadedModel]) -> None:
    targets = TopTargetsState(
        targets={"t7": Target(now_ms(), [0, 3, 3], [0.0, 3.0, 3.0]), "t8": Target(now_ms(), [9, 0, 0], [9.0, 0.0, 0.0])}
    )
    found = search(filled, "a title that nobody has", targets)
    assert brought(found, "query") == ["t7", "t8"]
    expected = [item_id for item_id in near(filled, "t7") if item_id not in brought(found, "title")]
    assert expected
    assert brought(found, "related") == expected[: BUDGETS[Task.SEARCH]["related"]]


def test_a_title_that_is_only_spelled_alike_brings_what_is_near_to_it(filled: tuple[Scorer, LoadedModel]) -> None:
    found = search(filled, "cats awya")
    assert brought(found, "title") == ["cast"]
    assert brought(found, "related") == near(filled, "cast")[: BUDGETS[Task.SEARCH]["related"]]
    assert brought(search(filled, "cast away"), "related") == []


def test_the_newest_titles_of_a_session_bring_what_members_went_to_next(filled: tuple[Scorer, LoadedModel]) -> None:
    at_ms = now_ms()
    session = [Moment(at_ms - age_ms, age_ms, int(Kind.CLICK), item_id) for item_id, age_ms in (("t1", 9), ("t2", 8))]
    rows = {
        "t1": TopTargetsState(targets={"t5": Target(at_ms, [0, 2, 0], [0.0, 2.0, 0.0])}),
        "t2": TopTargetsState(
            targets={
                "t3": Target(at_ms, [0, 2, 0], [0.0, 2.0, 0.0]),
                "t4": Target(at_ms, [90, 0, 0], [90.0, 0.0, 0.0]),
                "t6": Target(at_ms, [0, 1, 0], [0.0, 1.0, 0.0]),
            }
        ),
    }
    user = UserState(recents={"clicks-0": session})
    context = Context(task=Task.PRE_QUERY, now_ms=at_ms, user=user, source_rows=rows)
    found = find_candidates(*filled, context, False)
    assert brought(found, "session_row") == ["t3", "t5", "t6"]  # of each row in turn; t4 was only shown
    assert brought(find_candidates(*filled, replace(context, now_ms=at_ms + GAP_MS), False), "session_row") == []


def test_the_row_of_the_requests_source_is_not_asked_twice(filled: tuple[Scorer, LoadedModel]) -> None:
    at_ms = now_ms()
    row = TopTargetsState(targets={f"t{one}": Target(at_ms, [0, 1, 0], [0.0, 1.0, 0.0]) for one in range(3, 9)})
    user = UserState(recents={"clicks-0": [Moment(at_ms, 1, int(Kind.CLICK), "t2")]})
    asked = Context(task=Task.MORE_LIKE_THIS, now_ms=at_ms, user=user, source_item_id="t2", source_rows={"t2": row})
    assert brought(find_candidates(*filled, asked, False), "session_row") == []
    assert brought(find_candidates(*filled, replace(asked, source_item_id="t1"), False), "session_row")


@pytest.mark.parametrize("task", Task)
def test_no_source_is_left_without_room(task: Task) -> None:
    assert sum(BUDGETS[task].values()) <= MAX_FOUND


def test_a_query_that_is_like_nothing_still_gets_titles(filled: tuple[Scorer, LoadedModel]) -> None:
    found = search(filled, "qqqqqqqq")
    assert found.by_source["title"] == found.by_source["related"] == 0
    assert found.by_source["trending"] > 0


def test_of_many_titles_that_begin_alike_the_strongest_are_found() -> None:
    library, many = Library(Metrics("scorer")), 3 * BUDGETS[Task.SEARCH]["title"]
    asyncio.run(
        library.put_artifact_items(Item(item_id=f"n{number}", title=f"same {number}") for number in range(many))
    )
    strong = ItemState(as_of_ms=now_ms(), sums=[5.0] * len(SUMS))
    library.put_rows([ItemRow(f"n{many - 1}", strong, b"", None)])
    library.refresh(now_ms())
    found = search((Scorer(library), None), "same")
    assert found.item_ids[0] == f"n{many - 1}"
    assert found.by_source["title"] == BUDGETS[Task.SEARCH]["title"]
