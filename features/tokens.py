"""Hashed tokens: text as small integers, the same in training and serving.

Enters: normalised text. Leaves: bucket numbers, 0 for padding. Called by `item_table.py` and `model_inputs.py`.
"""

from zlib import crc32

TEXT_BUCKETS = 1 << 14
GENRE_BUCKETS = 256
COUNTRY_BUCKETS = 64


def text_tokens(text: str, limit: int) -> list[int]:
    """Words first, then character trigrams of each word with its edges marked, at most `limit` buckets in [1,
    TEXT_BUCKETS).
    """
    return _tokens(text.split(), limit, end_marked=True)


def query_tokens(query: str, limit: int) -> list[int]:
    """Like `text_tokens`, for a query whose last word may still be in the typing: its end is not marked."""
    return _tokens(query.split(), limit, end_marked=False)


def genre_token(genre: str) -> int:
    """The bucket of a genre, in [1, GENRE_BUCKETS)."""
    return _bucket(genre.casefold(), GENRE_BUCKETS)


def country_token(country: str | None) -> int:
    """The bucket of a country, in [1, COUNTRY_BUCKETS); 0 when unknown."""
    return 0 if country is None else _bucket(country, COUNTRY_BUCKETS)


def _tokens(words: list[str], limit: int, *, end_marked: bool) -> list[int]:
    marked = [f"^{word}$" for word in words]
    if marked and not end_marked:
        marked[-1] = marked[-1][:-1]
    pieces = [f"w:{word}" for word in words]
    pieces += [f"t:{word[begin : begin + 3]}" for word in marked for begin in range(max(1, len(word) - 2))]
    return [_bucket(piece, TEXT_BUCKETS) for piece in pieces[:limit]]


def _bucket(piece: str, buckets: int) -> int:
    return 1 + crc32(piece.encode()) % (buckets - 1)
