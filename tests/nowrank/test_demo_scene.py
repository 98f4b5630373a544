"""The demo's scene: who is cast, and what counts as moved."""

from nowrank.demo_scene import compare
from serving.contract import RankAnswer, RankedItem, Status


def answer(*item_ids: str) -> RankAnswer:
    status = Status(level="full", store="ok", model="ok", user="fresh")
    items = [RankedItem(item_id=item_id, score=0.0) for item_id in item_ids]
    return RankAnswer(ranking_id="r", model="m", took_ms=1.0, items=items, status=status, candidates=len(items))


def test_the_same_ranking_twice_moves_nothing() -> None:
    [change] = compare({"pre_query": answer("a", "b", "c")}, {"pre_query": answer("a", "b", "c")}, set())
    assert change.moved == []


def test_a_title_that_was_engaged_with_is_no_mover_and_leaves_no_gap() -> None:
    [change] = compare({"pre_query": answer("x", "a", "b")}, {"pre_query": answer("a", "b", "x")}, {"x"})
    assert change.moved == []


def test_titles_that_come_go_or_change_places_are_movers() -> None:
    [change] = compare({"pre_query": answer("a", "b", "c")}, {"pre_query": answer("b", "a", "d")}, set())
    assert sorted(change.moved) == [("a", 1, 2), ("b", 2, 1), ("c", 3, None), ("d", None, 3)]
