"""Query normalisation and hashed tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.text import MAX_QUERY_CHARS, normalise_query
from features.tokens import (
    COUNTRY_BUCKETS,
    GENRE_BUCKETS,
    TEXT_BUCKETS,
    country_token,
    genre_token,
    query_tokens,
    text_tokens,
)


@pytest.mark.parametrize(
    ("typed", "normal"),
    [
        ("Star Wars", "star wars"),
        ("  star \t\n wars ", "star wars"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("ｓｔａｒ", "star"),
        ("cafe\u0301", "café"),
        ("a\x00b\u200bc", "a b c"),
        ("スター・ウォーズ", "スター・ウォーズ"),
        ("", ""),
        (" \u3000\u200d\x07", ""),
    ],
)
def test_a_query_has_one_normal_form(typed: str, normal: str) -> None:
    assert normalise_query(typed) == normal


@given(st.text() | st.text("\ufdfa\u0390\u1e9b\u0323 a", min_size=200, max_size=MAX_QUERY_CHARS))
def test_a_normal_form_is_its_own_normal_form_and_no_longer_than_a_query(text: str) -> None:
    normal = normalise_query(text)
    assert normalise_query(normal) == normal
    assert len(normal) <= MAX_QUERY_CHARS


@given(st.text())
def test_a_normal_form_can_be_encoded_and_has_no_outer_or_double_spaces(text: str) -> None:
    normal = normalise_query(text)
    normal.encode()
    assert normal == normal.strip()
    assert "  " not in normal
    assert "\x00" not in normal


@given(st.text(max_size=40), st.integers(0, 30))
def test_tokens_stay_in_their_buckets_and_leave_zero_for_padding(text: str, limit: int) -> None:
    normal = normalise_query(text)
    for tokens in (text_tokens(normal, limit), query_tokens(normal, limit)):
        assert len(tokens) <= limit
        assert all(1 <= token < TEXT_BUCKETS for token in tokens)
    assert 1 <= genre_token(text.encode("utf-8", "replace").decode()) < GENRE_BUCKETS


def test_words_come_before_trigrams_and_equal_words_share_their_bucket() -> None:
    title, query = text_tokens("star wars", 16), query_tokens("wars", 16)
    assert query[0] == title[1]
    assert len(title) == 2 + 4 + 4


def test_a_word_in_the_typing_shares_its_trigrams_with_the_whole_word() -> None:
    begun = query_tokens("sta", 16)[1:]
    assert set(begun) <= set(text_tokens("star", 16))


def test_only_the_last_word_of_a_query_is_in_the_typing_also_where_it_equals_an_earlier_one() -> None:
    assert query_tokens("a a", 16)[2] == text_tokens("a", 16)[1]


def test_an_unknown_country_is_the_padding_token() -> None:
    assert country_token(None) == 0
    assert 1 <= country_token("NZ") < COUNTRY_BUCKETS
