"""Titles near to others are found by the product and by the graph alike."""

from itertools import islice

import numpy as np

from serving.vector_index import VectorIndex

TITLES, WANTED = 600, 20


def vectors(seed: int = 0) -> np.ndarray:  # type: ignore[type-arg]
    found = np.random.default_rng(seed).standard_normal((TITLES, 16), np.float32)
    found[0] = 0.0
    return found


def with_graph(vectors_VD: np.ndarray) -> VectorIndex:  # type: ignore[type-arg]
    index = VectorIndex(graph_from=1)
    index.put(vectors_VD)
    assert index.wait_for_graph(60.0)
    assert index.has_graph
    return index


def first(index: VectorIndex, slots: list[int], wanted: int = WANTED) -> list[int]:
    return list(islice(index.nearest(slots, wanted), wanted))


def test_the_nearest_are_those_of_the_greatest_cosine() -> None:
    index, given = VectorIndex(), vectors()
    index.put(given)
    assert not index.has_graph
    units = given / np.maximum(np.linalg.norm(given, axis=1, keepdims=True), 1e-9)
    cosines = units @ (units[3] + units[4])
    cosines[[3, 4]] = -2.0
    assert first(index, [3, 4]) == np.argsort(-cosines, kind="stable")[:WANTED].tolist()


def test_the_graph_finds_nearly_all_that_the_product_finds() -> None:
    exact, graph = VectorIndex(), with_graph(vectors())
    exact.put(vectors())
    for slot in range(1, 40):
        assert len(set(first(exact, [slot])) & set(first(graph, [slot]))) >= 0.9 * WANTED


def test_a_changed_vector_and_a_new_title_are_found_where_they_are_now() -> None:
    before = vectors()
    graph = with_graph(before)
    after = np.concatenate([before, before[7:8]])
    after[9] = before[7] * 3
    after[11] = 0.0
    graph.put(after)
    assert graph.wait_for_graph(60.0)
    assert set(first(graph, [7], 2)) == {9, TITLES}
    assert 11 not in first(graph, [7], TITLES)


def test_nothing_is_near_to_nothing() -> None:
    for index in (VectorIndex(), with_graph(vectors())):
        assert first(index, []) == []
        assert first(index, [0]) == []
        assert first(index, [TITLES + 5]) == []


def test_a_closed_index_is_filled_no_further_and_answers_by_the_product() -> None:
    index = VectorIndex(graph_from=1)
    index.close()
    index.put(vectors())
    assert index.wait_for_graph(60.0)
    assert not index.has_graph
    assert len(first(index, [3])) == WANTED
