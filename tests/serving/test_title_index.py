"""Titles are found at each keystroke."""

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
    return [TITLES[slot] for slot in INDEX.find(normalise_query(query), strength, limit)]


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
    assert TitleIndex([]).find("star", NO_STRENGTH, 5) == []
