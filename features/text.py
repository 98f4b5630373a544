"""Normalisation of text: the one that the streams, training and serving share.

Enters: what somebody typed, or a title. Leaves: the same text in its one normal form. Called wherever a query becomes a
key or a feature, and wherever something is compared with one.
"""

import unicodedata

# Of what is typed, and of its normal form: NFKC may make eighteen characters of one.
MAX_QUERY_CHARS = 256


def normalise_text(text: str) -> str:
    """NFKC, case folded, runs of white space as one space; control characters count as white space; '' when nothing is
    left.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    spaced = "".join(" " if unicodedata.category(character)[0] in "CZ" else character for character in folded)
    return " ".join(spaced.split())


def normalise_query(text: str) -> str:
    """A query's normal form: that of its text, up to MAX_QUERY_CHARS."""
    return normalise_text(text)[:MAX_QUERY_CHARS].rstrip()
