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
    words = text.split()
    pieces = [f"w:{word}" for word in words]
    for word in words:
        marked = f"^{word}$"
        pieces += [f"t:{marked[begin : begin + 3]}" for begin in range(max(1, len(marked) - 2))]
    return [_bucket(piece, TEXT_BUCKETS) for piece in pieces[:limit]]


def query_tokens(query: str, limit: int) -> list[int]:
    """Like `text_tokens`, for a query whose last word may still be in the typing: its end is not marked."""
    words = query.split()
    pieces = [f"w:{word}" for word in words]
    for word in words:
        marked = f"^{word}" + ("$" if word is not words[-1] else "")
        pieces += [f"t:{marked[begin : begin + 3]}" for begin in range(max(1, len(marked) - 2))]
    return [_bucket(piece, TEXT_BUCKETS) for piece in pieces[:limit]]


def genre_token(genre: str) -> int:
    """The bucket of a genre, in [1, GENRE_BUCKETS)."""
    return _bucket(genre.casefold(), GENRE_BUCKETS)


def country_token(country: str | None) -> int:
    """The bucket of a country, in [1, COUNTRY_BUCKETS); 0 when unknown."""
    return 0 if country is None else _bucket(country, COUNTRY_BUCKETS)


def _bucket(piece: str, buckets: int) -> int:
    return 1 + crc32(piece.encode()) % (buckets - 1)
