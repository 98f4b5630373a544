"""Titles are found at each keystroke."""

import threading

import numpy as np
import pytest

from features.text import normalise_query
from serving.title_index import TitleIndex

TITLES = [
    "",
    "Star Wars (1977)",
    "Matrix, The (1999)",
    "The Dark Star",
    "Star Trek: First Contact",
    "Alien",
    "Aliens",
    "Ночной поезд",
    "A.I.",
]
INDEX = TitleIndex([normalise_query(title) for title in TITLES])
NO_STRENGTH = np.zeros(len(TITLES), np.float32)


def find(query: str, limit: int = 10, strength: np.ndarray = NO_STRENGTH) -> list[str]:  # type: ignore[type-arg]
    exact, alike = INDEX.find(normalise_query(query), strength, limit)
    return [TITLES[slot] for slot in (*exact, *alike)]


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("s", "Star Wars (1977)"),
        ("star w", "Star Wars (1977)"),
        ("wars", "Star Wars (1977)"),
        ("the matrix", "Matrix, The (1999)"),
        ("1999", "Matrix, The (1999)"),
        ("dark", "The Dark Star"),
        ("contact star", "Star Trek: First Contact"),
        ("alien", "Alien"),
        ("aleins", "Aliens"),
        ("sart wars", "Star Wars (1977)"),
        ("starw", "Star Wars (1977)"),
        ("strawars", "Star Wars (1977)"),
        ("darkst", "The Dark Star"),
        ("ноч", "Ночной поезд"),
        ("a.i", "A.I."),
    ],
)
def test_first_title_is_the_one_that_was_meant(query: str, first: str) -> None:
    assert find(query)[0] == first


def test_titles_that_begin_with_the_query_come_before_those_that_hold_it() -> None:
    assert find("star") == ["Star Wars (1977)", "Star Trek: First Contact", "The Dark Star"]


def test_stronger_titles_come_first_within_a_kind_of_match() -> None:
    strength = NO_STRENGTH.copy()
    strength[4] = 1.0
    assert find("star", strength=strength)[:2] == ["Star Trek: First Contact", "Star Wars (1977)"]


def test_no_title_twice_and_no_more_than_asked_for() -> None:
    found = find("star star", 10)
    assert len(found) == len(set(found))
    assert len(find("s", 1)) == 1


@pytest.mark.parametrize("query", ["", "zz", "q", "(((", "*", "\\", "?" * 256, "a" * 256])
def test_strange_queries_do_no_harm(query: str) -> None:
    assert isinstance(find(query), list)


def test_index_without_titles_finds_nothing() -> None:
    assert TitleIndex().find("star", NO_STRENGTH, 5) == ([], [])


def test_the_exact_title_comes_first_however_weak_it_is() -> None:
    titles = ["", "it", *(f"it came {number}" for number in range(50))]
    strength = np.arange(len(titles), dtype=np.float32)
    strength[1] = -1.0
    exact, _ = TitleIndex(titles).find("it", strength, 5)
    assert exact == [1, 51, 50, 49, 48]
    long = ["", "a title of many words", "a title of many words too"]
    assert TitleIndex(long).find("a title of many words", np.array([0, 1, 2], np.float32), 5).exact == [1, 2]


@pytest.mark.parametrize("query", ["mart", "mat", "maxtr", "mtarix", "amtrix", "matrixx", "teh matrix", "matrix thee"])
def test_one_typing_error_in_a_word_or_its_beginning_is_forgiven(query: str) -> None:
    assert "Matrix, The (1999)" in find(query)


def test_a_title_is_found_by_most_of_its_words_when_none_has_all() -> None:
    assert find("dark star returns") == ["The Dark Star"]
    assert find("nothing of this") == []


def test_changed_titles_are_found_by_what_they_are_now() -> None:
    index = TitleIndex(["", "alien", "brazil"])
    index.put(["", "", "blow up", "casino"], ["", "", " tom hanks"])
    nothing = np.zeros(4, np.float32)

    def found(query: str) -> list[int]:
        return [slot for slots in index.find(query, nothing, 9) for slot in slots]

    assert [found(query) for query in ("alien", "brazil", "blow", "up", "casin", "c")] == [[], [], [2], [2], [3], [3]]
    assert index.find_people("hanks", nothing, 9).exact == [2]
    index.put(["", "", "blow up", "casino"])
    assert index.find_people("hanks", nothing, 9) == ([], [])
    assert found("blow") == [2]


def test_asking_goes_on_while_titles_are_put_in() -> None:
    index, strength = TitleIndex(["", "alien"]), np.zeros(1, np.float32)
    titles = ["", "alien", *(f"title {number}" for number in range(3_000))]
    filling = threading.Thread(target=index.put, args=(titles,))
    filling.start()
    while filling.is_alive():
        assert index.find("alien", strength, 5).exact == [1]
    assert len(index.find("title", strength, 5_000).exact) == 3_000
